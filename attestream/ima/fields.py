"""Fields of a template in the ASCII form of the log, back into the bytes that the template digests cover.

Source: Linux ``security/integrity/ima/ima_template_lib.c``, ``ima_show_template_data_ascii``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from attestream.errors import MalformedError


def sized(data: bytes) -> bytes:
    """Return ``data`` behind its length as u32 little-endian."""
    return len(data).to_bytes(4, "little") + data


def from_hex(text: bytes) -> bytes:
    """Return the bytes that a field of the ASCII form spells.

    :raises MalformedError: when it is not hexadecimal.
    """
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise MalformedError("a field that should be hexadecimal is not") from error
    # fromhex lets white space through.
    if 2 * len(value) != len(text):
        raise MalformedError("a field that should be hexadecimal is not")
    return value


def _digest(text: bytes) -> bytes:
    algorithm, colon, value = text.rpartition(b":")
    if not colon:
        raise MalformedError("the line lacks fields")
    return algorithm + b":\x00" + from_hex(value)


def _optional_digest(text: bytes) -> bytes:
    return _digest(text) if text else b""


def _terminated(text: bytes) -> bytes:
    return text + b"\x00"


def _optional_text(text: bytes) -> bytes:
    return text + b"\x00" if text else b""


def _number(size: int, text: bytes) -> bytes:
    if not text:
        return b""
    if not text.isdigit() or len(text) > 20 or int(text) >> 8 * size:
        raise MalformedError("a field that should be a number is not, or it is too large")
    return int(text).to_bytes(size, "little")


IN_ASCII: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "d": from_hex,
    "n": _terminated,
    "d-ng": _digest,
    "d-ngv2": _digest,
    "n-ng": _terminated,
    "sig": from_hex,
    "buf": from_hex,
    "d-modsig": _optional_digest,
    "modsig": from_hex,
    "evmsig": from_hex,
    "xattrnames": _optional_text,
    "xattrlengths": from_hex,
    "xattrvalues": from_hex,
    "iuid": partial(_number, 4),
    "igid": partial(_number, 4),
    "imode": partial(_number, 2),
}
"""Field id -> how its text becomes bytes again; each raises MalformedError."""
