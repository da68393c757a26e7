"""AsyncAPI 3.0 document of the bus: channels, messages, operations."""

from __future__ import annotations

import re
from typing import Any, Final

from attestream import __version__
from devtools.docs import json_schema
from devtools.docs.messages import messages
from schemas import subjects
from schemas.channels import CHANNELS, HEADERS, Channel
from schemas.events import EventKind
from schemas.topology import STREAMS

_PARAMETER: Final = re.compile(r"\{(\w+)\}")

_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "agent": {"description": "Agent id as one token: `.` is written `%2E`."},
    "subject": {"description": "Agent id or policy name as one token: `.` is written `%2E`."},
    "worker": {"description": "Name of a worker."},
    "kind": {"description": "Event kind.", "enum": [kind.value for kind in EventKind]},
    "partition": {"description": f"Partition, 0 to {subjects.PARTITIONS - 1}."},
    "stream": {"description": "Stream that the message came from.", "enum": [stream.name for stream in STREAMS]},
}

_VIEW: Final = (
    "The bus of an Attestream cluster. Operations are told from the side of its services: what they `send` an agent or a "
    "tenant receives, and the other way round."
)

_SERVICES: Final = ("registrar", "verifier", "notifier", "any service", "server")


def document() -> str:
    """Return the document as JSON."""
    return json_schema.text(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": "Attestream",
                "version": __version__,
                "description": f"{_VIEW} {json_schema.ENCODING}",
                "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            },
            "defaultContentType": subjects.CONTENT_TYPE,
            "servers": {"embedded": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "`attestream up`"}},
            "channels": _channels(),
            "operations": _operations(),
            "components": {
                "messages": _messages(),
                "schemas": {"Headers": _headers(), **json_schema.components("#/components/schemas/{name}")},
            },
        }
    )


def _channels() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for channel in CHANNELS:
        made[channel.name] = {
            "address": channel.address,
            "description": channel.doc + (f" Kept in the stream {channel.stream}." if channel.stream else ""),
            "messages": {kind.__name__: _to_message(kind.__name__) for kind in channel.messages},
        }
        if parameters := _PARAMETER.findall(channel.address):
            made[channel.name]["parameters"] = {name: _PARAMETERS[name] for name in parameters}
        if channel.reply:
            made[_reply_name(channel)] = {
                "address": None,
                "description": f"Answers to `{channel.address}`, on the asker's inbox.",
                "messages": {kind.__name__: _to_message(kind.__name__) for kind in channel.reply},
            }
    return made


def _operations() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for channel in CHANNELS:
        sends = channel.sender.split(", ")[0] in _SERVICES and channel.receiver not in _SERVICES
        operation: dict[str, Any] = {
            "action": "send" if sends else "receive",
            "channel": {"$ref": f"#/channels/{channel.name}"},
            "summary": f"{channel.sender} -> {channel.receiver}",
            "messages": [{"$ref": f"#/channels/{channel.name}/messages/{kind.__name__}"} for kind in channel.messages],
        }
        if channel.reply:
            name = _reply_name(channel)
            operation["reply"] = {
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{kind.__name__}"} for kind in channel.reply],
            }
        made[f"{'send' if sends else 'receive'}{channel.name[0].upper()}{channel.name[1:]}"] = operation
    return made


def _messages() -> dict[str, Any]:
    used = {kind for channel in CHANNELS for kind in (*channel.messages, *channel.reply)}
    return {
        shape.name: {
            "name": shape.tag,
            "title": shape.name,
            "summary": shape.doc,
            "contentType": subjects.CONTENT_TYPE,
            "headers": {"$ref": "#/components/schemas/Headers"},
            "payload": {"$ref": f"#/components/schemas/{shape.name}"},
        }
        for shape in sorted(messages(), key=lambda shape: shape.name)
        if shape.kind in used
    }


def _headers() -> dict[str, Any]:
    properties = {header.name: {"type": "string", "description": header.doc} for header in HEADERS}
    return {"type": "object", "description": "Headers that have a meaning; none is always there.", "properties": properties}


def _reply_name(channel: Channel) -> str:
    return f"{channel.name}Reply"


def _to_message(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}
