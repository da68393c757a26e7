"""Exclude lists of runtime policies: Python regular expressions that match from the start of a path."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any, Final

from attestream.appraisal.text import printable
from attestream.errors import PolicyError, UnsupportedError
from attestream.interop.expressions import compile_matching, to_re2

MAX_EXCLUDES: Final = 10_000
MAX_EXPRESSION: Final = 65_536
"""Characters of one expression."""
MAX_COMBINED: Final = 1 << 20
"""Characters of all expressions in one."""

_COMMENT: Final = "#"
_ALIKE: Final = re.compile(r"(?:[A-Za-z0-9_/ ,:@~%=.|()-]|\\[.+*?()/-]|\[\^?[A-Za-z0-9_/.]+\]|(?<=[.\])])[*+](?![*+?]))*")
"""Expressions that Python and RE2 read alike."""


def compile_excludes(excludes: Any) -> str | None:
    """Return the one expression that a list of excludes stands for, ``(a)|(b)``; None for an empty list.

    They are valid when this one is: halves such as ``(`` and ``)`` make a whole, as they always did.

    :raises PolicyError: when it is not a list of strings, too long, or not a valid expression.
    """
    if not excludes:
        return None
    if not isinstance(excludes, list) or len(excludes) > MAX_EXCLUDES or not all(isinstance(item, str) for item in excludes):
        raise PolicyError(f"excludes: must be a list of at most {MAX_EXCLUDES} strings")
    combined = "(" + ")|(".join(excludes) + ")"
    if len(combined) > MAX_COMBINED or any(len(item) > MAX_EXPRESSION for item in excludes):
        raise PolicyError(f"excludes: one has more than {MAX_EXPRESSION} characters, or all have more than {MAX_COMBINED}")
    try:
        with warnings.catch_warnings():
            # What may mean something else in a later Python is valid all the same.
            warnings.simplefilter("ignore")
            re.compile(combined)
    except (re.error, RecursionError, OverflowError) as error:
        raise PolicyError(f"excludes: is not a regular expression: {printable(str(error), 200)}") from error
    return combined


def native_excludes(excludes: Iterable[str]) -> list[str]:
    """Return excludes as a policy of ours has them: RE2 expressions for the whole path.

    :raises PolicyError: naming the expression that RE2 does not have: one with a look-around or a back-reference.
    """
    made = []
    for number, text in enumerate(excludes):
        try:
            # Checked whole either way; an expression that means the same to both keeps its words.
            translated = to_re2(text)
            compile_matching(text, whole=False)
        except (PolicyError, UnsupportedError) as error:
            raise PolicyError(
                f"excludes[{number}]: {printable(text, 100)!r} is not an RE2 expression: {error.message}",
                remedy="Write it without look-around and back-references; list several expressions instead.",
            ) from error
        # \C is any byte: a path need not be UTF-8.
        made.append(f"(?:{text if _ALIKE.fullmatch(text) else translated})\\C*")
    return made


def read_exclude_list(text: str) -> list[str]:
    """Return the expressions of a flat exclude list: one in a line; empty lines and those that start with # are left out."""
    lines = (line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return [line for line in lines if line and not line.startswith(_COMMENT)]
