"""Comparison of an outcome with what a case expects of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tests.conformance.outcome import Outcome

VERDICTS: Final = {"pass": "pass", "fail": "fail", "error": "fail"}
"""Verdict of a case -> ours. That the incumbent raised is no other answer than no."""

DESCRIPTIONS: Final = frozenset({"exception", "message", "keylime_err", "keylime_quirk", "error", "stderr", "reason"})
"""Texts and class names in which the incumbent explained itself: there for readers, not outputs."""


class Difference(NamedTuple):
    """A point in which an outcome is not what was expected."""

    value: str
    """Name of the expected value."""
    text: str
    """One line for people."""


def differences(expected: Mapping[str, Any], outcome: Outcome) -> list[Difference]:
    """Return in which points ``outcome`` is not what was ``expected``."""
    given: dict[str, object] = {**outcome.values, "verdict": outcome.verdict}
    if outcome.event_ids is not None:
        given["event_ids"] = outcome.event_ids
    ours = _as_json(given)
    return [Difference(name, text) for name, value in expected.items() for text in _result({name: value}, ours, "")]


def _result(expected: Mapping[str, Any], given: Any, place: str) -> list[str]:
    """Compare what ``expected`` names; other outputs of ours are not asked for."""
    if not isinstance(given, dict):
        return [f"{place}: expected a result, got {_shown(given)}"]
    found = []
    for name, value in expected.items():
        where = f"{place}{name}"
        if name in DESCRIPTIONS and name not in given:
            continue
        if name not in given:
            found.append(f"{where}: expected {_shown(value)}, nothing was computed")
        elif name == "verdict":
            if VERDICTS.get(given[name]) != VERDICTS[value]:
                found.append(f"{where}: expected {value}, got {given[name]}")
        elif _are_results(value) and isinstance(given[name], list) and len(value) == len(given[name]):
            for index, (one, other) in enumerate(zip(value, given[name], strict=True)):
                found += _result(one, other, f"{where}[{index}].")
        elif value != given[name]:
            found.append(f"{where}: expected {_shown(value)}, got {_shown(given[name])}")
    return found


def _are_results(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "verdict" in item for item in value)


def _as_json(value: object) -> Any:
    """Return ``value`` as it would be read back: with lists for tuples and strings for the keys of mappings."""
    return json.loads(json.dumps(value))


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"
