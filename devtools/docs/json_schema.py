"""JSON Schema of the messages (2020-12), with the meanings of the docstrings."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from devtools.docs.messages import Shape, all_shapes, enumerations

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

ENCODING: Final = (
    "Messages travel as MessagePack. A property of type string with contentEncoding base64 is `bin` there, and a key of "
    "digits in an object is an integer. A receiver ignores properties that it does not know."
)


def components(ref_template: str) -> dict[str, Any]:
    """Return the schema of every message and of what they are made of, by name."""
    shapes = {shape.name: shape for shape in all_shapes()}
    _, made = msgspec.json.schema_components([shape.kind for shape in shapes.values()], ref_template=ref_template)
    meanings = {kind.__name__: doc for kind, _, doc in enumerations()}
    for name, schema in made.items():
        if name in shapes:
            _describe(schema, shapes[name])
        else:
            schema["description"] = meanings[name]
    return dict(sorted(made.items()))


def document() -> str:
    """Return one JSON Schema document; a message is ``#/$defs/<name>``."""
    return text(
        {"$schema": DIALECT, "$comment": ENCODING, "title": "Attestream messages", "$defs": components("#/$defs/{name}")}
    )


def text(value: Any) -> str:
    """Return ``value`` as JSON for a file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _describe(schema: dict[str, Any], shape: Shape) -> None:
    schema["description"] = shape.doc
    properties = schema["properties"]
    if "t" in properties:
        properties["t"]["description"] = "Which message this is."
        properties["v"]["description"] = "Version of the message's shape."
    for field in shape.fields:
        properties[field.key] |= {"title": field.name, "description": field.doc}
