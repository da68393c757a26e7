"""Where things are in the directory of an installation."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from attestream.config import FILE_NAME
from attestream.errors import ConfigError
from schemas.accounts import account_of
from schemas.roles import Role

SYSTEM: Final = "system"
"""Name of the credentials of the bus's own account."""

IDENTIFIED: Final = "identified"
"""Word after the URL in ``bus.url`` of an installation whose bus asks who is there."""

_LOOKS: Final = 10
_LOOK_S: Final = 0.02


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
    def cluster_secret_before(self) -> Path:
        """What nonces were made from until the secret was replaced last."""
        return self.cluster_secret.with_name(f"{self.cluster_secret.name}.before")

    @property
    def root_key(self) -> Path:
        """The private key that signs the roster. It can be kept away from this machine."""
        return self.directory / "keys" / "root.pem"

    @property
    def root_next(self) -> Path:
        """The next root key, while a rotation is under way."""
        return self.directory / "keys" / "root-next.pem"

    @property
    def signing_key(self) -> Path:
        """The private key that signs revocations."""
        return self.directory / "keys" / "revocation.pem"

    def service_key(self, role: Role) -> Path:
        """Return where the private key is with which a service signs."""
        return self.signing_key if role is Role.NOTIFIER else self.directory / "keys" / f"{role}.pem"

    @property
    def trusted_keys(self) -> Path:
        """Directory of what consumers are given: the root's public key, and those whose revocations are believed."""
        return self.directory / "trusted"

    @property
    def root_public(self) -> Path:
        """The root's public key: all that a consumer has to be told."""
        return self.trusted_keys / "root.pem"

    @property
    def retired_keys(self) -> Path:
        """Directory of the public keys of former roots: for what they have signed, and nothing that comes."""
        return self.trusted_keys / "retired"

    @property
    def roster(self) -> Path:
        """The roster in its signed envelope, as it is in the bucket."""
        return self.trusted_keys / "roster"

    @property
    def bus_keys(self) -> Path:
        """Directory of the NKeys that vouch for identities on the bus, and of the tokens that they have signed."""
        return self.directory / "bus-keys"

    @property
    def operator_seed(self) -> Path:
        """The bus operator's own key. It can be kept away from this machine."""
        return self.bus_keys / "operator.seed"

    @property
    def operator_signing_seed(self) -> Path:
        """The operator's key for daily use: it signs accounts, and with them revocations."""
        return self.bus_keys / "operator-signing.seed"

    @property
    def operator_next_seed(self) -> Path:
        """The operator's next key for daily use, while servers are still to learn of it."""
        return self.bus_keys / "operator-signing-next.seed"

    @property
    def operator_token(self) -> Path:
        """The operator's token, part of every server's configuration."""
        return self.bus_keys / "operator.jwt"

    def account_token(self, role: Role) -> Path:
        """Return where the token of the account of ``role`` is, as it was when it was last made here."""
        return self.bus_keys / "accounts" / f"{account_of(role)}.jwt"

    @property
    def system_token(self) -> Path:
        """The token of the bus's own account."""
        return self.bus_keys / "system-account.jwt"

    def issuer(self, role: Role) -> Path:
        """Return where the key is that issues identities of ``role``."""
        return self.bus_keys / "issuers" / f"{role}.seed"

    @property
    def system_issuer(self) -> Path:
        """The key that issues identities of the bus's own account."""
        return self.bus_keys / "issuers" / f"{SYSTEM}.seed"

    @property
    def credentials_directory(self) -> Path:
        """Directory of the identities of services, one file for each role."""
        return self.directory / "credentials"

    def credentials(self, role: Role) -> Path:
        """Return where the identity of a service is."""
        return self.credentials_directory / f"{role}.creds"

    @property
    def system_credentials(self) -> Path:
        """The identity with which the registrar changes the account on running servers."""
        return self.credentials_directory / f"{SYSTEM}.creds"

    @property
    def operators(self) -> Path:
        """Directory of people's identities: one directory each, to be handed over and then removed here."""
        return self.directory / "operators"

    def operator(self, name: str) -> Path:
        """Return the directory of one person's identity: ``bus.creds`` and ``signing.pem``."""
        return self.operators / name

    @property
    def tls(self) -> Path:
        """Directory of the certificates."""
        return self.directory / "tls"

    @property
    def ca_file(self) -> Path:
        """The certificate of the installation's authority: what clients of the bus are given."""
        return self.tls / "ca.pem"

    @property
    def servers(self) -> Path:
        """Directory of the bus servers' configurations, one directory for each server."""
        return self.directory / "servers"

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
        """Holds the URL of the embedded bus while it runs, and :data:`IDENTIFIED`; :func:`running_bus` reads it."""
        return self.directory / "bus.url"

    @property
    def exists(self) -> bool:
        """Whether the directory has been initialised."""
        return self.config_file.exists()


@contextmanager
def locked(place: Installation) -> Iterator[None]:
    """Hold the installation for one `attestream up`. The kernel lets go when the process ends, however it ends.

    :raises ConfigError: when another process holds it.
    """
    descriptor = os.open(place.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            _take(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"{place.directory} is in use by another `attestream up` (process {holder})",
                remedy="Stop that one first, or choose another --data-dir.",
            ) from error
        # One that was killed has left where its bus was, and whether that asked who is there.
        place.url_file.unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_bus(place: Installation) -> tuple[str, bool] | None:
    """Return the URL of the bus that `attestream up` runs here now, and whether that asks who is there; ``None``: none runs.
    What one that was killed has left behind is not believed."""
    try:
        descriptor = os.open(place.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # Read only now: whoever holds it has begun by taking away what another had left.
            url, *notes = place.url_file.read_text(encoding="ascii").split()
            return url, IDENTIFIED in notes
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    return None


def _take(descriptor: int) -> None:
    """Lock a file. Who only looks whether it is locked holds it for a moment.

    :raises BlockingIOError: another process holds it.
    """
    for _ in range(_LOOKS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
