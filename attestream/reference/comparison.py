"""What is different between two policy documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from attestream.appraisal.document import check_object, load

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"

_TABLES: Final = ("pcrs", "runtime.digests", "runtime.keyrings", "runtime.buffers")
"""Objects whose values are lists without order."""
_LISTS: Final = (
    "runtime.excludes",
    "runtime.ignored_keyrings",
    "runtime.deny.paths",
    "runtime.deny.digests",
    "layers",
    "boot.pcrs",
    "boot.dbx",
    "boot.keys.PK",
    "boot.keys.KEK",
    "boot.keys.db",
)
"""Lists in which order means nothing."""
_CHOICES: Final = ("boot.boots", "boot.reference_states")
"""Lists of objects of which any may fit."""


class Change(NamedTuple):
    """One difference."""

    kind: str
    """:data:`ADDED`, :data:`REMOVED` or :data:`CHANGED`."""
    place: str
    """The part of the document."""
    name: str = ""
    """The path, PCR, expression... that it is about; empty for the part as a whole."""
    before: Any = None
    after: Any = None


def compare(before: bytes, after: bytes) -> list[Change]:
    """Return in what ``after`` is different from ``before``, by place and name.

    :raises PolicyError: when one of them is not a policy document.
    """
    return list(_objects(load(before), load(after), ""))


def _objects(before: Mapping[str, Any], after: Mapping[str, Any], place: str) -> Iterator[Change]:
    for key in sorted({*before, *after}):
        where = f"{place}.{key}" if place else key
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if where in _TABLES:
            yield from _table(check_object(old or {}, where), check_object(new or {}, where), where)
        elif where in _LISTS and _is_list(old) and _is_list(new):
            yield from _list(old or [], new or [], where)
        elif where in _CHOICES and _is_list(old) and _is_list(new):
            yield from _choices(old or [], new or [], where)
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from _objects(old, new, where)
        else:
            yield Change(_kind(key in before, key in after), where, "", old, new)


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)


def _kind(before: bool, after: bool) -> str:
    return CHANGED if before and after else ADDED if after else REMOVED


def _table(before: Mapping[str, Any], after: Mapping[str, Any], place: str) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        alike = old == new or (isinstance(old, list) and isinstance(new, list) and _keys(old).keys() == _keys(new).keys())
        if not alike:
            yield Change(_kind(name in before, name in after), place, name, old, new)


def _list(before: list[Any], after: list[Any], place: str) -> Iterator[Change]:
    old, new = _keys(before), _keys(after)
    yield from (Change(REMOVED, place, _name(old[key])) for key in sorted(old.keys() - new.keys()))
    yield from (Change(ADDED, place, _name(new[key])) for key in sorted(new.keys() - old.keys()))


def _choices(before: list[Any], after: list[Any], place: str) -> Iterator[Change]:
    """Yield what of the objects is different. Those that only one list has are taken to be each other's successors."""
    gone = [(number, one) for number, one in enumerate(before) if one not in after]
    come = [(number, one) for number, one in enumerate(after) if one not in before]
    for (_, old), (number, new) in zip(gone, come, strict=False):
        where = f"{place}[{number}]"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _objects(old, new, where)
        else:
            yield Change(CHANGED, where, "", old, new)
    yield from (Change(REMOVED, f"{place}[{number}]", "", old, None) for number, old in gone[len(come) :])
    yield from (Change(ADDED, f"{place}[{number}]", "", None, new) for number, new in come[len(gone) :])


def _keys(values: list[Any]) -> dict[str, Any]:
    return {json.dumps(value, sort_keys=True): value for value in values}


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
