"""The page about the wire contract."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Final

from devtools.docs.messages import MODULES, Shape, bounds, enumerations, shapes
from devtools.docs.source import markdown, read
from devtools.docs.text import code, page, table
from schemas import subjects
from schemas.base import Message
from schemas.channels import CHANNELS, ENVELOPED, HEADERS, KEYS, Channel
from schemas.topology import BUCKETS, OBJECT_BUCKETS, STREAMS, Stream

_TITLES: Final = (
    "Enrolment",
    "Challenges and evidence",
    "Events, results, revocations",
    "Commands and queries",
    "Keys",
    "Kept evidence",
)

_INTRODUCTION: Final = f"""\
Everything that crosses the bus is declared in the package `schemas`, and this page is generated from it. For machines there
are [JSON Schemas of the messages](contract/messages.schema.json) and an [AsyncAPI 3 document](contract/asyncapi.json).

A message is a MessagePack map. The key `t` holds its tag and `v` the version of its shape. The other keys are the ones in
the column *Key* below: short names for fields that recur, the field's own name otherwise. A receiver ignores keys that it
does not know. Times are Unix time in milliseconds. A field without a default is always needed.

Agent ids are 1-80 characters of `[A-Za-z0-9._-]`. In a subject an id is one token: `.` is written `%2E`. There are
{subjects.PARTITIONS} partitions; the server puts an agent into one by `partition({subjects.PARTITIONS}, 1)` over that token
(FNV-1a, 32 bits)."""

_OBJECTS: Final = "Objects, each named by the SHA-256 of its content."


def document() -> str:
    """Return the page."""
    return page(
        "The message contract",
        _INTRODUCTION,
        "## Subjects",
        "Subjects without a stream are core NATS: delivered to whoever listens at that moment.",
        table(
            ("Subject", "Meaning", "From", "To", "Messages", "Answer", "Stream"),
            (
                (code(c.address), c.doc, c.sender, c.receiver, _links(c.messages), _links(c.reply), code(c.stream))
                for c in CHANNELS
            ),
        ),
        "## Headers",
        table(("Header", "Meaning"), ((code(header.name), header.doc) for header in HEADERS)),
        *_storage(),
        *_enumerations(),
        "## Bounds",
        table(("Name", "Value", "Meaning"), ((code(b.name), code(b.default or ""), b.doc) for b in bounds())),
        *(block for module, title in zip(MODULES, _TITLES, strict=True) for block in _module(module, title)),
    )


def _module(module: ModuleType, title: str) -> list[str]:
    blocks = [f"## {title}", _paragraphs(read(module).doc)]
    for shape in shapes(module):
        blocks += [f"### {shape.name}", shape.doc, _where(shape)]
        blocks.append(
            table(
                ("Field", "Key", "Type", "Default", "Meaning"),
                ((code(f.name), code(f.key), code(f.type), code(f.default or ""), f.doc) for f in shape.fields),
            )
        )
    return blocks


def _where(shape: Shape) -> str:
    if not shape.tag:
        return "A structure inside other messages; it has no tag."
    sent = [channel for channel in CHANNELS if shape.kind in channel.messages]
    answers = [channel for channel in CHANNELS if shape.kind in channel.reply]
    keys = [key for key in KEYS if key.value == shape.name]
    parts = [f"Tag `{shape.tag}`, version {shape.version}."]
    parts += [f"Sent on {_addresses(sent)}."] if sent else []
    parts += [f"Answers {_addresses(answers)}."] if answers else []
    parts += ["Travels as the payload of a [Signed](#signed) envelope."] if shape.kind in ENVELOPED else []
    parts += [f"Value of {', '.join(f'`{key.key}` in `{key.bucket}`' for key in keys)}."] if keys else []
    return " ".join(parts)


def _addresses(channels: Iterable[Channel]) -> str:
    return ", ".join(code(channel.address) for channel in channels)


def _storage() -> list[str]:
    return [
        "## Streams",
        table(
            ("Stream", "Subjects", "Retention", "Oldest", "Largest", "Duplicates", "Settings"),
            (
                (
                    code(stream.name),
                    ", ".join(code(subject) for subject in stream.subjects),
                    "work queue" if stream.work_queue else "last per subject" if stream.last_per_subject else "limits",
                    _days(stream.max_age_s),
                    f"{stream.max_bytes >> 30} GiB" if stream.max_bytes else "no limit",
                    f"{stream.duplicate_window_s} s",
                    _settings(stream),
                )
                for stream in STREAMS
            ),
        ),
        "\n".join(f"- `{stream.name}`: {stream.doc}" for stream in STREAMS),
        "## Buckets",
        table(
            ("Bucket", "Storage", "Meaning"),
            (
                *((code(bucket.name), "memory" if bucket.in_memory else "file", bucket.doc) for bucket in BUCKETS),
                *(
                    (code(name), "file, objects", "Objects, each named by the SHA-256 of its content.")
                    for name in OBJECT_BUCKETS
                ),
            ),
        ),
        table(("Bucket", "Key", "Value", "Meaning"), ((code(k.bucket), code(k.key), k.value, k.doc) for k in KEYS)),
    ]


def _settings(stream: Stream) -> str:
    said = []
    if stream.transform:
        said.append(f"stores `{stream.transform.source}` as `{stream.transform.target}`")
    if stream.republish:
        said.append(f"republishes to `{stream.republish.target}`")
    if stream.message_ttl:
        said.append("messages have lifetimes of their own")
    if stream.marker_ttl_s:
        said.append(f"a delete marker announces an expired message for {_days(stream.marker_ttl_s)}")
    if stream.deny_delete:
        said.append("messages can not be deleted")
    return "; ".join(said)


def _enumerations() -> list[str]:
    blocks = []
    for (_, members, doc), title in zip(enumerations(), ("Standings", "Event kinds", "Policy states", "Roles"), strict=True):
        rows = ((code((member.default or "").strip("'")), member.doc) for member in members)
        blocks += [f"## {title}", doc, table((title[:-1], "Meaning"), rows)]
    return blocks


def _days(seconds: int) -> str:
    if not seconds:
        return "no limit"
    days = seconds // 86_400
    return f"{days} day" if days == 1 else f"{days} days"


def _links(kinds: tuple[type[Message], ...]) -> str:
    return ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in kinds)


def _paragraphs(doc: str) -> str:
    return "\n\n".join(markdown(paragraph) for paragraph in doc.split("\n\n"))
