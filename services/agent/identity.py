"""Who the agent is, kept in its data directory: id, transport key, and what it is enrolled with."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attestream.errors import ConfigError
from services.agent.private_file import read_private, write_private

FILE_NAME: Final = "identity.key"
_LIMIT: Final = 65_536


class Identity(msgspec.Struct, frozen=True):
    """The content of ``identity.key`` (mode 0600)."""

    agent_id: str
    transport_private: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """X25519 private key, 32 bytes."""
    enrolment: int = 0
    """Number of the enrolment; 0: not enrolled."""
    ak_public: bytes = b""
    """TPM2B_PUBLIC of the AK that was enrolled."""

    @property
    def transport_public(self) -> bytes:
        """X25519 public key, 32 bytes."""
        return X25519PrivateKey.from_private_bytes(self.transport_private).public_key().public_bytes_raw()

    @property
    def transport_digest(self) -> bytes:
        """SHA-256 of the public transport key, as quotes bind it."""
        return hashlib.sha256(self.transport_public).digest()


def load(data_dir: Path, agent_id: str) -> Identity:
    """Return the stored identity; make and store one when there is none, or when it belongs to another id than ``agent_id``.

    :param agent_id: as configured; empty: the stored one, or a new UUID.
    :raises ConfigError: when the data directory can not be used or the stored identity is damaged.
    """
    path = data_dir / FILE_NAME
    data = read_private(path, _LIMIT)
    if data is not None:
        try:
            stored = msgspec.msgpack.decode(data, type=Identity)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is damaged", remedy="Restore it, or remove it to enrol anew.") from error
        if agent_id in ("", stored.agent_id):
            return stored
    made = Identity(
        agent_id=agent_id or str(uuid.uuid4()), transport_private=X25519PrivateKey.generate().private_bytes_raw()
    )
    store(data_dir, made)
    return made


def store(data_dir: Path, identity: Identity) -> None:
    """Keep ``identity``.

    :raises ConfigError: when the data directory can not be written.
    """
    write_private(data_dir / FILE_NAME, msgspec.msgpack.encode(identity))
