"""Small files of the agent's data directory that only its user may read."""

from __future__ import annotations

import os
from pathlib import Path

from attestream.errors import ConfigError

MODE = 0o600


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step, mode 0600: a crash leaves the old file or the new one.

    :raises ConfigError: when the directory can not be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can not be written: {error.strerror}", remedy="Check the agent's `data_dir`.") from error


def read_private(path: Path, limit: int) -> bytes | None:
    """Return the content of ``path``, or ``None`` when there is no such file.

    :raises ConfigError: when it can not be read or has more than ``limit`` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror}", remedy="Check the agent's `data_dir`.") from error
    if len(data) > limit:
        raise ConfigError(f"{path} has more than {limit} bytes", remedy="It is damaged: restore it or remove it.")
    return data
