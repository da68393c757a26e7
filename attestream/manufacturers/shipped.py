"""The store of TPM manufacturers' CA certificates: a file for each, and a manifest that says what it is and where from.

Only what the manifest names is read, and only when it is that certificate: a file that is added counts for nothing, and one
that is changed is an error.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from attestream.errors import AttestreamError, ConfigError
from attestream.pki.certificate import Certificate
from attestream.pki.trust_store import read_certificates

FOLDER: Final = Path(__file__).parent
MANIFEST: Final = "MANIFEST.toml"
CERTIFICATES: Final = "certificates"
"""Folder of the files."""
ALL: Final = "all"
"""Stands for every manufacturer."""

_DAMAGED: Final = "Install Attestream again; certificates of your own belong into the directory `ek_store`."


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The package of a Linux distribution that the certificates were taken from."""

    name: str
    version: str
    sha256: str
    """Of the package, in hex."""
    homepage: str
    copyright: str
    licence: str
    """SPDX identifier."""


class PublicCollection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public collection of CA certificates with which the store was compared."""

    name: str
    repository: str
    commit: str
    source: str
    """Where its certificates are from; collections of the same source count once."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A certificate of the store."""

    name: str
    """Of its file, without ``.pem``."""
    manufacturer: str
    subject: str
    not_before: str
    """Date, UTC."""
    not_after: str
    """Date, UTC."""
    key: str
    """Kind and size of the key."""
    sha256: str
    """Of the certificate in DER, in hex."""
    path: str
    """In the package."""
    seen_in: list[str]
    """Names of the public collections that have the same certificate."""
    key_in: list[str]
    """Names of those that have another certificate of the same name and key."""
    issued: int
    """CA certificates in those collections that this key has signed."""
    notes: list[str]
    """What to know about it."""


class LeftOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the package that the store does not have."""

    path: str
    sha256: str
    """Of the file, in hex."""
    reason: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store has, and where it is from."""

    package: Package
    collection: list[PublicCollection]
    certificate: list[Row]
    left_out: list[LeftOut] = []

    @property
    def manufacturers(self) -> list[str]:
        """The names of all manufacturers, sorted."""
        return sorted({row.manufacturer for row in self.certificate})

    def sources(self, row: Row) -> int:
        """Return in how many independent sources the certificate of ``row`` was seen, besides the package."""
        return len({one.source for one in self.collection if one.name in row.seen_in})

    def of(self, names: Iterable[str]) -> list[Row]:
        """Return the rows of these manufacturers, or of each for ``all``.

        :raises ConfigError: when one is not known.
        """
        wanted = set(names)
        if unknown := sorted(wanted - {ALL, *self.manufacturers}):
            raise ConfigError(
                f"no certificates of the TPM manufacturer {unknown[0]!r} come with Attestream",
                remedy=f"Name some of {', '.join(self.manufacturers)}, or {ALL}.",
            )
        return [row for row in self.certificate if ALL in wanted or row.manufacturer in wanted]


def manifest(folder: Path = FOLDER) -> Manifest:
    """Return what the store has.

    :raises ConfigError: when its manifest can not be read.
    """
    path = folder / MANIFEST
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Manifest)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} can not be read: {error}", remedy=_DAMAGED) from error


def certificate(row: Row, folder: Path = FOLDER) -> Certificate:
    """Return the certificate of ``row``.

    :raises ConfigError: when its file can not be read, or is not what the manifest says.
    """
    path = folder / CERTIFICATES / f"{row.name}.pem"
    try:
        found = read_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror or error}", remedy=_DAMAGED) from error
    except AttestreamError as error:
        raise ConfigError(f"{path} is not a certificate: {error.message}", remedy=_DAMAGED) from error
    if [hashlib.sha256(one.der).hexdigest() for one in found] != [row.sha256]:
        raise ConfigError(f"{path} is not the certificate that {MANIFEST} names", remedy=_DAMAGED)
    return found[0]


def certificates(names: Iterable[str], folder: Path = FOLDER) -> list[Certificate]:
    """Return the certificates of these manufacturers, or of each for ``all``.

    :raises ConfigError: when a manufacturer is not known, or a file is not what the manifest says.
    """
    return [certificate(row, folder) for row in manifest(folder).of(names)]
