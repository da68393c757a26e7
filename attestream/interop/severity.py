"""Severity labels of events: the labels from the least to the most severe, and rules of which the first match counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import re2

from attestream.errors import PolicyError

LABELS: Final = ("info", "notice", "warning", "error", "critical", "alert", "emergency")
"""The default labels."""

MAX_RULES: Final = 1000
MAX_EXPRESSION: Final = 1024
"""Characters of one expression."""


class Severity(NamedTuple):
    """How severe an event is."""

    label: str
    level: int
    """Place of the label, from 0 for the least severe."""
    highest: bool
    """Whether no label is more severe."""
    matched: bool
    """Whether a rule spoke of the event; without one it has the most severe label."""


class SeverityPolicy:
    """Labels and rules.

    :param labels: from the least to the most severe; empty for :data:`LABELS`.
    :param rules: each with ``event_id``, an RE2 expression for the whole id, and ``severity_label``; empty: everything is as
        severe as can be. A label that there is not means the most severe one.
    :raises PolicyError: naming the rule that is not valid.
    """

    def __init__(self, labels: Sequence[str] = (), rules: Iterable[Mapping[str, Any]] = ()) -> None:
        self._labels = tuple(labels) or LABELS
        self._levels = {label: level for level, label in enumerate(self._labels)}
        self._rules = [_rule(rule, number) for number, rule in enumerate(rules)]
        if len(self._rules) > MAX_RULES:
            raise PolicyError(f"the severity policy has {len(self._rules)} rules; the limit is {MAX_RULES}")

    def of(self, event_id: str, *, recoverable: bool = True) -> Severity:
        """Return the severity of an event. One from which there is no recovery has the most severe label."""
        label = next((label for expression, label in self._rules if expression.fullmatch(event_id)), None)
        top = len(self._labels) - 1
        level = self._levels.get(label, top) if label is not None and recoverable else top
        return Severity(self._labels[level], level, level == self._levels[self._labels[-1]], label is not None)

    def highest(self, event_ids: Iterable[str]) -> str | None:
        """Return the first of the most severe events, or None when there are none."""
        # max() gives the first of equals.
        return max(event_ids, key=lambda event_id: self.of(event_id).level, default=None)


def _rule(rule: Mapping[str, Any], number: int) -> tuple[Any, str]:
    expression, label = rule.get("event_id"), rule.get("severity_label")
    if not isinstance(expression, str) or not isinstance(label, str) or len(expression) > MAX_EXPRESSION:
        raise PolicyError(f"severity rule {number}: needs the texts `event_id` and `severity_label`")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options), label
    except (re2.error, UnicodeEncodeError) as error:
        raise PolicyError(f"severity rule {number}: `event_id` is not an RE2 expression") from error
