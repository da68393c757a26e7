"""Files of an installation: private, whole or not there, and never overwritten by accident."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from attestream.errors import ConfigError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
MAX_FILE_BYTES: Final = 16 << 20
"""Largest file that is read, in bytes: the token of an account with a long list of revocations."""


def make_directory(path: Path) -> None:
    """Make a directory that is its owner's alone, or see that it is.

    :raises ConfigError: it belongs to somebody else.
    :raises OSError: it can not be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user", remedy="Run the command as the owner of the installation.")
    path.chmod(0o700)


def write_new(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that must not exist.

    :raises ConfigError: it exists.
    :raises OSError: it can not be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise already(path) from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file in the place of another one; whoever reads it finds the old or the new one, whole.

    :raises OSError: it can not be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_new(beside, data, mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path, what: str) -> str:
    """Return the text of a file that nobody but its owner may read. ``what`` names it to the user.

    :raises ConfigError: it is missing, can be read by others, or is no text.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what} is not here ({path})",
            remedy=f"If it is kept away from this machine, put it back as {path} for this command.",
        ) from error
    except OSError as error:
        raise ConfigError(f"{what} can not be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o})", remedy=f"Run `chmod 600 {path}`.")
    return read_text(path, what)


def read_text(path: Path, what: str) -> str:
    """Return the text of a file.

    :raises ConfigError: it can not be read, is too large, or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what} can not be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text") from error


def already(path: Path) -> ConfigError:
    """Return the error about a file that exists."""
    return ConfigError(
        f"{path} exists already, and nothing is overwritten",
        remedy="Choose another --data-dir, or move this one away; an `init` that was interrupted is begun anew.",
    )
