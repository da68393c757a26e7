"""X.509 certificates as TPM makers really issue them.

Source: RFC 5280 section 4.1. The wrapping of certificates in a TPM's NV memory: TCG PC Client Specific Implementation
Specification 1.21, section 7.3.2 (TCG_PCCLIENT_STORED_CERT).
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

import msgspec

from attestream.errors import MalformedError, TooLargeError
from attestream.pki.der import BIT_STRING, GENERALIZED_TIME, SEQUENCE, UTC_TIME, Element, Notes, Reader
from attestream.pki.extensions import DEFAULT_ENCODED, Extensions, parse_extensions
from attestream.pki.names import Name, parse_name

MAX_CERTIFICATE: Final = 8192
"""Bytes of a certificate with all that is wrapped around it."""

HEADER: Final = "nv-header"
"""The certificate stands behind the 7 bytes with which TPM 1.2 modules store it."""
PADDING: Final = "padding"
"""The certificate is followed by bytes 0x00 or 0xFF: an unused rest of NV memory, or of a buffer."""
SERIAL: Final = "serial-number"
"""The serial number is negative, zero, or longer than 20 bytes."""
ALGORITHM: Final = "algorithm-parameters"
"""The signature's parameters within the signed part and beside it differ."""

FRAMING: Final = frozenset({HEADER, PADDING})
"""Irregularities around the certificate rather than in it."""

_STORED: Final = b"\x10\x01\x00"
_FULL: Final = b"\x10\x02"
_TIMES: Final = {UTC_TIME: re.compile(rb"\d{12}Z"), GENERALIZED_TIME: re.compile(rb"\d{14}Z")}


class Certificate(msgspec.Struct, frozen=True):
    """A parsed certificate. Nothing about it is checked but its form."""

    der: bytes
    """The certificate without header and padding, as it was signed."""
    irregularities: tuple[str, ...]
    """Names of the ways in which it is not well-formed DER, or wrapped; empty when it is flawless."""
    tbs: bytes
    """What is signed."""
    version: int
    serial: int
    issuer: Name
    subject: Name
    not_before: int
    """Unix time in milliseconds."""
    not_after: int
    """Unix time in milliseconds, the last second included."""
    public_key: bytes
    """SubjectPublicKeyInfo."""
    algorithm: str
    """Object identifier of the signature algorithm."""
    parameters: bytes
    """Its parameters in DER; empty when there are none."""
    signature: bytes
    extensions: Extensions

    def self_issued(self) -> bool:
        """Whether issuer and subject are the same name."""
        return self.issuer.key == self.subject.key


def parse_certificate(data: bytes) -> Certificate:
    """Return the certificate in ``data``, which may stand behind a header of NV memory and before padding.

    :raises TooLargeError: when it is larger than :data:`MAX_CERTIFICATE`.
    :raises MalformedError: when it is no certificate.
    """
    if len(data) > MAX_CERTIFICATE:
        raise TooLargeError(f"the certificate is larger than {MAX_CERTIFICATE} bytes")
    notes = Notes()
    outer = Reader(_unwrapped(data, notes), notes)
    whole = outer.take(SEQUENCE)
    if outer.rest:
        if outer.rest.strip(b"\0") and outer.rest.strip(b"\xff"):
            raise MalformedError("the certificate is followed by other data")
        notes.add(PADDING)
    parts = Reader(whole.content, notes)
    tbs = parts.take(SEQUENCE)
    algorithm, parameters = _algorithm(parts)
    if parts.peek() != BIT_STRING:
        raise MalformedError("the certificate has no signature")
    signature, unused = parts.bits()
    parts.finish()
    if unused:
        raise MalformedError("the certificate's signature is not a whole number of bytes")
    return _signed_part(whole, tbs, (algorithm, parameters, signature), notes)


def _unwrapped(data: bytes, notes: Notes) -> bytes:
    """Remove the header of a stored full certificate: tag 0x1001, type 0, the size of what follows, tag 0x1002."""
    if not data.startswith(_STORED):
        return data
    size = int.from_bytes(data[3:5], "big")
    if data[5:7] != _FULL or not 2 <= size <= len(data) - 5:
        raise MalformedError("the certificate has a broken header of NV memory")
    rest = data[5 + size :]
    if rest.strip(b"\0") and rest.strip(b"\xff"):
        raise MalformedError("the certificate is followed by other data")
    notes.add(HEADER)
    if rest:
        notes.add(PADDING)
    return data[7 : 5 + size]


def _algorithm(reader: Reader) -> tuple[str, bytes]:
    inner = reader.inside(SEQUENCE)
    oid, parameters = inner.oid(), inner.rest
    if parameters:
        inner.any()
        inner.finish()
    return oid, parameters


def _signed_part(whole: Element, tbs: Element, signed: tuple[str, bytes, bytes], notes: Notes) -> Certificate:
    reader = Reader(tbs.content, notes)
    version = _version(reader, notes)
    serial = reader.integer()
    if not 0 < serial < 1 << 160:
        notes.add(SERIAL)
    algorithm, parameters = _algorithm(reader)
    if algorithm != signed[0]:
        raise MalformedError("the certificate names two signature algorithms")
    if parameters != signed[1]:
        notes.add(ALGORITHM)
    issuer = parse_name(reader, notes)
    validity = reader.inside(SEQUENCE)
    not_before, not_after = _time(validity.any()), _time(validity.any())
    validity.finish()
    subject = parse_name(reader, notes)
    key = reader.take(SEQUENCE).raw
    reader.optional(0x81), reader.optional(0x82)  # unique identifiers: obsolete, and of no use to anybody
    extensions = Extensions()
    if reader.peek() == 0xA3:
        explicit = reader.inside(0xA3)
        extensions = parse_extensions(explicit.inside(SEQUENCE), notes)
        explicit.finish()
        if version != 3:
            raise MalformedError(f"the certificate has extensions, but version {version}")
    reader.finish()
    return Certificate(
        der=whole.raw,
        irregularities=notes.names(),
        tbs=tbs.raw,
        version=version,
        serial=serial,
        issuer=issuer,
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        public_key=key,
        algorithm=algorithm,
        parameters=signed[1],
        signature=signed[2],
        extensions=extensions,
    )


def _version(reader: Reader, notes: Notes) -> int:
    if reader.peek() != 0xA0:
        return 1
    explicit = reader.inside(0xA0)
    version = explicit.integer() + 1
    explicit.finish()
    if version == 1:
        notes.add(DEFAULT_ENCODED)
    if not 1 <= version <= 3:
        raise MalformedError(f"the certificate has the unknown version {version}")
    return version


def _time(element: Element) -> int:
    """Return Unix milliseconds of a UTCTime or GeneralizedTime (RFC 5280 section 4.1.2.5).

    That years up to 2049 must stand in a UTCTime is not asked for: nothing is ambiguous without it.
    """
    form = _TIMES.get(element.tag)
    if form is None or not form.fullmatch(element.content):
        raise MalformedError("the certificate has a time that is not in Z with seconds")
    text = element.content.decode("ascii")
    if element.tag == UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    try:
        moment = dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise MalformedError("the certificate has a time that does not exist") from error
    return int(moment.timestamp()) * 1000
