"""Reads the IMA measurement log in both forms that the kernel shows.

Source: Linux ``security/integrity/ima/ima_fs.c``. The binary form has the kernel's byte order, little-endian here
(x86-64, arm64, and every machine with ``ima_canonical_fmt``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, Final

import msgspec

from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.hashing import HASHES, bank_hash
from attestream.ima.memo import Memo
from attestream.ima.templates import TEMPLATES, Template, from_hex

IMA_PCR: Final = 10
MAX_TEMPLATE_NAME: Final = 128
MAX_TEMPLATE_DATA: Final = 1 << 20
"""Bytes of template data in one entry."""

_NAME_LENGTH: Final = Struct("<I")
_PCR_AND_DIGEST: Final = Struct("<I20s")
_LOG_HASHES: Final = {new(b"").digest_size: new for new in HASHES.values()}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One measurement."""

    pcr: int
    template: bytes
    path: bytes
    digest: bytes
    """Field ``d-ng``: algorithm, ``:``, NUL, digest."""
    signature: bytes
    violation: bool
    """The file was open for writing while it was measured, or the reverse; the log then holds a template digest of zeros."""
    consistent: bool
    """Whether the log's template digest is that of the template data. True for violations, which have none."""
    value: bytes
    """What the kernel extended into the bank that the log is read for."""


def read_binary(log: bytes, bank: str, memo: Memo | None = None) -> Iterator[Entry]:
    """Yield the entries of ``binary_runtime_measurements``, as they extend ``bank``.

    :raises MalformedError: at the entry that can not be parsed; what came before it has been yielded.
    :raises UnsupportedError: at an entry whose template is unknown, and at once for an unknown bank.
    """
    extend = bank_hash(bank)
    known = memo.of(bank) if memo is not None else None
    size = len(log)
    length_at = _NAME_LENGTH.unpack_from
    offset = 0
    while offset < size:
        name_at = offset + 28
        if name_at > size:
            raise MalformedError("the log ends within an entry")
        data_at = name_at + length_at(log, offset + 24)[0] + 4
        if data_at > size or data_at - name_at > MAX_TEMPLATE_NAME + 4:
            raise MalformedError("the template's name is too long or runs over the end of the log")
        end = data_at + length_at(log, data_at - 4)[0]
        if end > size or end - data_at > MAX_TEMPLATE_DATA:
            raise MalformedError("the template data is too long or runs over the end of the log")
        record = log[offset:end]
        entry = known.get(record) if known is not None else None
        if entry is None:
            pcr, digest = _PCR_AND_DIGEST.unpack_from(record)
            entry = _entry(pcr, digest, log[name_at : data_at - 4], log[data_at:end], extend)
            if known is not None:
                known.add(record, entry)
        yield entry
        offset = end


def read_ascii(log: bytes, bank: str, memo: Memo | None = None) -> Iterator[Entry]:
    """Yield the entries of ``ascii_runtime_measurements``, as they extend ``bank``.

    The ASCII form can not carry a file name with a newline: such an entry is malformed here and fine in the binary form.

    :raises MalformedError: at the line that can not be parsed; what came before it has been yielded.
    :raises UnsupportedError: at an entry whose template is unknown, and at once for an unknown bank.
    """
    extend = bank_hash(bank)
    known = memo.of(bank) if memo is not None else None
    offset, size = 0, len(log)
    while offset < size:
        end = log.find(b"\n", offset)
        line = log[offset:] if end < 0 else log[offset:end]
        entry = known.get(line) if known is not None else None
        if entry is None:
            entry = _ascii_entry(line, extend)
            if known is not None:
                known.add(line, entry)
        yield entry
        offset = size if end < 0 else end + 1


def _ascii_entry(line: bytes, extend: Callable[[bytes], Any]) -> Entry:
    parts = line.lstrip(b" ").split(b" ", 3)
    if len(parts) != 4 or len(line) > 2 * MAX_TEMPLATE_DATA or not (parts[0].isdigit() and len(parts[0]) <= 2):
        raise MalformedError("the line is not an entry of the log")
    pcr, digest_hex, name, fields = parts
    return _entry(int(pcr), from_hex(digest_hex), name, _template(name).from_ascii(fields), extend)


def _entry(pcr: int, digest: bytes, name: bytes, data: bytes, extend: Callable[[bytes], Any]) -> Entry:
    path, file_digest, signature = _template(name).read(data)
    violation = digest == bytes(len(digest))
    log_hash = _LOG_HASHES.get(len(digest))
    if log_hash is None:
        raise MalformedError(f"a template digest of {len(digest)} bytes is none that the kernel makes")
    value = extend(data).digest()
    if violation:
        return Entry(pcr, name, path, file_digest, signature, violation=True, consistent=True, value=b"\xff" * len(value))
    consistent = log_hash(data).digest() == digest
    return Entry(pcr, name, path, file_digest, signature, violation=False, consistent=consistent, value=value)


def _template(name: bytes) -> Template:
    template = TEMPLATES.get(name)
    if template is None:
        raise UnsupportedError(f"the template {name[:32]!r} is not known")
    return template
