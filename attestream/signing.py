"""Signed envelopes: the notifier signs what others act upon, and receivers open it with keys that they trust.

The signature covers ``schemas.events.signed_bytes(algorithm, payload)``: the purpose and the algorithm are part of what is
signed, so that a signature is of no use elsewhere. Ed25519 is RFC 8032; ``rsa-pss-sha256`` is RFC 8017 section 8.1 with
SHA-256 for the hash and MGF1 and a salt of 32 bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key

from attestream.errors import ConfigError, MalformedError, SignatureError, UnsupportedError
from schemas.base import Message, SchemaError, decode, encode
from schemas.events import Signed, signed_bytes

Algorithm = Literal["ed25519", "rsa-pss-sha256"]

ED25519: Final = "ed25519"
RSA_PSS_SHA256: Final = "rsa-pss-sha256"

MAX_PEM_BYTES: Final = 65_536
"""Largest key file that is read, in bytes."""

_RSA_BITS: Final = 3072
_MIN_RSA_BITS: Final = 2048
_SHA256: Final = hashes.SHA256()
_PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA256), salt_length=_SHA256.digest_size)

SigningKey = Ed25519PrivateKey | RSAPrivateKey
VerifyingKey = Ed25519PublicKey | RSAPublicKey

M = TypeVar("M", bound=Message)


def key_id(key: VerifyingKey) -> str:
    """Return the id of a public key: the first 16 hex digits of SHA-256 over its SubjectPublicKeyInfo (RFC 5280) in DER."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


class Signer:
    """Signs messages with one private key. ``algorithm`` follows from the kind of key."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.algorithm: Algorithm = "ed25519" if isinstance(key, Ed25519PrivateKey) else "rsa-pss-sha256"
        self.key_id = key_id(key.public_key())

    @classmethod
    def load(cls, path: Path | str) -> Signer:
        """Read an unencrypted private key in PEM.

        :raises ConfigError: when the file can not be read, may be read by others, or is not an Ed25519 or RSA (2048 bits or
            more) private key.
        """
        path = Path(path)
        key = _load_private(path)
        if isinstance(key, Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
            return cls(key)
        raise ConfigError(f"{path} is neither an Ed25519 key nor an RSA key of {_MIN_RSA_BITS} bits or more")

    @classmethod
    def generate(cls, path: Path | str, algorithm: Algorithm = "ed25519") -> Signer:
        """Make a key and write it to ``path`` in PEM (PKCS #8), readable by its owner alone.

        :raises ConfigError: when ``path`` exists (a key is never overwritten) or can not be written.
        :raises UnsupportedError: for an unknown algorithm.
        """
        key: SigningKey
        if algorithm == ED25519:
            key = Ed25519PrivateKey.generate()
        elif algorithm == RSA_PSS_SHA256:
            key = generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
        else:
            raise UnsupportedError(f"no signing algorithm {algorithm!r}")
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write_new(Path(path), pem)
        return cls(key)

    @property
    def public_pem(self) -> str:
        """The public key as SubjectPublicKeyInfo in PEM."""
        public = self._key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, message: Message) -> Signed:
        """Return ``message`` in an envelope."""
        payload = encode(message)
        signature = self.sign_bytes(signed_bytes(self.algorithm, payload))
        return Signed(payload=payload, key_id=self.key_id, algorithm=self.algorithm, signature=signature)

    def sign_bytes(self, covered: bytes) -> bytes:
        """Return the signature over ``covered``, which must begin with what it is for (:mod:`schemas.trust`)."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(covered)
        return self._key.sign(covered, _PSS, _SHA256)


class TrustedKeys:
    """Public keys whose signatures are believed, found by key id."""

    def __init__(self, keys: Iterable[VerifyingKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def from_pems(cls, pems: Iterable[str | bytes]) -> TrustedKeys:
        """Take public keys in PEM, one in each text.

        :raises MalformedError: when a text is not a public key.
        :raises UnsupportedError: when a key is neither Ed25519 nor RSA with 2048 bits or more.
        """
        return cls(public_key(pem) for pem in pems)

    @classmethod
    def from_directory(cls, path: Path | str) -> TrustedKeys:
        """Take every ``*.pem`` of a directory.

        :raises ConfigError: when the directory or a file in it can not be read or is not a usable public key.
        """
        keys = []
        try:
            for file in sorted(Path(path).iterdir()):
                if file.suffix == ".pem":
                    keys.append(public_key(_read_bounded(file)))
        except OSError as error:
            raise ConfigError(f"trusted keys in {path} can not be read: {error.strerror}") from error
        except MalformedError as error:
            raise ConfigError(f"{file}: {error.message}") from error
        return cls(keys)

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the keys."""
        return frozenset(self._keys)

    def succeeded(self, old: str, new: VerifyingKey) -> TrustedKeys:
        """Return these keys with ``new`` in the place of the one of id ``old``."""
        return TrustedKeys([*(key for name, key in self._keys.items() if name != old), new])

    def open(self, signed: Signed, kind: type[M]) -> M:
        """Return the message in an envelope, after its signature was verified.

        :raises SignatureError: when the key is not trusted, the algorithm is not the key's own, or the signature is wrong.
        :raises MalformedError: when the payload was signed but is not a message of ``kind``.
        """
        if not signed.algorithm.isascii():
            raise SignatureError(f"no signing algorithm {signed.algorithm[:64]!r}")
        covered = signed_bytes(signed.algorithm, signed.payload)
        self.verify(signed.key_id, signed.algorithm, covered, signed.signature)
        try:
            return decode(signed.payload, kind)
        except SchemaError as error:
            raise MalformedError(f"the signed payload is not a {kind.__name__}: {error}") from error

    def verify(self, wanted: str, algorithm: str, covered: bytes, signature: bytes) -> None:
        """Do nothing when ``signature`` over ``covered`` is that of the key with id ``wanted``.

        :raises SignatureError: when the key is not trusted, ``algorithm`` is not the key's own, or the signature is wrong.
        """
        key = self._keys.get(wanted)
        if key is None:
            raise SignatureError(f"no trusted key has the id {wanted[:64]!r}")
        own = ED25519 if isinstance(key, Ed25519PublicKey) else RSA_PSS_SHA256
        if algorithm != own:
            raise SignatureError(f"key {wanted} signs with {own}, not {algorithm[:64]!r}")
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, covered)
            else:
                key.verify(signature, covered, _PSS, _SHA256)
        except InvalidSignature as error:
            raise SignatureError(f"the signature of key {wanted} does not verify") from error


def public_key(pem: str | bytes) -> VerifyingKey:
    """Return the public key in a PEM text.

    :raises MalformedError: when it is none.
    :raises UnsupportedError: when it is neither Ed25519 nor RSA with 2048 bits or more.
    """
    data = pem.encode() if isinstance(pem, str) else pem
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("not a public key in PEM") from error
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise UnsupportedError(f"a trusted key must be Ed25519, or RSA with {_MIN_RSA_BITS} bits or more")


def _load_private(path: Path) -> object:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"{path} may be read by others (mode {stat.S_IMODE(mode):04o})", remedy=f"Run `chmod 600 {path}`."
            )
        data = _read_bounded(path)
    except OSError as error:
        raise ConfigError(f"the signing key {path} can not be read: {error.strerror}") from error
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not an unencrypted private key in PEM") from error


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_PEM_BYTES + 1)
    if len(data) > MAX_PEM_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_PEM_BYTES} bytes: not a key file")
    return data


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; a key is never overwritten", remedy="Move the old key away first.") from error
    except OSError as error:
        raise ConfigError(f"the signing key {path} can not be written: {error.strerror}") from error
