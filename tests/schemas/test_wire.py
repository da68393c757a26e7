"""The bytes on the wire. A failure here means that a running cluster would not understand this version.

For a change that is meant: ``python -m devtools.wire_examples tests/schemas/golden``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas.archive
import schemas.attestation
import schemas.commands
import schemas.enrolment
import schemas.events
from devtools.wire_examples import EXAMPLES
from schemas.base import MAX_MESSAGE_BYTES, SHORT_NAMES, Decoder, Message, SchemaError, decode, encode

GOLDEN = Path(__file__).parent / "golden"
KINDS = {kind.__struct_config__.tag: kind for kind in Message.__subclasses__() if kind.__module__.startswith("schemas.")}


def fields(struct):
    return {field.name: getattr(struct, field.name) for field in msgspec.structs.fields(type(struct))}


def test_every_message_has_an_example_and_every_golden_file_its_message():
    assert KINDS.keys() == EXAMPLES.keys()
    assert {path.stem for path in GOLDEN.glob("*.hex")} == EXAMPLES.keys()


@pytest.mark.parametrize("tag", sorted(EXAMPLES))
def test_bytes_are_the_golden_ones(tag):
    golden = bytes.fromhex((GOLDEN / f"{tag}.hex").read_text(encoding="ascii"))
    assert encode(EXAMPLES[tag]) == golden
    assert decode(golden, KINDS[tag]) == EXAMPLES[tag]


@pytest.mark.parametrize("tag", sorted(EXAMPLES))
def test_example_sets_every_field(tag):
    defaults = {field.name: field.default for field in msgspec.structs.fields(KINDS[tag])}
    same = {name for name, value in fields(EXAMPLES[tag]).items() if value == defaults[name]}
    assert same <= {"schema"}


@pytest.mark.parametrize("tag", sorted(EXAMPLES))
def test_unknown_fields_of_a_newer_sender_are_ignored(tag):
    content = msgspec.msgpack.decode(encode(EXAMPLES[tag]), strict=False)
    content["from-the-future"] = [1, {"a": None}]
    assert decode(msgspec.msgpack.encode(content), KINDS[tag]) == EXAMPLES[tag]


@pytest.mark.parametrize("tag", sorted(EXAMPLES))
def test_message_of_another_kind_is_refused(tag):
    other = next(kind for name, kind in KINDS.items() if name != tag)
    with pytest.raises(SchemaError):
        decode(encode(EXAMPLES[tag]), other)


def test_union_picks_the_kind_by_its_tag():
    decoder = Decoder(schemas.attestation.Inbound)
    for message in EXAMPLES.values():
        if isinstance(message, schemas.attestation.Inbound):
            assert type(decoder.decode(encode(message))) is type(message)
        else:
            with pytest.raises(SchemaError):
                decoder.decode(encode(message))


@given(st.binary(max_size=300))
def test_no_bytes_raise_another_error(data):
    try:
        decode(data, schemas.events.Event)
    except SchemaError:
        return


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_deep_nesting_is_refused_not_a_crash(depth):
    with pytest.raises(SchemaError):
        decode(b"\x81\xa1t" + b"\x91" * depth + b"\xc0", schemas.events.Event)
    with pytest.raises(SchemaError):
        decode(b"\x82\xa1t\xa5event\xa1x" + b"\x91" * depth + b"\xc0", schemas.events.Event)


def test_size_is_bounded_before_decoding():
    with pytest.raises(SchemaError, match="the limit is"):
        decode(b"\x80" * (MAX_MESSAGE_BYTES + 1), schemas.events.Event)


def test_short_names_do_not_meet_in_any_message():
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)
    for kind in KINDS.values():
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        assert len(set(names)) == len(names)
        assert "t" not in names, "that is where the tag travels"


def test_qualifying_data_separates_its_parts():
    data = schemas.attestation.qualifying_data
    digest = b"k" * 32
    assert len(data(b"n", "a", digest)) == 32
    assert (
        len({data(b"n", "ab", digest), data(b"na", "b", digest), data(b"n", "ab", b"j" * 32), data(b"n", "a", digest)}) == 4
    )


def test_enrolment_transcript_separates_its_parts():
    transcript = schemas.enrolment.transcript
    assert transcript(b"ab", b"c") != transcript(b"a", b"bc")
    assert transcript(b"a", b"b") == b"attestream/enrol/1\x00\x00\x00\x01a\x00\x00\x00\x01b"


def test_signature_covers_the_algorithm():
    assert schemas.events.signed_bytes("ed25519", b"x") != schemas.events.signed_bytes("rsa-pss-sha256", b"x")
