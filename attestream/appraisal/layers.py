"""Policies made of layers: documents that others name and build on.

A document names its layers in the order in which they are laid: ``"layers": ["base-debian@12.7", "team-web@3"]``. Lists and
tables are joined: what one layer allows is allowed, what one denies is denied. Where only one value can hold, that of the
document itself counts, then that of its last layer that has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from attestream.appraisal.document import MAX_DOCUMENT_BYTES, load, shown, texts
from attestream.errors import PolicyError

MAX_LAYERS: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWN: Final = ("format", "bank")
"""What all documents must have alike."""


def layer_names(document: bytes) -> tuple[str, ...]:
    """Return the ``name@version`` of the layers of a policy document: what has to be fetched before it can be compiled.

    :raises PolicyError: when the document can not be read or its ``layers`` are not valid.
    """
    return _names(load(document))


def merge_layers(document: bytes, layers: Mapping[str, bytes]) -> bytes:
    """Return ``document`` with its layers laid under it, as a document that has none.

    :param layers: ``name@version`` -> document. Versions never change, so the result is always the same.
    :raises PolicyError: naming the layer that is missing or not valid, has layers itself, or does not fit.
    """
    top = load(document)
    names = _names(top)
    if not names:
        return document
    merged: dict[str, Any] = {}
    for name in names:
        if name not in layers:
            raise PolicyError(f"layers: {name} was not found")
        try:
            layer = load(layers[name])
            if layer.get("layers"):
                raise PolicyError("layers: a layer has no layers of its own")
            _fit(layer, top)
            merged = _joined(merged, {key: value for key, value in layer.items() if key != "description"}, "")
        except PolicyError as error:
            raise PolicyError(f"layer {name}: {error.message}") from error
    merged = _joined(merged, {key: value for key, value in top.items() if key != "layers"}, "")
    made = json.dumps(merged, separators=(",", ":")).encode("ascii")
    if len(made) > MAX_DOCUMENT_BYTES:
        raise PolicyError(f"the document: has {len(made)} bytes with its layers; the limit is {MAX_DOCUMENT_BYTES}")
    return made


def _names(top: Mapping[str, Any]) -> tuple[str, ...]:
    names = texts(top.get("layers", []), "layers", limit=MAX_LAYERS, length=200)
    for number, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise PolicyError(f"layers[{number}]: {shown(name)} is not of the form name@version")
    if len(set(names)) != len(names):
        raise PolicyError("layers: a layer is named twice")
    return tuple(names)


def _fit(layer: Mapping[str, Any], top: Mapping[str, Any]) -> None:
    for key in _OWN:
        if layer.get(key) != top.get(key):
            raise PolicyError(f"{key}: is {shown(layer.get(key))}; the document has {shown(top.get(key))}")


def _joined(below: Any, above: Any, place: str) -> Any:
    """Return both values in one: objects key by key, lists one behind the other, of others the one above."""
    if isinstance(below, dict) and isinstance(above, dict):
        made = dict(below)
        for key, value in above.items():
            made[key] = _joined(below[key], value, f"{place}.{key}" if place else key) if key in below else value
        return made
    if isinstance(below, list) and isinstance(above, list):
        # The rules above come first, because of severities the first that matches counts; elsewhere order means nothing.
        known = set(map(_comparable, above))
        return [*above, *(item for item in below if _comparable(item) not in known)]
    if type(below) is not type(above):
        raise PolicyError(f"{place}: is of another kind in a layer")
    return above


def _comparable(item: Any) -> str:
    return item if isinstance(item, str) else "\x00" + json.dumps(item, sort_keys=True)
