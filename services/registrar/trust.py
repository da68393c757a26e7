"""Trust stores in directories."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attestream.errors import ConfigError, MalformedError
from attestream.pki.certificate import Certificate
from attestream.pki.trust_store import MAX_FILE, TrustStore, read_certificates

_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der"})


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
