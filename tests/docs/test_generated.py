"""The generated documents agree with the code, and nothing of the contract is left without a meaning."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

import attestream
import services
from attestream.errors import AttestreamError
from attestream.telemetry import METRICS
from devtools.docs import __main__ as generator
from devtools.docs import asyncapi, commands, json_schema, messages, reference
from schemas import subjects, topology
from schemas.base import Message, encode
from schemas.channels import CHANNELS, ENVELOPED, HEADERS, KEYS
from schemas.events import Event, EventKind, Finding, Standing

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", generator.DOCUMENTS)
def test_document_is_up_to_date(name):
    assert (generator.ROOT / name).read_text(encoding="utf-8") == generator.DOCUMENTS[name]()


def test_check_names_what_is_stale_and_changes_nothing(tmp_path):
    assert generator.stale(tmp_path) == list(generator.DOCUMENTS)
    assert not list(tmp_path.iterdir())
    assert generator.write(tmp_path) == list(generator.DOCUMENTS)
    assert generator.stale(tmp_path) == []
    (tmp_path / "errors.md").write_text("altered", encoding="utf-8")
    assert generator.stale(tmp_path) == ["errors.md"]


def test_check_as_a_command():
    done = subprocess.run([sys.executable, "-m", "devtools.docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_field_of_every_message_has_a_meaning():
    undocumented = [
        f"{shape.name}.{field.name}" for shape in messages.all_shapes() for field in shape.fields if not field.doc
    ]
    assert undocumented == []
    assert all(shape.doc for shape in messages.all_shapes())


def test_every_standing_and_event_kind_has_a_meaning():
    for kind, members, doc in messages.enumerations():
        assert doc
        assert [member.name for member in members] == [member.name for member in kind]
        assert [member.name for member in members if not member.doc] == []


def test_every_message_is_documented_and_has_a_place_on_the_bus():
    declared = {kind for kind in _subclasses(Message) if kind.__module__.startswith("schemas.")}
    assert {shape.kind for shape in messages.messages()} == declared
    placed = {kind for channel in CHANNELS for kind in (*channel.messages, *channel.reply)} | set(ENVELOPED)
    stored = {key.value for key in KEYS}
    assert {kind.__name__ for kind in declared - placed} <= stored


def test_every_subject_belongs_to_a_channel():
    addresses = [re.sub(r"\{\w+\}", "*", channel.address) for channel in CHANNELS]
    spelled = {value for value in vars(subjects).values() if isinstance(value, str) and value.startswith("att.")}
    # As the server stores them, a partition stands before the last token.
    spelled -= {subjects.EVIDENCE_STORED, subjects.COMMAND_STORED}
    made = {
        subjects.challenge("a"),
        subjects.evidence("a"),
        subjects.command("a"),
        subjects.event("failed", "a"),
        subjects.event_fence(1),
        subjects.result("a"),
        subjects.result_fence(1),
        subjects.revocation("a"),
        subjects.revoked("a"),
        subjects.dead("EVIDENCE"),
    }
    for subject in spelled | made:
        assert any(_overlap(subject, address) for address in addresses), subject


def test_every_channel_with_a_stream_is_one_of_its_subjects():
    streams = {stream.name: stream for stream in topology.STREAMS}
    for channel in CHANNELS:
        address = re.sub(r"\{\w+\}", "*", channel.address)
        kept = [name for name, stream in streams.items() if any(_overlap(address, filter_) for filter_ in stream.subjects)]
        assert kept == ([channel.stream] if channel.stream else []), channel.name


def test_every_header_is_documented():
    spelled = {value for name, value in vars(subjects).items() if name.startswith("HEADER_")}
    assert spelled <= {header.name for header in HEADERS}


def test_every_key_family_is_in_a_declared_bucket():
    assert {key.bucket for key in KEYS} == {bucket.name for bucket in topology.BUCKETS}


def test_every_error_code_is_documented():
    for package in (attestream, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "migrations.env")) and ".versions." not in module.name:
                importlib.import_module(module.name)
    own = {
        kind for kind in _subclasses(AttestreamError) if "code" in vars(kind) and kind.__module__.startswith("attestream")
    }
    page = (generator.ROOT / "errors.md").read_text(encoding="utf-8")
    assert {kind.__name__ for kind in own - set(reference.coded_errors())} == set()
    assert all(f"| `{kind.code}` |" in page for kind in own)


def test_every_metric_has_a_unit_and_a_meaning():
    assert all(metric.unit and metric.doc for metric in METRICS)


def test_every_setting_has_a_meaning():
    rows = [line.split(" | ") for line in reference.configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row[0] for row in rows if not row[3].strip()] == []


def test_every_command_has_a_help_text():
    contexts = list(commands.below(click.Context(commands.cli, info_name="attestream")))
    assert [context.command_path for context in contexts if not context.command.help] == []
    options = [
        f"{context.command_path} {option.name}"
        for context in contexts
        for option in context.command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert options == []


def test_schema_has_the_keys_of_the_wire():
    finding = Finding(code="c", layer="boot", severity="failure", culprit="PCR 0", message="m", remedy="r")
    event = Event(
        id="i",
        kind=EventKind.FAILED,
        agent_id="a",
        at=1,
        event_number=1,
        enrolment=1,
        standing=Standing.FAILED,
        before=Standing.TRUSTED,
        policy="p@1",
        findings=[finding],
        command_id="c",
        worker="w",
        fence=1,
        cause_at=1,
    )
    wire = msgspec.msgpack.decode(encode(event))
    definitions = json.loads(json_schema.document())["$defs"]
    assert set(wire) == set(definitions["Event"]["properties"])
    assert set(wire["fi"][0]) == set(definitions["Finding"]["properties"])
    assert wire["t"] in definitions["Event"]["properties"]["t"]["enum"]
    assert wire["kind"] in definitions["EventKind"]["enum"]


def test_asyncapi_references_resolve():
    document = json.loads(asyncapi.document())
    references = list(_references(document))
    assert len(references) > 100
    for reference_ in references:
        node = document
        for step in reference_.removeprefix("#/").split("/"):
            node = node[step]
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}
    used = {reference_.rpartition("/")[2] for reference_ in references if reference_.startswith("#/components/messages/")}
    assert used == set(document["components"]["messages"])


def test_documents_do_not_depend_on_the_machine():
    text = "".join(make() for make in generator.DOCUMENTS.values())
    assert [place for place in (str(ROOT), sys.prefix, sys.base_prefix + "/lib") if place in text] == []


def _subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _overlap(one, other):
    """Whether two subjects, each perhaps with wildcards, share a name; ``fence`` never is an event kind."""
    left, right = one.split("."), other.split(".")
    if (
        left[:2] == right[:2] == ["att", "event"]
        and (left[2] == "fence") != (right[2] == "fence")
        and ">" not in (left[2], right[2])
    ):
        return False
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if "*" not in (a, b) and a != b:
            return False
    return len(left) == len(right)


def _references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
