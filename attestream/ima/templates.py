"""Templates of the IMA log: what the fields of an entry are, in both forms of the log.

Source: Linux ``security/integrity/ima/ima_template.c`` and ``ima_template_lib.c``. :data:`TEMPLATES` is the one table; the
kernel may also be given a format of its own (``ima_template_fmt=d-ng|n-ng``), which then stands in place of the name. A
template that is neither is unknown, and an unknown entry is never skipped.

No PCR covers the name of a template: who controls the machine can log an entry under another one. Digest and file name are
therefore always the first two fields, as in all of the kernel's own templates, where one can not be read as the other. A
buffer, an extended attribute or a signature, whose bytes may be anybody's choice, must never be read as either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.digests import check_digest, check_typed_digest, legacy_digest
from attestream.ima.fields import IN_ASCII, from_hex, sized

MAX_PATH_BYTES: Final = 4096
"""``PATH_MAX`` of Linux."""
MAX_EVENT_NAME: Final = 255
"""Bytes of field ``n`` of the first template, which is hashed with NULs up to one more than that."""
LEGACY: Final = b"ima"
"""The first template: its fields have no lengths, and its binary form differs from what is hashed."""

_MAX_FORMAT_FIELDS: Final = 16
_DIGEST_READERS: Final = {"d-ng": check_digest, "d-ngv2": check_typed_digest, "d": legacy_digest}
_NAMES: Final = frozenset({"n-ng", "n"})
_READ: Final = frozenset({*_DIGEST_READERS, *_NAMES, "sig", "buf"})
_EVM: Final = ("evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode")

_length_at: Final = Struct("<I").unpack_from

Measurement = tuple[bytes, bytes, bytes, bytes | None, tuple[bytes, ...]]
"""What an entry says: path (or a buffer's name) as the kernel recorded it, digest as field ``d-ng``, signature
(``security.ima``, empty when there is none), buffer (None when it is about a file), and all other fields in their order."""


class Template(NamedTuple):
    """How entries of one template are read."""

    fields: tuple[str, ...]
    read: Callable[[bytes], Measurement]
    """Template data (what the template digests cover) -> measurement; raises MalformedError."""
    from_ascii: Callable[[bytes], bytes]
    """The fields as in ``ascii_runtime_measurements`` -> template data; raises MalformedError."""


def split_fields(data: bytes, count: int) -> list[bytes]:
    """Return the ``count`` fields of template data, each behind its length as u32 little-endian.

    :raises MalformedError: when a length is wrong or bytes are left over.
    """
    fields: list[bytes] = []
    offset = 0
    size = len(data)
    for number in range(count):
        start = offset + 4
        if start > size:
            raise MalformedError(f"the template data ends before field {number}")
        offset = start + _length_at(data, offset)[0]
        if offset > size:
            raise MalformedError(f"field {number} of the template data runs over its end")
        fields.append(data[start:offset])
    if offset != size:
        raise MalformedError(f"{size - offset} bytes follow the last field of the template data")
    return fields


def template_named(name: bytes) -> Template:
    """Return the template called ``name``, or made of the fields that ``name`` lists (``d-ng|n-ng|sig``).

    :raises UnsupportedError: when it is not known.
    """
    template = TEMPLATES.get(name)
    if template is not None:
        return template
    fields = tuple(name.decode("ascii", "replace").split("|"))
    if not 2 <= len(fields) <= _MAX_FORMAT_FIELDS or not set(fields) <= IN_ASCII.keys() - {"d", "n"}:
        raise UnsupportedError(f"the template {name[:32]!r} is not known")
    digests = [field for field in fields if field in ("d-ng", "d-ngv2")]
    if len(set(fields)) != len(fields) or len(digests) != 1 or {*fields[:2]} != {*digests, "n-ng"}:
        raise UnsupportedError(f"the template {name[:32]!r} does not begin with one digest and one file name")
    if "buf" in fields and len(fields) != 3:
        raise UnsupportedError(f"the template {name[:32]!r} is not that of a measured buffer")
    return _template(*fields)


def more_fields(name: bytes) -> tuple[str, ...]:
    """Return what the other fields of the template called ``name`` are, the last part of a measurement.

    :raises UnsupportedError: when it is not known.
    """
    return tuple(field for field in template_named(name).fields if field not in _READ)


def _path(name: bytes) -> bytes:
    path = name[:-1]
    if name[-1:] != b"\x00" or not path or b"\x00" in path:
        raise MalformedError("the file name is empty or not terminated as it should be")
    if len(path) > MAX_PATH_BYTES:
        raise MalformedError(f"the file name has {len(path)} bytes; Linux allows {MAX_PATH_BYTES}")
    return path


def _read_ng(data: bytes) -> Measurement:
    """Read ``d-ng|n-ng``: nearly every entry of nearly every log, hence without a loop."""
    size = len(data)
    if size < 8 or (middle := 4 + _length_at(data)[0]) + 4 > size:
        raise MalformedError("the template data ends before its fields")
    if middle + 4 + _length_at(data, middle)[0] != size:
        raise MalformedError("the fields do not fill the template data")
    return _path(data[middle + 4 :]), check_digest(data[4:middle]), b"", None, ()


def _read_fields(names: tuple[str, ...], data: bytes) -> Measurement:
    path = digest = signature = b""
    buffer: bytes | None = None
    more: list[bytes] = []
    typed = "d-ngv2" in names
    for name, field in zip(names, split_fields(data, len(names)), strict=True):
        if name == "d-ngv2" or (name == "d-ng" and not typed):
            digest = _DIGEST_READERS[name](field)
        elif name == "n-ng":
            path = _path(field)
        elif name == "sig":
            signature = field
        elif name == "buf":
            buffer = field
        else:
            more.append(field)
    return path, digest, signature, buffer, tuple(more)


def _read_legacy(data: bytes) -> Measurement:
    split = len(data) - MAX_EVENT_NAME - 1
    if split not in (16, 20):
        raise MalformedError("the template data has not the size of a digest and a file name")
    name = data[split:].rstrip(b"\x00")
    return _path(name + b"\x00"), legacy_digest(data[:split]), b"", None, ()


def legacy_data(digest: bytes, name: bytes) -> bytes:
    """Return what the template digest of the first template covers.

    :raises MalformedError: when the name is too long.
    """
    if len(name) > MAX_EVENT_NAME:
        raise MalformedError(f"the file name has {len(name)} bytes; this template allows {MAX_EVENT_NAME}")
    return digest + name.ljust(MAX_EVENT_NAME + 1, b"\x00")


def _split_ascii(names: tuple[str, ...], line: bytes) -> list[bytes]:
    parts = line.split(b" ")
    surplus = len(parts) - len(names)
    if surplus < 0:
        raise MalformedError("the line lacks fields")
    if surplus:
        # Kernels before 3.13 leave spaces in file names; no other field can have one.
        at = next(index for index, name in enumerate(names) if name in _NAMES)
        parts[at : at + surplus + 1] = [b" ".join(parts[at : at + surplus + 1])]
    return parts


def _fields_from_ascii(names: tuple[str, ...], line: bytes) -> bytes:
    parts = _split_ascii(names, line)
    return b"".join([sized(IN_ASCII[name](part)) for name, part in zip(names, parts, strict=True)])


def _legacy_from_ascii(line: bytes) -> bytes:
    digest, name = _split_ascii(("d", "n"), line)
    return legacy_data(from_hex(digest), name)


def _template(*fields: str) -> Template:
    return Template(fields, partial(_read_fields, fields), partial(_fields_from_ascii, fields))


TEMPLATES: Final[Mapping[bytes, Template]] = {
    b"ima-ng": Template(("d-ng", "n-ng"), _read_ng, partial(_fields_from_ascii, ("d-ng", "n-ng"))),
    b"ima-sig": _template("d-ng", "n-ng", "sig"),
    b"ima-ngv2": _template("d-ngv2", "n-ng"),
    b"ima-sigv2": _template("d-ngv2", "n-ng", "sig"),
    b"ima-buf": _template("d-ng", "n-ng", "buf"),
    b"ima-modsig": _template("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    b"evm-sig": _template("d-ng", "n-ng", *_EVM),
    LEGACY: Template(("d", "n"), _read_legacy, _legacy_from_ascii),
}
"""Template name -> how to read it."""
