"""Dictionaries and lists that many evaluations share: they are as JSON has them, but nobody can change them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def _refuse(*_arguments: object, **_named: object) -> None:
    raise TypeError("what a boot log tells can not be changed")


_refusal: Any = _refuse


class FrozenDict(dict[str, Any]):
    """A dictionary that refuses changes."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refusal


class FrozenList(list[Any]):
    """A list that refuses changes."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = insert = pop = remove = _refusal
    reverse = sort = _refusal


class SignatureForms(FrozenList):
    """The dictionary forms of the signatures of one list, and in ``pieces`` what they were made of: EFI_SIGNATURE_DATA."""

    __slots__ = ("pieces",)

    def __init__(self, forms: list[Any], pieces: Collection[bytes]) -> None:
        super().__init__(forms)
        self.pieces = pieces


def frozen(value: Any) -> Any:
    """Return ``value``, of JSON, in a form that can not be changed."""
    if isinstance(value, FrozenDict):
        return value
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, SignatureForms):
        return SignatureForms([frozen(item) for item in value], value.pieces)
    if isinstance(value, list):
        return FrozenList([frozen(item) for item in value])
    return value
