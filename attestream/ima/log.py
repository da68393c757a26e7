"""Reads the IMA measurement log in both forms that the kernel shows.

Source: Linux ``security/integrity/ima/ima_fs.c``. The binary form has the kernel's byte order, little-endian here
(x86-64, arm64, and every machine with ``ima_canonical_fmt``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from attestream.errors import MalformedError
from attestream.ima.fields import from_hex
from attestream.ima.hashing import HASHES, Extension, bank_hash, extension
from attestream.ima.templates import LEGACY, MAX_PATH_BYTES, TEMPLATES, legacy_data, template_named

IMA_PCR: Final = 10
MAX_TEMPLATE_NAME: Final = 128
MAX_TEMPLATE_DATA: Final = 1 << 20
"""Bytes of template data in one entry."""

_LEGACY_DIGEST: Final = 20

_length_at: Final = Struct("<I").unpack_from
_SHA1: Final = HASHES["sha1"]
_IN_PCR_10: Final = IMA_PCR.to_bytes(4, "little")
_NAMED_NG: Final = b"\x06\x00\x00\x00ima-ng"
_WITH_SHA256: Final = b"\x28\x00\x00\x00sha256:\x00"

_LOG_HASHES: Final = {new(b"").digest_size: new for new in HASHES.values()}

Raw = tuple[int, bytes, bytes, bytes]
"""PCR, template digest of the log, template name, template data."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One measurement."""

    pcr: int
    template: bytes
    path: bytes
    """The file, or the name of a measured buffer; spaces are underscores."""
    digest: bytes
    """Field ``d-ng``: algorithm, ``:``, NUL, digest. A digest of fs-verity has ``verity:`` before it."""
    signature: bytes
    """The file's ``security.ima`` value, where the template records it."""
    violation: bool
    """The file was open for writing while it was measured, or the reverse; the log then holds a template digest of zeros."""
    consistent: bool
    """Whether the log's template digest is that of the template data. True for violations, which have none."""
    value: bytes
    """What the kernel extended into the bank that the log is read for."""
    buffer: bytes | None = None
    """The measured buffer; None when the entry is about a file."""
    more: tuple[bytes, ...] = ()
    """The template's other fields in their order: ``d-modsig`` and ``modsig`` of ``ima-modsig``, the rest of ``evm-sig``."""


Plain = tuple[bytes, bytes, bytes]
"""Path, file digest (field ``d-ng``), template data."""


class Form(NamedTuple):
    """One of the forms of the log, in two steps: so that what is known of a record need not be parsed again."""

    split: Callable[[bytes], Iterator[bytes]]
    """Log -> records; raises MalformedError at the first that is none."""
    parse: Callable[[bytes], Raw]
    """Record -> its parts; raises MalformedError or UnsupportedError."""
    plain: Callable[[bytes], Plain | None]
    """Record -> what it says when it is of the most common kind, and well formed; otherwise None, which says nothing."""


def split_binary(log: bytes, digest_size: int = 20) -> Iterator[bytes]:
    """Yield the records of ``binary_runtime_measurements``.

    :param digest_size: bytes of a template digest: 20, except in the file of another bank (Linux 6.10 and later).
    :raises MalformedError: at the record that is cut or too long; what came before it has been yielded.
    """
    size = len(log)
    head = digest_size + 8
    length_at = _length_at
    offset = 0
    while offset < size:
        name_at = offset + head
        if name_at > size:
            raise MalformedError("the log ends within an entry")
        data_at = name_at + length_at(log, name_at - 4)[0] + 4
        if data_at > size or data_at - name_at > MAX_TEMPLATE_NAME + 4:
            raise MalformedError("the template's name is too long or runs over the end of the log")
        if data_at - name_at == 7 and log[name_at : name_at + 3] == LEGACY:
            data_at = _legacy_end(log, name_at)
        end = data_at + length_at(log, data_at - 4)[0]
        if end > size or end - data_at > MAX_TEMPLATE_DATA:
            raise MalformedError("the template data is too long or runs over the end of the log")
        yield log[offset:end]
        offset = end


def _legacy_end(log: bytes, name_at: int) -> int:
    """Return where the file name of the first template starts: its digest has no length before it."""
    end = name_at + len(LEGACY) + _LEGACY_DIGEST + 4
    if end > len(log):
        raise MalformedError("the log ends within an entry")
    return end


def parse_binary(record: bytes, digest_size: int = 20) -> Raw:
    """Return the parts of a record that :func:`split_binary` yielded.

    :raises MalformedError: when the first template's file name is too long.
    """
    name_at = digest_size + 8
    data_at = name_at + _length_at(record, name_at - 4)[0]
    name = record[name_at:data_at]
    pcr = _length_at(record)[0]
    digest = record[4 : name_at - 4]
    if name == LEGACY:
        split = data_at + _LEGACY_DIGEST
        return pcr, digest, name, legacy_data(record[data_at:split], record[split + 4 :])
    return pcr, digest, name, record[data_at + 4 :]


def plain_binary(record: bytes) -> Plain | None:
    """Return what a record of ``ima-ng`` with SHA-256 in PCR 10 says, when its template digest is right.

    It takes half the time of :func:`make_entry`, which reads every record, this kind included.
    """
    if record[:4] != _IN_PCR_10 or record[24:34] != _NAMED_NG:
        return None
    data = record[38:]
    size = len(data)
    if size < 50 or not data.startswith(_WITH_SHA256) or _length_at(data, 44)[0] != size - 48 or data[-1]:
        return None
    path = data[48:-1]
    if b"\x00" in path or size > MAX_PATH_BYTES or _SHA1(data).digest() != record[4:24]:
        return None
    return path, data[4:44], data


def split_ascii(log: bytes) -> Iterator[bytes]:
    """Yield the lines of ``ascii_runtime_measurements``."""
    offset, size = 0, len(log)
    while offset < size:
        end = log.find(b"\n", offset)
        if end < 0:
            end = size
        yield log[offset:end]
        offset = end + 1


def parse_ascii(line: bytes) -> Raw:
    """Return the parts of a line.

    :raises MalformedError: when it is not an entry.
    :raises UnsupportedError: when its template is unknown.
    """
    parts = line.lstrip(b" ").split(b" ", 3)
    if len(parts) != 4 or len(line) > 2 * MAX_TEMPLATE_DATA or not (parts[0].isdigit() and len(parts[0]) <= 2):
        raise MalformedError("the line is not an entry of the log")
    pcr, digest, name, fields = parts
    return int(pcr), from_hex(digest), name, template_named(name).from_ascii(fields)


def _never(line: bytes) -> Plain | None:  # noqa: ARG001  # called like plain_binary
    return None


BINARY: Final = Form(split_binary, parse_binary, plain_binary)
ASCII: Final = Form(split_ascii, parse_ascii, _never)


def read_binary(log: bytes, bank: str, *, log_hash: str = "sha1") -> Iterator[Entry]:
    """Yield the entries of ``binary_runtime_measurements``, as they extend ``bank``.

    :param log_hash: of the template digests in the log: SHA-1, except in the file of another bank (Linux 6.10 and later).
    :raises MalformedError: at the entry that can not be parsed; what came before it has been yielded.
    :raises UnsupportedError: at an entry whose template is unknown, and at once for an unknown bank or ``log_hash``.
    """
    size = bank_hash(log_hash)(b"").digest_size
    if size == 20:
        return _read(BINARY, log, extension(bank))
    form = Form(partial(split_binary, digest_size=size), partial(parse_binary, digest_size=size), _never)
    return _read(form, log, extension(bank))


def read_ascii(log: bytes, bank: str) -> Iterator[Entry]:
    """Yield the entries of ``ascii_runtime_measurements``, as they extend ``bank``.

    The size of a template digest tells its hash. The ASCII form can not carry a file name with a newline: such an entry is
    malformed here and fine in the binary form.

    :raises MalformedError: at the line that can not be parsed; what came before it has been yielded.
    :raises UnsupportedError: at an entry whose template is unknown, and at once for an unknown bank.
    """
    return _read(ASCII, log, extension(bank))


def _read(form: Form, log: bytes, extend: Extension) -> Iterator[Entry]:
    for record in form.split(log):
        yield make_entry(form.parse(record), extend)


def make_entry(raw: Raw, extend: Extension) -> Entry:
    """Return the entry with the parts ``raw``, as it extends the bank of ``extend``.

    :raises MalformedError: when the template data is not what its template says.
    :raises UnsupportedError: when the template is unknown.
    """
    pcr, digest, name, data = raw
    template = TEMPLATES.get(name) or template_named(name)
    path, file_digest, signature, buffer, more = template.read(data)
    log_hash = _LOG_HASHES.get(len(digest))
    if log_hash is None:
        raise MalformedError(f"a template digest of {len(digest)} bytes is none that the kernel makes")
    if not any(digest):
        return Entry(pcr, name, path, file_digest, signature, True, True, extend.violation, buffer, more)
    consistent = log_hash(data).digest() == digest
    return Entry(pcr, name, path, file_digest, signature, False, consistent, extend.of(data), buffer, more)
