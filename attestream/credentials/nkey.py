"""NKeys: Ed25519 keys in the bus's own text form.

The form is base32 without padding over a prefix byte (two for a seed), the 32 bytes of the key, and their CRC-16/XMODEM in
little-endian order (``nats-io/nkeys``, "Public Key Notation").
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestream.errors import MalformedError, SignatureError

KEY_BYTES: Final = 32
_PUBLIC: Final = re.compile(r"[A-Z2-7]{56}\Z", re.ASCII)
_SEED: Final = re.compile(r"S[A-Z2-7]{57}\Z", re.ASCII)
_SEED_PREFIX: Final = 18 << 3


class Kind(enum.IntEnum):
    """What a key stands for; the value is its prefix byte."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


class NKey:
    """A private key. Its ``repr`` shows the public half alone."""

    __slots__ = ("_private", "kind", "public")

    def __init__(self, kind: Kind, private: bytes) -> None:
        """Take the 32 private bytes of a key.

        :raises MalformedError: there are not 32.
        """
        if len(private) != KEY_BYTES:
            raise MalformedError(f"an NKey has {KEY_BYTES} private bytes, not {len(private)}")
        self.kind: Final = kind
        self._private: Final = Ed25519PrivateKey.from_private_bytes(private)
        self.public: Final = encode_public(kind, self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, kind: Kind) -> NKey:
        """Return a new key."""
        return cls(kind, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed(cls, seed: str) -> NKey:
        """Return the key that ``seed`` holds.

        :raises MalformedError: it is not a seed; the text itself is never repeated.
        """
        if not _SEED.match(seed):
            raise MalformedError("not an NKey seed: 58 characters of base32 that begin with S")
        raw = _checked(seed)
        if raw[0] & 0xF8 != _SEED_PREFIX:
            raise MalformedError("not an NKey seed: its first byte is another")
        prefix = ((raw[0] & 7) << 5) | (raw[1] >> 3)
        return cls(_kind(prefix), raw[2:])

    @property
    def seed(self) -> str:
        """The private key as text; a secret."""
        head = bytes([_SEED_PREFIX | (self.kind >> 5), (self.kind & 31) << 3])
        return _text(head + self._private.private_bytes_raw())

    def private_bytes(self) -> bytes:
        """Return the 32 private bytes; a secret."""
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature over ``data``."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"NKey({self.public})"


def encode_public(kind: Kind, key: bytes) -> str:
    """Return the text of a public key."""
    return _text(bytes([kind]) + key)


def decode_public(text: str, kind: Kind) -> bytes:
    """Return the 32 bytes of a public key that must be of ``kind``.

    :raises MalformedError: it is not one.
    """
    if not _PUBLIC.match(text):
        raise MalformedError(f"not a public NKey: {text[:64]!r}")
    raw = _checked(text)
    if raw[0] != kind:
        raise MalformedError(f"{text} is not the public NKey of an {kind.name.lower()}")
    return raw[1:]


def verify(public: str, kind: Kind, signature: bytes, data: bytes) -> None:
    """Check the signature over ``data`` by the key ``public``.

    :raises MalformedError: ``public`` is not a key of ``kind``.
    :raises SignatureError: the signature is wrong.
    """
    try:
        Ed25519PublicKey.from_public_bytes(decode_public(public, kind)).verify(signature, data)
    except InvalidSignature as error:
        raise SignatureError(f"the signature of {public} does not verify") from error


def _text(body: bytes) -> str:
    return base64.b32encode(body + _crc(body)).rstrip(b"=").decode("ascii")


def _checked(text: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise MalformedError("not an NKey: it is no base32") from error
    body, crc = raw[:-2], raw[-2:]
    if _crc(body) != crc or _text(body) != text:
        raise MalformedError("not an NKey: its check sum is wrong")
    return body


def _kind(prefix: int) -> Kind:
    try:
        return Kind(prefix)
    except ValueError as error:
        raise MalformedError(f"no NKey is of kind {prefix}") from error


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")
