"""Python's regular expressions as RE2 expressions: the incumbent's policies have the former, we apply the latter.

The translation is by meaning, from the parsed expression: what RE2 can not express (look-around, back-references, possessive
repeats, more than 1000 repetitions) is refused.
"""

from __future__ import annotations

import re
import re._constants as code  # type: ignore[import-not-found]  # has no stubs: the one parsed form that there is
import re._parser as parser  # type: ignore[import-not-found]  # as above
import warnings
from typing import Any, Final

import re2

from attestream.appraisal.text import printable
from attestream.errors import PolicyError, UnsupportedError

MAX_EXPRESSION: Final = 1 << 20
"""Characters, before and after the translation."""
MAX_REPEATS: Final = 1000

_DIGIT, _SPACE, _WORD = r"\p{Nd}", r"\s\x0b\x1c-\x1f\x{85}\p{Z}", r"_\p{L}\p{N}"
_CATEGORIES: Final = {
    code.CATEGORY_DIGIT: f"[{_DIGIT}]",
    code.CATEGORY_NOT_DIGIT: f"[^{_DIGIT}]",
    code.CATEGORY_SPACE: f"[{_SPACE}]",
    code.CATEGORY_NOT_SPACE: f"[^{_SPACE}]",
    code.CATEGORY_WORD: f"[{_WORD}]",
    code.CATEGORY_NOT_WORD: f"[^{_WORD}]",
}
_IN_CLASS: Final = {
    code.CATEGORY_DIGIT: _DIGIT,
    code.CATEGORY_NOT_DIGIT: r"\P{Nd}",
    code.CATEGORY_SPACE: _SPACE,
    code.CATEGORY_WORD: _WORD,
}
# The end of a line counts as the end of the text: a path in the ASCII form of the log has no line feed.
_POSITIONS: Final = {
    code.AT_BEGINNING: r"\A",
    code.AT_BEGINNING_STRING: r"\A",
    code.AT_END: r"\z",
    code.AT_END_STRING: r"\z",
    code.AT_BOUNDARY: r"\b",
    code.AT_NON_BOUNDARY: r"\B",
}


def to_re2(text: str) -> str:
    """Return the RE2 expression that matches what the Python expression ``text`` matches.

    :raises PolicyError: when it is not a valid Python expression.
    :raises UnsupportedError: when RE2 can not express it.
    """
    try:
        with warnings.catch_warnings():
            # What may mean something else in a later Python is valid all the same.
            warnings.simplefilter("ignore")
            re.compile(text)
            parsed = parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PolicyError(f"{printable(text, 100)!r} is not a regular expression: {printable(str(error), 200)}") from error
    try:
        made = _sequence(parsed, parsed.state.flags)
    except RecursionError as error:
        raise UnsupportedError("the expression is nested too deeply") from error
    if len(made) > MAX_EXPRESSION:
        raise UnsupportedError(f"the expression has more than {MAX_EXPRESSION} characters")
    return made


def compile_matching(text: str, *, whole: bool) -> Any:
    """Return the Python expression ``text`` as a compiled RE2 expression whose ``fullmatch`` says what Python says.

    :param whole: whether Python would match the whole string; otherwise only from its start on.
    :raises PolicyError: when it is not a valid Python expression.
    :raises UnsupportedError: when RE2 can not express it.
    """
    options = re2.Options()
    options.log_errors = False
    made = to_re2(text)
    try:
        return re2.compile(f"(?:{made})" if whole else f"(?:{made})\\C*", options)
    except (re2.error, UnicodeEncodeError) as error:
        raise UnsupportedError(f"{printable(text, 100)!r} is not an RE2 expression") from error


def _sequence(items: Any, flags: int) -> str:
    return "".join(_item(operation, argument, flags) for operation, argument in items)


def _item(operation: Any, argument: Any, flags: int) -> str:
    made: str
    if operation is code.LITERAL:
        made = _literal(argument, flags)
    elif operation is code.NOT_LITERAL:
        made = _folded(f"[^{_escaped(argument)}]", flags)
    elif operation is code.ANY:
        made = "(?s:.)" if flags & re.DOTALL else "[^\\n]"
    elif operation is code.IN:
        made = _folded(_class(argument), flags)
    elif operation is code.BRANCH:
        made = "(?:" + "|".join(_sequence(branch, flags) for branch in argument[1]) + ")"
    elif operation is code.SUBPATTERN:
        _, added, removed, body = argument
        made = f"(?:{_sequence(body, (flags | added) & ~removed)})"
    elif operation in (code.MAX_REPEAT, code.MIN_REPEAT):
        made = _repeat(argument, flags)
    elif operation is code.AT:
        made = _position(argument, flags)
    else:
        raise UnsupportedError(f"RE2 can not express {str(operation).lower()}")
    return made


def _repeat(argument: Any, flags: int) -> str:
    least, most, body = argument
    inner = f"(?:{_sequence(body, flags)})"
    if most is code.MAXREPEAT:
        simple = {0: "*", 1: "+"}.get(least)
        bounds = simple or f"{{{least},}}"
    else:
        bounds = f"{{{least},{most}}}"
    if least > MAX_REPEATS or (most is not code.MAXREPEAT and most > MAX_REPEATS):
        raise UnsupportedError(f"RE2 can not express more than {MAX_REPEATS} repetitions")
    return inner + bounds


def _position(position: Any, flags: int) -> str:
    if flags & re.MULTILINE and position in (code.AT_BEGINNING, code.AT_END):
        return "(?m:^)" if position is code.AT_BEGINNING else "(?m:$)"
    return _POSITIONS[position]


def _class(items: Any) -> str:
    parts = []
    negated = ""
    for operation, argument in items:
        if operation is code.NEGATE:
            negated = "^"
        elif operation is code.LITERAL:
            parts.append(_escaped(argument))
        elif operation is code.RANGE:
            parts.append(f"{_escaped(argument[0])}-{_escaped(argument[1])}")
        elif operation is code.CATEGORY and len(items) == 1:
            return _CATEGORIES[argument]
        elif operation is code.CATEGORY and argument in _IN_CLASS:
            parts.append(_IN_CLASS[argument])
        else:
            raise UnsupportedError("RE2 can not express this set of characters")
    return f"[{negated}{''.join(parts)}]"


def _literal(character: int, flags: int) -> str:
    return _folded(_escaped(character), flags)


def _folded(text: str, flags: int) -> str:
    return f"(?i:{text})" if flags & re.IGNORECASE else text


def _escaped(character: int) -> str:
    if 0xD800 <= character <= 0xDFFF:
        raise UnsupportedError("RE2 can not express half a character")
    text = chr(character)
    return text if character < 0x80 and text.isalnum() else f"\\x{{{character:x}}}"
