"""Builds records of the kernel's IMA measurement log, byte for byte as ``security/integrity/ima/ima_fs.c`` shows them.

Used by tests, the demo, the benchmark and the IMA emulator, so that one place knows how a kernel writes its log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

_FIELDS: Final = {
    "ima-ng": ("d-ng", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": ("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode"),
}
_NUMBERS: Final = frozenset({"iuid", "igid", "imode"})
_DIGESTS: Final = frozenset({"d-ng", "d-ngv2", "d-modsig"})
_TEXTS: Final = frozenset({"n-ng", "xattrnames"})
_NAME_BYTES: Final = 256


class Record(NamedTuple):
    """One entry of the log in both of its forms."""

    binary: bytes
    """As in ``binary_runtime_measurements``, little-endian."""
    ascii: str
    """As in ``ascii_runtime_measurements``, without the newline."""
    template_data: bytes
    """What the template digests cover."""
    violation: bool = False
    pcr: int = 10


def record(
    path: str,
    digest: bytes,
    *,
    hash_name: str = "sha256",
    template: str = "ima-ng",
    signature: bytes = b"",
    pcr: int = 10,
    digest_type: str = "ima",
    more: Mapping[str, bytes] | None = None,
) -> Record:
    """Return the record of a measured file.

    :param digest: of the file's content by ``hash_name`` (a kernel name: ``sha1``, ``sha256``, ``sha512``...).
    :param signature: the file's ``security.ima`` value, for templates that record it.
    :param digest_type: ``ima`` or ``verity``, for templates that record it.
    :param more: the template's other fields by their ids, as the template digest covers them; empty where it lacks one.
    :raises ValueError: when the template is not known.
    """
    name = _recorded_name(path)
    if template == "ima":
        return _legacy_record(pcr, hashlib.sha1(_legacy_data(digest, name)).digest(), digest, name)
    field = hash_name.encode("ascii") + b":\x00" + digest
    fields = {"d-ng": field, "d-ngv2": f"{digest_type}:".encode("ascii") + field, "n-ng": name + b"\x00", "sig": signature}
    values = [(one, (more or {}).get(one, fields.get(one, b""))) for one in _fields_of(template)]
    data = b"".join(_sized(value) for _, value in values)
    return _record(pcr, hashlib.sha1(data).digest(), template, data, values)


def buffer(name: str, data: bytes, *, hash_name: str = "sha256", pcr: int = 10) -> Record:
    """Return the record of a measured buffer: a key put on keyring ``name``, a device mapper event, a command line."""
    return record(
        name, hashlib.new(hash_name, data).digest(), hash_name=hash_name, template="ima-buf", pcr=pcr, more={"buf": data}
    )


def violation(path: str, *, template: str = "ima-ng", pcr: int = 10) -> Record:
    """Return the record of a violation (a file opened for writing while measured, or the reverse).

    The kernel logs zeros for the template digest and the file digest, and extends ones.

    :raises ValueError: when the template is not ``ima-ng`` or ``ima-sig``.
    """
    if template not in ("ima-ng", "ima-sig"):
        raise ValueError(f"{template!r} is not a template whose violations this tool writes")
    field = b"sha256:\x00" + bytes(32)
    fields = {"d-ng": field, "n-ng": _recorded_name(path) + b"\x00", "sig": b""}
    values = [(one, fields[one]) for one in _FIELDS[template]]
    data = b"".join(_sized(value) for _, value in values)
    return _record(pcr, bytes(20), template, data, values)._replace(violation=True)


def extend_value(record: Record, bank: str, *, padded: bool = False) -> bytes:
    """Return what the kernel extends into PCR ``record.pcr`` of ``bank``.

    That is the bank's digest of the template data, or ones for a violation (``ima_queue.c``, ``ima_add_template_entry``).

    :param padded: as kernels before 5.8 do: SHA-1 for every bank, with zeros behind it.
    """
    digest = hashlib.new("sha1" if padded else bank, record.template_data).digest()
    value = b"\xff" * len(digest) if record.violation else digest
    return value.ljust(hashlib.new(bank).digest_size, b"\x00")


def _recorded_name(path: str) -> bytes:
    # The kernel replaces spaces, so that the ASCII form stays parsable (ima_template_lib.c, ima_write_template_field_data).
    return path.replace(" ", "_").encode("utf-8", "surrogateescape")


def _fields_of(template: str) -> tuple[str, ...]:
    if template not in _FIELDS:
        raise ValueError(f"{template!r} is not a template that this tool writes: {', '.join(_FIELDS)}, ima")
    return _FIELDS[template]


def _record(pcr: int, template_digest: bytes, template: str, data: bytes, values: list[tuple[str, bytes]]) -> Record:
    binary = pcr.to_bytes(4, "little") + template_digest + _sized(template.encode("ascii")) + _sized(data)
    shown = " ".join(_shown(field, value) for field, value in values)
    return Record(binary, f"{pcr:2d} {template_digest.hex()} {template} {shown}", data, pcr=pcr)


def _legacy_data(digest: bytes, name: bytes) -> bytes:
    return digest + name.ljust(_NAME_BYTES, b"\x00")


def _legacy_record(pcr: int, template_digest: bytes, digest: bytes, name: bytes) -> Record:
    # The first template has no length before its data, and none before the digest.
    binary = pcr.to_bytes(4, "little") + template_digest + _sized(b"ima") + digest + _sized(name)
    text = f"{pcr:2d} {template_digest.hex()} ima {digest.hex()} {name.decode('utf-8', 'surrogateescape')}"
    return Record(binary, text, _legacy_data(digest, name), pcr=pcr)


def _shown(field: str, value: bytes) -> str:
    if field in _DIGESTS and value:
        algorithm, _, digest = value.partition(b":\x00")
        return f"{algorithm.decode('ascii')}:{digest.hex()}"
    if field in _TEXTS:
        return value[:-1].decode("utf-8", "surrogateescape")
    if field in _NUMBERS:
        return str(int.from_bytes(value, "little")) if value else ""
    return value.hex()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data
