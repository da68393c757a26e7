"""The messages of ``schemas``: which there are, and what each of their fields means."""

from __future__ import annotations

import enum
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

from devtools.docs.source import Member, Source, markdown, read
from schemas import archive, attestation, base, commands, enrolment, events, roles, trust
from schemas.base import SHORT_NAMES, Message, Part

MODULES: Final = (enrolment, attestation, events, commands, trust, archive)
"""Where messages are declared, in the order of the documentation."""

MEANINGS: Final = {
    "schema": "Version of the message's shape, raised when a field changes its meaning.",
    "actor": "Who gave the command, for the record.",
    "agent_id": "The agent: 1-80 characters of `[A-Za-z0-9._-]`.",
    "agents": "In the order of their ids.",
    "attestation": "How it is to be attested.",
    "at": "Unix time in milliseconds.",
    "challenge_id": "The registrar's id of the challenge.",
    "code": "Stable and for machines: see the list of errors.",
    "command_id": "Id of the command; repeating a command under its id has the effect of once.",
    "digest": "SHA-256 in hex.",
    "enrolment": "Number of the agent's enrolment.",
    "event_number": "Number of the agent's last event.",
    "expires_at": "Unix time in milliseconds.",
    "fence": "Fencing token of the partition's owner.",
    "findings": "What appraisal found.",
    "identities": "In the order of their ids.",
    "interval_ms": "Time between heartbeats, in milliseconds.",
    "issued_at": "When the challenge was made: Unix time in milliseconds.",
    "lease_ms": "Life of a result, in milliseconds.",
    "message": "A sentence for people.",
    "more": "Whether there are more after the last one here.",
    "name": "The policy's name.",
    "nonce": "The nonce of the challenge.",
    "policy": "`name@version`.",
    "remedy": "What to do about it, for people.",
    "seq": "Number of the challenge.",
    "standing": "What is known of the agent.",
    "worker": "Name of the verifier worker.",
}
"""Field -> meaning, for fields that mean the same in every message. A field's own docstring comes first."""


class Field(NamedTuple):
    """A field of a message."""

    name: str
    key: str
    """On the wire."""
    type: str
    default: str | None
    doc: str
    """Markdown; empty when nobody says what it means."""


class Shape(NamedTuple):
    """A message, or a part of messages."""

    kind: type[msgspec.Struct]
    tag: str
    """Empty for a part."""
    version: int
    doc: str
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        """The class's name."""
        return self.kind.__name__


def shapes(module: ModuleType) -> list[Shape]:
    """Return the messages and parts that ``module`` declares."""
    source = read(module)
    found = []
    for described in source.classes.values():
        kind = getattr(module, described.name)
        if issubclass(kind, Message | Part):
            found.append(_shape(kind, source))
    return found


def all_shapes() -> list[Shape]:
    """Return every message and part of the contract."""
    return [shape for module in MODULES for shape in shapes(module)]


def messages() -> list[Shape]:
    """Return everything that is published, stored under a key or signed: what has a tag."""
    return [shape for shape in all_shapes() if shape.tag]


def enumerations() -> list[tuple[type[enum.StrEnum], tuple[Member, ...], str]]:
    """Return each enumeration with its members and its meaning."""
    found: list[tuple[type[enum.StrEnum], tuple[Member, ...], str]] = []
    for module, kind in (
        (events, events.Standing),
        (events, events.EventKind),
        (commands, commands.PolicyState),
        (roles, roles.Role),
    ):
        described = read(module).classes[kind.__name__]
        members = tuple(member._replace(doc=markdown(member.doc)) for member in described.members)
        found.append((kind, members, markdown(described.doc)))
    return found


def bounds() -> list[Member]:
    """Return the documented constants of the messages' modules, with their values."""
    return [
        member._replace(default=str(getattr(module, member.name)), doc=markdown(member.doc))
        for module in (base, *MODULES)
        for member in read(module).constants
        if member.doc and isinstance(getattr(module, member.name, None), int | str)
    ]


def _shape(kind: Any, source: Source) -> Shape:
    config = msgspec.structs.fields(kind)
    own = {member.name: member for member in source.classes[kind.__name__].members}
    tag = kind.__struct_config__.tag
    version = next((field.default for field in config if field.name == "schema"), 0)
    fields = tuple(_field(field.name, own[field.name]) for field in config if field.name in own)
    return Shape(kind, tag if isinstance(tag, str) else "", version, markdown(source.classes[kind.__name__].doc), fields)


def _field(name: str, member: Member) -> Field:
    doc = markdown(member.doc) or MEANINGS.get(name, "")
    return Field(name, SHORT_NAMES.get(name, name), member.annotation, member.default, doc)
