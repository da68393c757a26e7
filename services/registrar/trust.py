"""The registrar's trust stores: directories, and the CA certificates of TPM manufacturers that come with Attestream."""

from __future__ import annotations

import binascii
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attestream.config import RegistrarConfig
from attestream.errors import ConfigError, MalformedError
from attestream.manufacturers import shipped
from attestream.pki.certificate import Certificate
from attestream.pki.trust_store import MAX_FILE, TrustStore, key_digest, read_certificates

_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der"})

_log = logging.getLogger(__name__)


def endorsement_store(config: RegistrarConfig) -> TrustStore:
    """Return what vouches for endorsement keys: ``ek_store`` and ``ek_manufacturers``, without the keys of ``ek_distrust``.

    :raises ConfigError: when a certificate can not be read, or a manufacturer or fingerprint is none.
    """
    trusted = shipped.certificates(config.ek_manufacturers)
    if config.ek_store is not None:
        trusted += read_store(config.ek_store).certificates()
    if not trusted and config.accept_ek == "certificate" and config.iak_store is None:
        _log.warning("no TPM can enrol: `ek_store` has no CA certificate, and `ek_manufacturers` names nobody")
    # Those of other manufacturers too: one that is not trusted itself may stand below one that is.
    known = [*trusted, *(shipped.certificates([shipped.ALL]) if config.ek_distrust else [])]
    return TrustStore(trusted, distrusted=_distrusted(config.ek_distrust, known))


def _distrusted(fingerprints: Sequence[str], known: Sequence[Certificate]) -> Iterator[bytes]:
    """Yield the digest of each key that is meant. Keys, since one may have several certificates, and several signatures."""
    keys = {hashlib.sha256(one.der).digest(): key_digest(one) for one in known}
    for text in fingerprints:
        try:
            digest = binascii.unhexlify(text.replace(":", ""))
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ConfigError(f"[registrar] `ek_distrust`: {text!r} is no SHA-256 fingerprint in hex")
        if digest not in keys and digest not in keys.values():
            _log.warning("ek_distrust: %s is of no known certificate: taken for that of a key, or of one certificate", text)
        yield keys.get(digest, digest)


def read_store(directory: Path) -> TrustStore:
    """Return the certificates in the ``.pem``, ``.crt``, ``.cer`` and ``.der`` files of a directory, in PEM or DER.

    :raises ConfigError: when the directory or a file can not be read, or a file is not a certificate.
    """
    certificates: list[Certificate] = []
    try:
        for file in sorted(directory.iterdir()):
            if file.suffix.lower() in _SUFFIXES:
                certificates += _read(file)
    except OSError as error:
        raise ConfigError(f"the store of CA certificates {directory} can not be read: {error.strerror}") from error
    return TrustStore(certificates)


def _read(file: Path) -> list[Certificate]:
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE + 1)
    try:
        return read_certificates(data)
    except MalformedError as error:
        raise ConfigError(f"{file} is not a certificate in PEM or DER: {error.message}") from error
