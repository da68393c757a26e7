"""The log in both forms, against records that the kernel's rules make."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.log import MAX_TEMPLATE_DATA, read_ascii, read_binary
from devtools import ima_log

DIGEST = hashlib.sha256(b"content").digest()

# The first line of a real machine's log (rust-keylime's test data, Apache-2.0): no TPM log was there to aggregate.
REAL_TEMPLATE_DIGEST = "1d8d532d463c9f8c205d0df7787669a85f93e260"


def binary(*records: ima_log.Record) -> bytes:
    return b"".join(record.binary for record in records)


def ascii_form(*records: ima_log.Record) -> bytes:
    return "".join(f"{record.ascii}\n" for record in records).encode("utf-8", "surrogateescape")


names = st.text(st.characters(exclude_characters="\x00\n", exclude_categories=["Cs"]), min_size=1, max_size=60)
records = st.builds(
    lambda path, template, algorithm, signature: ima_log.record(
        path,
        hashlib.new(algorithm, path.encode()).digest(),
        hash_name=algorithm,
        template=template,
        signature=signature if template == "ima-sig" else b"",
    ),
    names,
    st.sampled_from(["ima-ng", "ima-sig"]),
    st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
    st.binary(max_size=40),
)


@given(
    st.lists(records | st.builds(ima_log.violation, names), max_size=8),
    st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
)
def test_both_forms_read_the_same_and_extend_what_the_kernel_extends(made, bank):
    entries = list(read_binary(binary(*made), bank))

    assert entries == list(read_ascii(ascii_form(*made), bank))
    assert [entry.value for entry in entries] == [ima_log.extend_value(record, bank) for record in made]
    assert all(entry.consistent for entry in entries)
    assert [entry.violation for entry in entries] == [record.violation for record in made]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    for read in (read_binary, read_ascii):
        try:
            list(read(data, "sha256"))
        except MalformedError:
            continue


@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_a_log_cut_within_an_entry_is_malformed(made, data):
    log = binary(*made)
    whole = {len(binary(*made[:count])) for count in range(len(made) + 1)}
    cut = data.draw(st.integers(0, len(log)).filter(lambda at: at not in whole))

    with pytest.raises(MalformedError):
        list(read_binary(log[:cut], "sha256"))


def test_entries_before_a_malformed_one_are_yielded():
    entries = read_binary(binary(ima_log.record("/a", DIGEST)) + b"\x0a", "sha256")

    assert next(entries).path == b"/a"
    with pytest.raises(MalformedError):
        next(entries)


def test_fields_of_ima_sig():
    (entry,) = read_binary(binary(ima_log.record("/a b", DIGEST, template="ima-sig", signature=b"\x03\x02")), "sha256")

    assert (entry.path, entry.signature, entry.template, entry.pcr) == (b"/a_b", b"\x03\x02", b"ima-sig", 10)
    assert entry.digest == b"sha256:\x00" + DIGEST


def test_ascii_ima_sig_without_signature_ends_in_a_space():
    record = ima_log.record("/a", DIGEST, template="ima-sig")
    assert record.ascii.endswith("/a ")

    (entry,) = read_ascii(record.ascii.encode(), "sha256")

    assert entry.consistent
    assert entry.signature == b""


def test_real_line_of_a_kernel():
    line = f"10 {REAL_TEMPLATE_DIGEST} ima-ng sha1:{'00' * 20} boot_aggregate\n"

    (entry,) = read_ascii(line.encode(), "sha1")

    assert entry.consistent
    assert entry.value.hex() == REAL_TEMPLATE_DIGEST


def test_template_digest_of_other_data_is_seen():
    record = ima_log.record("/usr/bin/good", DIGEST)
    forged = record.binary.replace(b"/usr/bin/good", b"/usr/bin/evil")

    (entry,) = read_binary(forged, "sha256")

    assert entry.path == b"/usr/bin/evil"
    assert not entry.consistent


def test_template_digest_of_the_log_file_of_another_bank():
    """Linux 6.10 shows the log once per bank, each with that bank's template digests."""
    record = ima_log.record("/a", DIGEST)
    line = f"10 {hashlib.sha256(record.template_data).hexdigest()} ima-ng sha256:{DIGEST.hex()} /a"

    (entry,) = read_ascii(line.encode(), "sha256")

    assert entry.consistent


def _binary(template: bytes, data: bytes) -> bytes:
    def sized(part: bytes) -> bytes:
        return len(part).to_bytes(4, "little") + part

    return (10).to_bytes(4, "little") + hashlib.sha1(data).digest() + sized(template) + sized(data)


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)


GOOD = b"sha256:\x00" + DIGEST


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_fields(GOOD, b"/a\x00") + b"x", id="bytes behind the last field"),
        pytest.param(_fields(GOOD, b"/a\x00", b""), id="one field too many"),
        pytest.param(_fields(GOOD), id="one field too few"),
        pytest.param(_fields(GOOD, b"/a"), id="name without NUL"),
        pytest.param(_fields(GOOD, b"/a\x00b\x00"), id="NUL within the name: two readers could see two names"),
        pytest.param(_fields(GOOD, b"\x00"), id="empty name"),
        pytest.param(_fields(GOOD, b"/" + b"a" * 4096 + b"\x00"), id="name over PATH_MAX"),
        pytest.param(_fields(GOOD[:-1], b"/a\x00"), id="digest too short"),
        pytest.param(_fields(b"sha256:" + DIGEST, b"/a\x00"), id="no NUL behind the algorithm"),
        pytest.param(_fields(b"sha257:\x00" + DIGEST, b"/a\x00"), id="unknown algorithm"),
        pytest.param(_fields(GOOD, b"/a\x00")[:-3], id="field longer than the data"),
        pytest.param(b"\xff\xff\xff\xff" + GOOD, id="length of 4 GiB"),
        pytest.param(b"", id="no data"),
    ],
)
def test_malformed_template_data(data):
    with pytest.raises(MalformedError):
        list(read_binary(_binary(b"ima-ng", data), "sha256"))


@pytest.mark.parametrize(
    "template", [b"ima-ngv3", b"", b"IMA-NG", b"ima-ng\x00", b"d-ng", b"d|n", b"n-ng|sig", b"d-ng|d-ng|n-ng"]
)
def test_unknown_template_is_never_skipped(template):
    with pytest.raises(UnsupportedError):
        list(read_binary(_binary(template, _fields(GOOD, b"/a\x00")), "sha256"))


def test_lengths_are_bounded_before_anything_is_read():
    head = (10).to_bytes(4, "little") + bytes(20)
    long_name = (129).to_bytes(4, "little") + b"a" * 129 + bytes(4)
    long_data = (6).to_bytes(4, "little") + b"ima-ng" + (MAX_TEMPLATE_DATA + 1).to_bytes(4, "little")

    for body in (long_name, long_data + bytes(MAX_TEMPLATE_DATA + 1)):
        with pytest.raises(MalformedError, match="too long"):
            list(read_binary(head + body, "sha256"))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"10",
        b"10 00 ima-ng",
        b"-1 " + b"00" * 20 + b" ima-ng sha256:" + b"00" * 32 + b" /a",
        b"10 " + b"zz" * 20 + b" ima-ng sha256:" + b"00" * 32 + b" /a",
        b"10 " + b"00" * 19 + b" ima-ng sha256:" + b"00" * 32 + b" /a",
        b"10 " + b"00" * 20 + b" ima-ng sha256:" + b"00" * 32,
        b"10 " + b"00" * 20 + b" ima-ng sha256 /a",
        b"10 " + b"00" * 20 + b" ima-ng sha256:" + b"0g" * 32 + b" /a",
        b"10 " + b"00" * 20 + b" ima-sig sha256:" + b"00" * 32 + b" /a xyz",
    ],
)
def test_malformed_lines(line):
    with pytest.raises(MalformedError):
        list(read_ascii(line + b"\n", "sha256"))


def test_blank_line_is_malformed_not_skipped():
    line = ima_log.record("/a", DIGEST).ascii.encode()

    with pytest.raises(MalformedError):
        list(read_ascii(line + b"\n\n" + line + b"\n", "sha256"))


def test_unknown_bank():
    with pytest.raises(UnsupportedError):
        list(read_binary(b"", "md5"))
