"""What a YAML 1.1 loader makes of text that ``tpm2_eventlog`` prints without quotes, and of the strings it escapes."""

from __future__ import annotations

import re
from codecs import utf_16_le_decode
from typing import Final

_WORDS: Final[dict[str, bool | None]] = {
    "": None,
    "~": None,
    **{spelled: None for word in ("null",) for spelled in (word, word.capitalize(), word.upper())},
    **{spelled: True for word in ("yes", "true", "on") for spelled in (word, word.capitalize(), word.upper())},
    **{spelled: False for word in ("no", "false", "off") for spelled in (word, word.capitalize(), word.upper())},
}
_LONGEST_WORD: Final = max(map(len, _WORDS))
_OCTAL: Final = re.compile(r"0[0-7]+")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]*")
_MAX_DECIMAL: Final = 4000
"""Digits: longer numbers stay text, since reading them takes quadratic time."""
_ESCAPED: Final = (
    ("\0", "\\0"),
    ("\a", "\\a"),
    ("\b", "\\b"),
    ("\t", "\\t"),
    ("\v", "\\v"),
    ("\f", "\\f"),
    ("\r", "\\r"),
    ("\x1b", "\\e"),
    ("'", "\\'"),
    ("\\", "\\\\"),
)
_TO_ESCAPE: Final = str.maketrans(dict(_ESCAPED))


def plain(text: str) -> str | int | bool | None:
    """Return the value of the unquoted scalar ``text``: hexadecimal data of digits alone becomes a number, for example."""
    if not text.isdigit():
        return _WORDS.get(text, text) if len(text) <= _LONGEST_WORD else text
    if len(text) > _MAX_DECIMAL:
        return text
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    return int(text) if _DECIMAL.fullmatch(text) else text


def c_text(data: bytes) -> str:
    """Return ``data`` up to its first NUL byte as text; what is not UTF-8 is replaced."""
    end = data.find(b"\0")
    return (data if end < 0 else data[:end]).decode("utf-8", "replace")


def block(data: bytes) -> str:
    """Return the value of a literal block that holds ``data`` as a C string: without leading spaces and last newlines."""
    return c_text(data).lstrip(" ").rstrip("\n")


def escaped_lines(data: bytes) -> str:
    """Return the text that ``tpm2_eventlog`` prints for the string ``data``: each line quoted, control bytes escaped."""
    text = data.decode("utf-8", "replace").translate(_TO_ESCAPE)
    return '"' + text.removesuffix("\n").replace("\n", '"\n"') + '"'


def unescaped(text: str) -> str:
    """Return ``text``, from :func:`escaped_lines`, without its outer quotes, escapes and last NUL, as policies expect it."""
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = text[1:-1]
    if "\\" in text:
        for character, escape in _ESCAPED:
            text = text.replace(escape, character)
    return text.removesuffix("\0")


def string_text(data: bytes) -> str:
    """Return the string ``data`` as policies expect it: printed by :func:`escaped_lines`, then :func:`unescaped`."""
    text = data.decode("utf-8", "replace")
    if "\\" in text or "\n" in text:
        return unescaped(escaped_lines(data))
    return text.removesuffix("\0")  # without these two, quotes and escapes only come and go


def utf16_text(data: bytes) -> str:
    """Return the UTF-16LE ``data`` up to its first NUL character; what is not UTF-16 is replaced."""
    # bytes.decode() looks this codec up and goes through a function in Python.
    return utf_16_le_decode(data, "replace", True)[0].split("\0", 1)[0]
