"""The extensions that decide what a certificate may be used for.

Sources: RFC 5280 section 4.2; TCG EK Credential Profile for TPM Family 2.0, section 3.2; RFC 4108 section 5
(HardwareModuleName).
"""

from __future__ import annotations

from typing import Final

import msgspec

from attestream.errors import MalformedError
from attestream.pki.der import BOOLEAN, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, Notes, Reader
from attestream.pki.names import Name, parse_name

SUBJECT_KEY_ID: Final = "2.5.29.14"
KEY_USAGE: Final = "2.5.29.15"
SUBJECT_ALT_NAME: Final = "2.5.29.17"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
NAME_CONSTRAINTS: Final = "2.5.29.30"
CERTIFICATE_POLICIES: Final = "2.5.29.32"
AUTHORITY_KEY_ID: Final = "2.5.29.35"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"

DIGITAL_SIGNATURE: Final = 1 << 0
KEY_ENCIPHERMENT: Final = 1 << 2
KEY_AGREEMENT: Final = 1 << 4
KEY_CERT_SIGN: Final = 1 << 5

DEFAULT_ENCODED: Final = "default-encoded"

_UNDERSTOOD: Final = frozenset(
    {
        SUBJECT_KEY_ID,
        KEY_USAGE,
        SUBJECT_ALT_NAME,
        BASIC_CONSTRAINTS,
        NAME_CONSTRAINTS,
        # Every policy is acceptable in a path (RFC 5280 section 6.1.1, user-initial-policy-set); what an IAK's must say is
        # judged with its role.
        CERTIFICATE_POLICIES,
        AUTHORITY_KEY_ID,
        EXTENDED_KEY_USAGE,
    }
)
_HARDWARE_MODULE: Final = "1.3.6.1.5.5.7.8.4"
_MAX_EXTENSIONS: Final = 64
_MAX_NAMES: Final = 64


class Extensions(msgspec.Struct, frozen=True):
    """What the extensions say. A missing extension is its default."""

    authority: bool = False
    """Whether the subject is a CA."""
    path_length: int | None = None
    """Most intermediate certificates below it; None for any number."""
    key_usage: int | None = None
    """Bits of KeyUsage, bit 0 is digitalSignature; None when it is not restricted."""
    purposes: frozenset[str] | None = None
    """Extended key usages; None when they are not restricted."""
    policies: frozenset[str] = frozenset()
    """Certificate policies."""
    subject_key_id: bytes = b""
    authority_key_id: bytes = b""
    directory_names: tuple[Name, ...] = ()
    """Of the subject's alternative names."""
    hardware: tuple[tuple[str, bytes], ...] = ()
    """hwType and hwSerialNum of each HardwareModuleName in the subject's alternative names."""
    constrains_names: bool = False
    unknown_critical: tuple[str, ...] = ()
    """Critical extensions that are not understood."""


def parse_extensions(reader: Reader, notes: Notes) -> Extensions:
    """Read the contents of an Extensions.

    :raises MalformedError: when one is broken or stands twice.
    """
    values: dict[str, tuple[bool, bytes]] = {}
    while reader.peek() >= 0:
        item = reader.inside(SEQUENCE)
        oid = item.oid()
        critical = False
        if item.peek() == BOOLEAN:
            critical = item.boolean()
            if not critical:
                notes.add(DEFAULT_ENCODED)
        value = item.take(OCTET_STRING).content
        item.finish()
        if oid in values or len(values) >= _MAX_EXTENSIONS:
            raise MalformedError(f"the certificate has the extension {oid} twice, or too many extensions")
        values[oid] = (critical, value)
    authority, path_length = _constraints(_value(values, BASIC_CONSTRAINTS, notes), notes)
    directory_names, hardware = _alternatives(_value(values, SUBJECT_ALT_NAME, notes), notes)
    return Extensions(
        authority=authority,
        path_length=path_length,
        key_usage=_usage(_value(values, KEY_USAGE, notes)),
        purposes=_purposes(_value(values, EXTENDED_KEY_USAGE, notes)),
        policies=_policies(_value(values, CERTIFICATE_POLICIES, notes)),
        subject_key_id=_key_id(_value(values, SUBJECT_KEY_ID, notes)),
        authority_key_id=_issuer_key_id(_value(values, AUTHORITY_KEY_ID, notes)),
        directory_names=directory_names,
        hardware=hardware,
        constrains_names=NAME_CONSTRAINTS in values,
        unknown_critical=tuple(oid for oid, (critical, _) in values.items() if critical and oid not in _UNDERSTOOD),
    )


def _value(values: dict[str, tuple[bool, bytes]], oid: str, notes: Notes) -> Reader | None:
    return Reader(values[oid][1], notes) if oid in values else None


def _constraints(reader: Reader | None, notes: Notes) -> tuple[bool, int | None]:
    if reader is None:
        return False, None
    inner = reader.inside(SEQUENCE)
    reader.finish()
    authority = False
    if inner.peek() == BOOLEAN:
        authority = inner.boolean()
        if not authority:
            notes.add(DEFAULT_ENCODED)
    path_length = inner.integer() if inner.peek() == INTEGER else None
    inner.finish()
    if path_length is not None and path_length < 0:
        raise MalformedError("the certificate's path length is negative")
    return authority, path_length


def _usage(reader: Reader | None) -> int | None:
    if reader is None:
        return None
    data, _ = reader.bits()
    reader.finish()
    return sum(1 << index for index in range(min(8 * len(data), 9)) if data[index // 8] & 0x80 >> index % 8)


def _purposes(reader: Reader | None) -> frozenset[str] | None:
    if reader is None:
        return None
    inner = reader.inside(SEQUENCE)
    reader.finish()
    found: set[str] = set()
    while inner.peek() >= 0:
        found.add(inner.oid())
    return frozenset(found)


def _policies(reader: Reader | None) -> frozenset[str]:
    if reader is None:
        return frozenset()
    inner = reader.inside(SEQUENCE)
    reader.finish()
    found: set[str] = set()
    while inner.peek() >= 0:
        found.add(inner.inside(SEQUENCE).oid())  # qualifiers may follow: texts for people
    return frozenset(found)


def _key_id(reader: Reader | None) -> bytes:
    if reader is None:
        return b""
    content = reader.take(OCTET_STRING).content
    reader.finish()
    return content


def _issuer_key_id(reader: Reader | None) -> bytes:
    if reader is None:
        return b""
    inner = reader.inside(SEQUENCE)
    reader.finish()
    element = inner.optional(0x80)
    return element.content if element else b""


def _alternatives(reader: Reader | None, notes: Notes) -> tuple[tuple[Name, ...], tuple[tuple[str, bytes], ...]]:
    """Return directory names and hardware modules; other kinds of name say nothing about a TPM."""
    if reader is None:
        return (), ()
    inner = reader.inside(SEQUENCE)
    reader.finish()
    names: list[Name] = []
    hardware: list[tuple[str, bytes]] = []
    for _ in range(_MAX_NAMES):
        if inner.peek() < 0:
            return tuple(names), tuple(hardware)
        element = inner.any()
        inside = Reader(element.content, notes)
        if element.tag == 0xA4:  # directoryName, explicit since Name is a CHOICE
            names.append(parse_name(inside, notes))
            inside.finish()
        elif element.tag == 0xA0 and inside.peek() == OBJECT_IDENTIFIER and inside.oid() == _HARDWARE_MODULE:
            value = inside.inside(0xA0)
            inside.finish()
            module = value.inside(SEQUENCE)
            value.finish()
            hardware.append((module.oid(), module.take(OCTET_STRING).content))
            module.finish()
    raise MalformedError(f"the certificate has more than {_MAX_NAMES} alternative names")
