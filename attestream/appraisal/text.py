"""Makes what an untrusted machine wrote safe to show: on a terminal, in a log, in a message."""

from __future__ import annotations

from typing import Final

MAX_CULPRIT: Final = 512
"""Characters of a culprit."""


def printable(text: bytes | str, limit: int = MAX_CULPRIT) -> str:
    """Return ``text`` safe to print: what is not a printable character becomes an escape, and ``limit`` characters are kept.

    Bytes are read as UTF-8. Escapes are those of Python strings, backslashes are doubled, so that the original can be told.
    """
    # One character needs at least one byte: what lies behind the limit can not show.
    decoded = text[: 4 * limit + 4].decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text[: limit + 1]
    safe = "".join(_escaped(character) for character in decoded[: limit + 1])
    whole = len(safe) <= limit and len(decoded) <= limit
    return safe if whole else safe[: limit - 3] + "..."


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
