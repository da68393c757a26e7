"""Dictionaries and lists that many evaluations share: they are as JSON has them, but nobody can change them."""

from __future__ import annotations

from typing import Any


def _refuse(*_arguments: object, **_named: object) -> None:
    raise TypeError("what a boot log tells can not be changed")


_refusal: Any = _refuse


class FrozenDict(dict[str, Any]):
    """A dictionary that refuses changes."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refusal


class FrozenList(list[Any]):
    """A list that refuses changes. ``gathered`` is room for what is worked out of it: names of fields -> their values."""

    __slots__ = ("gathered",)

    def __init__(self, members: list[Any]) -> None:
        super().__init__(members)
        self.gathered: dict[tuple[str, ...], set[Any]] = {}

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = insert = pop = remove = _refusal
    reverse = sort = _refusal


def frozen(value: Any) -> Any:
    """Return ``value``, of JSON, in a form that can not be changed."""
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list):
        return FrozenList([frozen(item) for item in value])
    return value
