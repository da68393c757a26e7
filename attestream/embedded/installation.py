"""The data directory of an installation on one machine: its layout, and how it is made.

Nothing in it is ever overwritten. The directory is its owner's alone (mode 0700), and so is every secret in it (0600).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

from attestream.config import FILE_NAME
from attestream.errors import ConfigError

SECRET_BYTES: Final = 32
"""Length of the cluster secret."""


class Installation(NamedTuple):
    """The places in a data directory."""

    directory: Path

    @property
    def config_file(self) -> Path:
        """The configuration of all services."""
        return self.directory / FILE_NAME

    @property
    def cluster_secret(self) -> Path:
        """What nonces are made from."""
        return self.directory / "keys" / "cluster.secret"

    @property
    def signing_key(self) -> Path:
        """The private key that signs revocations."""
        return self.directory / "keys" / "revocation.pem"

    @property
    def trusted_keys(self) -> Path:
        """Directory of the public keys whose revocations are believed."""
        return self.directory / "trusted"

    @property
    def ek_store(self) -> Path:
        """Directory of the TPM makers' CA certificates."""
        return self.directory / "ek-store"

    @property
    def bus(self) -> Path:
        """Directory of the embedded bus: its streams and its log."""
        return self.directory / "bus"

    @property
    def lock_file(self) -> Path:
        """Locked while `attestream up` runs."""
        return self.directory / "up.lock"

    @property
    def url_file(self) -> Path:
        """Holds the URL of the embedded bus while it runs."""
        return self.directory / "bus.url"

    @property
    def exists(self) -> bool:
        """Whether the directory has been initialised."""
        return self.config_file.exists()


def initialise(directory: Path, *, accept_ek: Literal["any", "certificate"], port: int) -> list[Path]:
    """Make the data directory, its keys and its configuration, and return what was made.

    :raises ConfigError: when one of its files exists already, or can not be made.
    """
    from attestream.signing import Signer  # only an initialisation needs cryptography

    place = Installation(directory.absolute())
    public_key = place.trusted_keys / "revocation.pem"
    for path in (place.config_file, place.cluster_secret, place.signing_key, public_key):
        if path.exists():
            raise ConfigError(
                f"{path} exists already, and nothing is overwritten",
                remedy="Choose another --data-dir, or move this one away.",
            )
    try:
        for folder in (place.directory, place.signing_key.parent, place.trusted_keys, place.ek_store, place.bus):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.directory.chmod(0o700)
        _write_new(place.cluster_secret, secrets.token_bytes(SECRET_BYTES), 0o600)
        signer = Signer.generate(place.signing_key)
        _write_new(public_key, signer.public_pem.encode(), 0o644)
        # Last, so that an interrupted initialisation does not look finished.
        _write_new(place.config_file, _TEMPLATE.format(port=port, accept_ek=accept_ek).encode(), 0o600)
    except OSError as error:
        raise ConfigError(f"can not initialise {directory}: {error}") from error
    return [place.config_file, place.cluster_secret, place.signing_key, public_key, place.ek_store, place.bus]


@contextmanager
def locked(place: Installation) -> Iterator[None]:
    """Hold the installation for one `attestream up`. The kernel lets go when the process ends, however it ends.

    :raises ConfigError: when another process holds it.
    """
    descriptor = os.open(place.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"{place.directory} is in use by another `attestream up` (process {holder})",
                remedy="Stop that one first, or choose another --data-dir.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


_TEMPLATE: Final = """\
# Configuration of this Attestream installation. Paths are relative to this file.
# Every setting and its default is described in docs/ and in attestream/config.py.
# A variable ATTESTREAM_<SECTION>_<KEY> overrides the setting of that section and key.

[bus]
urls = ["nats://127.0.0.1:{port}"]

[log]
level = "info"

[registrar]
database_url = "sqlite:///registrar.db"
# "certificate": only TPMs whose endorsement key has a certificate by a CA in ek_store may enrol.
# "any": every TPM may, and nothing shows that it is a real one.
accept_ek = "{accept_ek}"
ek_store = "ek-store"

[verifier]
database_url = "sqlite:///verifier.db"
cluster_secret_file = "keys/cluster.secret"

[notifier]
signing_key_file = "keys/revocation.pem"

# [[notifier.webhooks]]
# name = "siem"
# url = "https://siem.example/attestream"
"""
