"""The keys of an installation in one file under a passphrase: scrypt (RFC 7914) and ChaCha20-Poly1305 (RFC 8439)."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from attestream.errors import ConfigError, MalformedError, SignatureError

MIN_PASSPHRASE: Final = 12
"""Fewest characters of a passphrase."""

MAX_BYTES: Final = 16 << 20
MAX_FILE_BYTES: Final = MAX_BYTES + 1024
"""What that is at most when it is encrypted."""

_HEADER: Final = b"attestream/keys/1\n"
_SALT: Final = 16
_NONCE: Final = 12
_SCRYPT_N: Final = 1 << 17
"""128 MiB and some 0.3 s for each guess."""


class KeyFile(msgspec.Struct, frozen=True, array_like=True):
    """A file: its path within the data directory, its mode, and what it holds."""

    path: str
    mode: int
    data: bytes


def seal(files: list[KeyFile], passphrase: str) -> bytes:
    """Return ``files`` encrypted.

    :raises ConfigError: the passphrase is too short, or the files are larger than 16 MiB.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise ConfigError(f"a passphrase for keys has {MIN_PASSPHRASE} characters or more")
    plain = msgspec.msgpack.encode(files)
    if len(plain) > MAX_BYTES:
        raise ConfigError(f"the keys have {len(plain)} bytes; a backup takes {MAX_BYTES}")
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    head = _HEADER + salt + nonce
    return head + ChaCha20Poly1305(_key(passphrase, salt)).encrypt(nonce, plain, head)


def unseal(data: bytes, passphrase: str) -> list[KeyFile]:
    """Return the files that :func:`seal` encrypted.

    :raises MalformedError: ``data`` is something else.
    :raises SignatureError: the passphrase is another one, or ``data`` was altered.
    """
    start = len(_HEADER)
    if not data.startswith(_HEADER) or not start + _SALT + _NONCE < len(data) <= MAX_FILE_BYTES:
        raise MalformedError("not the keys of a backup")
    salt, nonce = data[start : start + _SALT], data[start + _SALT : start + _SALT + _NONCE]
    head, body = data[: start + _SALT + _NONCE], data[start + _SALT + _NONCE :]
    try:
        plain = ChaCha20Poly1305(_key(passphrase, salt)).decrypt(nonce, body, head)
    except InvalidTag as error:
        raise SignatureError(
            "the keys can not be decrypted: the passphrase is wrong, or the file was altered",
            remedy="Give the passphrase with which the backup was made.",
        ) from error
    try:
        return msgspec.msgpack.decode(plain, type=list[KeyFile])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the keys of the backup can not be read: {error}") from error


def collect(directory: Path, names: list[str]) -> list[KeyFile]:
    """Return the regular files below those of ``names`` that exist in ``directory``; links are passed over.

    :raises ConfigError: one can not be read.
    """
    found = []
    for name in names:
        base = directory / name
        for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
            if path.is_symlink() or not path.is_file():
                continue
            try:
                mode = path.stat().st_mode & 0o777
                found.append(KeyFile(path.relative_to(directory).as_posix(), mode, path.read_bytes()))
            except OSError as error:
                raise ConfigError(f"{path} can not be read: {error.strerror}") from error
    return found


def put_back(files: list[KeyFile], directory: Path) -> list[Path]:
    """Write ``files`` into ``directory``, which must not hold them yet, and return where they are.

    :raises MalformedError: a path leads out of the directory.
    :raises ConfigError: a file exists already, or can not be written.
    """
    targets = [(_inside(directory, file.path), file) for file in files]
    for target, _ in targets:
        if os.path.lexists(target):
            raise ConfigError(f"{target} exists already, and nothing is overwritten", remedy="Choose another --data-dir.")
    try:
        for target, file in targets:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(target, flags, file.mode & 0o700), "wb") as out:
                out.write(file.data)
                out.flush()
                os.fchmod(out.fileno(), file.mode & 0o755)
                os.fsync(out.fileno())
    except OSError as error:
        raise ConfigError(f"the keys can not be put back: {error}") from error
    return [target for target, _ in targets]


def _inside(directory: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or any(part in ("..", ".") for part in parts) or "\x00" in name:
        raise MalformedError(f"the backup names a key file outside the data directory: {name[:80]!r}")
    return directory.joinpath(*parts)


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(passphrase.encode(errors="surrogateescape"))
