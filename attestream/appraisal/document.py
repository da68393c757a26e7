"""Reading of policy documents: strict JSON, and checks that name the place of what is wrong."""

from __future__ import annotations

import json
from typing import Any, Final

import re2

from attestream.appraisal.text import printable
from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import WEAK, digest_field

MAX_DOCUMENT_BYTES: Final = 256 << 20
"""Room for a million files with long paths."""
MAX_VALUES_PER_NAME: Final = 4096
MAX_EXPRESSION: Final = 1024
"""Characters of one expression."""

_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False


def load(document: bytes) -> dict[str, Any]:
    """Return the JSON object in ``document``.

    :raises PolicyError: when it is too large, not JSON, not an object, or names a key twice.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise PolicyError(f"the document: has {len(document)} bytes; the limit is {MAX_DOCUMENT_BYTES}")
    try:
        # The standard library's parser, because it shows repeated keys: the last would silently win.
        top = json.loads(document.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the document: is not JSON: {error}") from error
    if not isinstance(top, dict):
        raise PolicyError("the document: must be a JSON object")
    return top


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise PolicyError(f"the document: the key {shown(key)} stands twice in one object")
            seen.add(key)
    return made


def check_keys(value: Any, place: str, needed: set[str], allowed: set[str]) -> None:
    """Check that ``value`` is an object with all keys ``needed`` and none beside those ``allowed``.

    :raises PolicyError: when it is not.
    """
    check_object(value, place)
    if unknown := sorted(value.keys() - needed - allowed):
        raise PolicyError(
            f"{place}: does not know the key {shown(unknown[0])}; known are {', '.join(sorted(needed | allowed))}"
        )
    if missing := sorted(needed - value.keys()):
        raise PolicyError(f"{place}: lacks the key {missing[0]!r}")


def check_object(value: Any, place: str) -> dict[str, Any]:
    """Return ``value``.

    :raises PolicyError: when it is not an object.
    """
    if not isinstance(value, dict):
        raise PolicyError(f"{place}: must be a JSON object")
    return value


def choice(value: Any, place: str, allowed: tuple[str, ...]) -> str:
    """Return ``value``.

    :raises PolicyError: when it is not one of those ``allowed``.
    """
    if not isinstance(value, str) or value not in allowed:
        raise PolicyError(f"{place}: must be one of {', '.join(allowed)}, not {shown(value)}")
    return value


def truth(value: Any, place: str) -> bool:
    """Return ``value``.

    :raises PolicyError: when it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise PolicyError(f"{place}: must be true or false, not {shown(value)}")
    return value


def values(value: Any, place: str) -> list[Any]:
    """Return ``value``.

    :raises PolicyError: when it is not a list with at least one value and at most :data:`MAX_VALUES_PER_NAME`.
    """
    if not isinstance(value, list) or not value:
        raise PolicyError(f"{place}: must be a list with at least one value")
    if len(value) > MAX_VALUES_PER_NAME:
        raise PolicyError(f"{place}: has {len(value)} values; the limit is {MAX_VALUES_PER_NAME}")
    return value


def texts(value: Any, place: str, *, limit: int, length: int) -> list[str]:
    """Return ``value``, which may be an empty list.

    :raises PolicyError: when it is not a list of at most ``limit`` strings of 1 to ``length`` characters.
    """
    if not isinstance(value, list) or len(value) > limit:
        raise PolicyError(f"{place}: must be a list of at most {limit} strings")
    for number, item in enumerate(value):
        if not isinstance(item, str) or not 1 <= len(item) <= length:
            raise PolicyError(f"{place}[{number}]: must be a string of 1 to {length} characters")
    return value


def name_bytes(text: str, limit: int) -> bytes:
    """Return a path or another name as the kernel has it.

    :raises PolicyError: with a message that lacks its place, when it is empty, too long, or no name at all.
    """
    try:
        name = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PolicyError(f": is not a path: {error.reason}") from error
    if not name or b"\x00" in name or len(name) > limit:
        raise PolicyError(f": a path has 1 to {limit} bytes and no NUL")
    return name


def digest(text: Any, place: str) -> bytes:
    """Return ``algorithm:hex`` as field ``d-ng``.

    :raises PolicyError: when it is not such a digest, or its algorithm is too weak.
    """
    algorithm, _, value = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if algorithm in WEAK:
        raise PolicyError(f"{place}: {algorithm} is too weak to tell files apart")
    try:
        return digest_field(algorithm, hexadecimal(value, place))
    except MalformedError as error:
        raise PolicyError(f"{place}: must be `algorithm:hex`, for example sha256:...: {error.message}") from error


def hexadecimal(text: Any, place: str) -> bytes:
    """Return the bytes that ``text`` spells.

    :raises PolicyError: when it is not hexadecimal, or empty.
    """
    try:
        value = bytes.fromhex(text)
    except (TypeError, ValueError):
        value = b""
    # fromhex lets white space through.
    if not value or 2 * len(value) != len(text):
        raise PolicyError(f"{place}: {shown(text)} is not hexadecimal")
    return value


def expressions(value: Any, place: str, limit: int) -> Any:
    """Return one RE2 expression that matches what any of the expressions in the list ``value`` matches; None for none.

    :raises PolicyError: when one of them is not valid.
    """
    listed = texts(value, place, limit=limit, length=MAX_EXPRESSION)
    for number, text in enumerate(listed):
        # Alone first: two broken halves such as `(` and `)` could make one valid whole.
        expression(text, f"{place}[{number}]")
    return expression("|".join(f"(?:{text})" for text in listed), place) if listed else None


def expression(text: str, place: str) -> Any:
    """Return ``text`` as an RE2 expression: its time is linear in what it is applied to.

    :raises PolicyError: when it is not one.
    """
    try:
        return re2.compile(text, _OPTIONS)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise PolicyError(f"{place}: is not an RE2 expression: {printable(reason, 200)}") from error


def shown(value: Any) -> str:
    """Return ``value`` as a message may show it."""
    return repr(printable(value, 100)) if isinstance(value, str) else printable(json.dumps(value), 100)
