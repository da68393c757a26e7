"""Lines of the ASCII log as the incumbent reads them: four templates, and leniently."""

from __future__ import annotations

from typing import Final, NamedTuple

from attestream.errors import MalformedError
from attestream.ima.digests import legacy_digest
from attestream.ima.fields import sized
from attestream.ima.hashing import Extension, bank_hash
from attestream.ima.log import Entry
from attestream.ima.templates import LEGACY, legacy_data

PCR: Final = "10"
IMA, NG, SIG, BUF = LEGACY, b"ima-ng", b"ima-sig", b"ima-buf"
SIGNATURE_HEADER: Final = 9


class Line(NamedTuple):
    """One line of the log."""

    entry: Entry
    """A violation where the template digest is all zeros, or all ones."""
    other_pcr: bool
    """Whether it names another PCR than 10."""


def read_line(line: str, log_hash: str, extend: Extension) -> Line:
    """Return the entry in ``line``.

    :param log_hash: of the template digest.
    :raises MalformedError: when it is not an entry of one of the four templates.
    """
    parts = line.split(" ", 3)
    if len(parts) != 4:
        raise MalformedError("a line of the log has four parts")
    pcr, digest_text, template, fields = parts
    digest = _hex(digest_text)
    name = template.encode("utf-8", "surrogatepass")
    path, file_digest, signature, buffer, data = _fields(name, fields)
    new = bank_hash(log_hash)
    size = new(b"").digest_size
    zeros, ones = digest == bytes(size), digest == b"\xff" * size
    return Line(
        Entry(
            0,
            name,
            path,
            file_digest,
            signature,
            zeros or ones,
            zeros or ones or new(data).digest() == digest,
            extend.violation if zeros else extend.of(data),
            buffer,
        ),
        pcr != PCR,
    )


def _fields(template: bytes, text: str) -> tuple[bytes, bytes, bytes, bytes | None, bytes]:
    """Return path, file digest, signature, buffer, and the data that the template digest covers."""
    if template not in (IMA, NG, SIG, BUF):
        raise MalformedError("the incumbent does not know this template")
    wanted = 2 if template in (IMA, NG) else 3
    parts = text.split(" ", wanted - 1)
    if len(parts) != wanted:
        raise MalformedError(f"an entry of this template has {wanted} fields")
    path = _text(parts[1])
    if template == IMA:
        field = _digest(parts[0])
        return path, field, b"", None, legacy_data(field.partition(b":\x00")[2], path)
    field = _digest(parts[0])
    data = sized(field) + sized(path + b"\x00")
    if template == NG:
        return path, field, b"", None, data
    if template == SIG:
        signature = _signature(parts[2])
        return path, field, signature, None, data + sized(signature)
    buffer = _hex(parts[2])
    return path, field, b"", buffer, data + sized(buffer)


def _signature(text: str) -> bytes:
    """Return a signature; one that is not well formed counts as absent, so that the template digest is another."""
    try:
        signature = _hex(text)
    except MalformedError:
        return b""
    size = int.from_bytes(signature[SIGNATURE_HEADER - 2 : SIGNATURE_HEADER], "big")
    return signature if SIGNATURE_HEADER <= len(signature) == SIGNATURE_HEADER + size else b""


def _digest(text: str) -> bytes:
    """Return field ``d-ng``. The algorithm may be any; without one, the size tells SHA-1 from MD5."""
    parts = text.split(":")
    if len(parts) == 1:
        return legacy_digest(_hex(text))
    if len(parts) != 2:
        raise MalformedError("a digest is one algorithm and one value")
    return _text(parts[0]) + b":\x00" + _hex(parts[1])


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise MalformedError("what should be hexadecimal is not") from error


def _text(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedError("a line of the log is not text") from error
