"""Tests of single values."""

from __future__ import annotations

import re
from typing import Any

import re2

from attestream.errors import PolicyError
from attestream.uefi.policy.logic import Evaluation, Test

MAX_EXPRESSION = 65_536
"""Characters of an expression: a kernel's command line with every character escaped has at most 8192."""
_PLAIN = re.compile(r"(\.\*)?([A-Za-z0-9_: /-]+)\.\*")
"""An expression that only says how a text begins, such as the one for GRUB's commands, which are most of a boot log, or what
is in it, such as those for GRUB's files."""
NO_TEXT = "is not a str"


class IntEqual(Test):
    """Passes one number."""

    __slots__ = ("expected",)

    def __init__(self, expected: int) -> None:
        if not isinstance(expected, int):
            raise PolicyError(f"{expected!r} is not a number")
        self.expected = expected

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return that it is another number, or none."""
        if not isinstance(subject, int):
            return "is not a int"
        return "" if subject == self.expected else f"is not {self.expected}"


class StringEqual(Test):
    """Passes one text."""

    __slots__ = ("expected",)

    def __init__(self, expected: str) -> None:
        if not isinstance(expected, str):
            raise PolicyError(f"{expected!r} is not a text")
        self.expected = expected

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return that it is another text, or none."""
        if not isinstance(subject, str):
            return NO_TEXT
        return "" if subject == self.expected else f"is not {self.expected!a}"


class RegExp(Test):
    """Passes text that an expression matches as a whole.

    Expressions are RE2's, whose time is linear in the text: look-around and back-references are refused. A dot matches line
    ends only with ``dot_all``.

    :raises PolicyError: when the expression is not valid.
    """

    __slots__ = ("_anywhere", "_compiled", "_literal", "_one_line", "pattern")

    def __init__(self, pattern: str, *, dot_all: bool = False, ignore_case: bool = False) -> None:
        if not isinstance(pattern, str) or len(pattern) > MAX_EXPRESSION:
            raise PolicyError(f"an expression is a text of at most {MAX_EXPRESSION} characters")
        options = re2.Options()
        options.log_errors = False
        options.dot_nl = dot_all
        options.case_sensitive = not ignore_case
        try:
            self._compiled = re2.compile(pattern, options)
        except (re2.error, UnicodeEncodeError) as error:
            raise PolicyError(f"{pattern!a} is not an RE2 expression: {error}") from error
        self.pattern = pattern
        plain = None if ignore_case else _PLAIN.fullmatch(pattern)
        self._literal = plain[2] if plain else ""
        self._anywhere = bool(plain and plain[1])
        self._one_line = not dot_all

    def matches(self, text: str) -> bool:
        """Return whether the expression matches the whole of ``text``."""
        literal = self._literal
        if literal and text.isascii() and not (self._one_line and "\n" in text):
            return literal in text if self._anywhere else text.startswith(literal)
        try:
            # Of bytes the library does not look for the place of each character.
            return self._compiled.fullmatch(text.encode("utf-8")) is not None
        except UnicodeEncodeError:  # a lone surrogate is no text of an expression
            return False

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return that the text does not match, or is none."""
        if not isinstance(subject, str):
            return NO_TEXT
        return "" if self.matches(subject) else f"does not match {self.pattern}"
