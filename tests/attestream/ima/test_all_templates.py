"""Every template of the kernel, in both forms of the log."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError
from attestream.ima.digests import ALGORITHM_NAMES, DIGEST_SIZES, digest_field, digest_text
from attestream.ima.hashing import extension
from attestream.ima.log import BINARY, make_entry, plain_binary, read_ascii, read_binary
from attestream.ima.templates import TEMPLATES, template_named
from devtools import ima_log

DIGEST = hashlib.sha256(b"content").digest()
EVM = {
    "evmsig": b"\x05\x02\x04",
    "xattrnames": b"security.ima|security.selinux\x00",
    "xattrlengths": bytes.fromhex("2100000020000000"),
    "xattrvalues": b"\x04\x04" + DIGEST,
    "iuid": (1000).to_bytes(4, "little"),
    "igid": (0).to_bytes(4, "little"),
    "imode": (0o100755).to_bytes(2, "little"),
}
MODSIG = {"d-modsig": digest_field("sha512", bytes(64)), "modsig": b"\x30\x03abc"}

names = st.text(st.characters(exclude_characters="\x00\n", exclude_categories=["Cs"]), min_size=1, max_size=40)
any_record = st.one_of(
    st.builds(
        lambda path: ima_log.record(path[:40], DIGEST[:20], template="ima"), names.filter(lambda n: len(n.encode()) < 255)
    ),
    st.builds(
        lambda path, kind: ima_log.record(path, DIGEST, template="ima-ngv2", digest_type=kind),
        names,
        st.sampled_from(["ima", "verity"]),
    ),
    st.builds(
        lambda path, sig: ima_log.record(path, DIGEST, template="ima-sigv2", digest_type="verity", signature=sig),
        names,
        st.binary(max_size=20),
    ),
    st.builds(lambda name, data: ima_log.buffer(name, data), names, st.binary(max_size=60)),
    st.builds(lambda path: ima_log.record(path, DIGEST, template="ima-modsig", more=MODSIG), names),
    st.builds(lambda path: ima_log.record(path, DIGEST, template="ima-modsig"), names),
    st.builds(lambda path: ima_log.record(path, DIGEST, template="evm-sig", more=EVM), names),
    st.builds(lambda path: ima_log.record(path, DIGEST, template="evm-sig"), names),
)


@given(st.lists(any_record, max_size=8), st.sampled_from(["sha1", "sha256", "sha384", "sha512"]))
def test_both_forms_of_every_template_read_the_same(made, bank):
    binary = list(read_binary(b"".join(one.binary for one in made), bank))
    text = "".join(f"{one.ascii}\n" for one in made).encode("utf-8", "surrogateescape")

    assert binary == list(read_ascii(text, bank))
    assert [entry.value for entry in binary] == [ima_log.extend_value(one, bank) for one in made]
    assert all(entry.consistent for entry in binary)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_zeros_are_a_violation_in_every_template(template):
    digest = DIGEST[:20] if template == b"ima" else DIGEST
    record = ima_log.record("/a", digest, template=template.decode()).binary
    (entry,) = read_binary(record[:4] + bytes(20) + record[24:], "sha256")

    assert (entry.violation, entry.value) == (True, b"\xff" * 32)


def test_first_template_covers_the_name_padded_to_256_bytes():
    record = ima_log.record("/usr/bin/kmod", bytes(20), template="ima")

    assert len(record.template_data) == 20 + 256
    (entry,) = read_binary(record.binary, "sha1")
    assert (entry.path, digest_text(entry.digest)) == (b"/usr/bin/kmod", "sha1:" + "00" * 20)
    assert entry.value == hashlib.sha1(bytes(20) + b"/usr/bin/kmod".ljust(256, b"\x00")).digest()


def test_real_line_of_the_first_template():
    """A line of Keylime's test data (Apache-2.0)."""
    line = b"10 d7026dc672344d3ee372217bdbc7395947788671 ima 6f66d1d8e2fffcc12dfcb78c04b81fe5b8bbae4e /usr/bin/kmod"

    assert next(read_ascii(line, "sha1")).consistent


def test_first_template_refuses_what_the_kernel_can_not_write():
    long = ima_log.record("/a", bytes(20), template="ima").ascii.replace("/a", "/" + "a" * 255)
    with pytest.raises(MalformedError):
        list(read_ascii(long.encode(), "sha1"))
    cut = ima_log.record("/abc", bytes(20), template="ima").binary
    for end in range(29, len(cut)):
        with pytest.raises(MalformedError):
            list(read_binary(cut[:end], "sha1"))


def test_verity_digest_is_not_a_digest_of_the_content():
    """One and the same hash value, made by fs-verity, must never match a reference value for the file's content."""
    plain, verity = (
        next(read_binary(ima_log.record("/a", DIGEST, template="ima-ngv2", digest_type=kind).binary, "sha256"))
        for kind in ("ima", "verity")
    )

    assert plain.digest == digest_field("sha256", DIGEST)
    assert verity.digest == digest_field("verity:sha256", DIGEST)
    assert digest_text(verity.digest) == f"verity:sha256:{DIGEST.hex()}"


def test_unknown_type_of_digest():
    record = ima_log.record("/a", DIGEST, template="ima-ngv2", digest_type="imv").binary

    with pytest.raises(MalformedError):
        list(read_binary(record, "sha256"))


def test_fields_beyond_the_file():
    (signed,) = read_binary(ima_log.record("/a", DIGEST, template="ima-modsig", more=MODSIG).binary, "sha256")
    (measured,) = read_binary(ima_log.buffer(".ima", b"key").binary, "sha256")
    (evm,) = read_binary(ima_log.record("/a", DIGEST, template="evm-sig", more=EVM).binary, "sha256")

    assert signed.more == (MODSIG["d-modsig"], MODSIG["modsig"])
    assert (measured.buffer, signed.buffer) == (b"key", None)
    assert evm.more == tuple(EVM.values())


def test_format_of_the_kernels_command_line_stands_in_place_of_a_name():
    record = ima_log.record("/a", DIGEST, template="ima-sig", signature=b"\x03")
    data = record.template_data
    name = b"d-ng|n-ng|sig"
    binary = (10).to_bytes(4, "little") + hashlib.sha1(data).digest() + len(name).to_bytes(4, "little") + name
    binary += len(data).to_bytes(4, "little") + data

    (entry,) = read_binary(binary, "sha256")

    assert (entry.path, entry.signature, entry.consistent) == (b"/a", b"\x03", True)
    assert template_named(b"n-ng|d-ngv2").fields == ("n-ng", "d-ngv2")


def test_log_file_of_another_bank():
    """Linux 6.10 and later show the binary log once per bank."""
    record = ima_log.record("/a", DIGEST)
    binary = record.binary[:4] + hashlib.sha256(record.template_data).digest() + record.binary[24:]

    (entry,) = read_binary(binary, "sha256", log_hash="sha256")

    assert (entry.path, entry.consistent) == (b"/a", True)


@given(any_record | st.builds(lambda path: ima_log.record(path, DIGEST), names), st.data())
def test_quick_reading_of_a_record_agrees_with_the_careful_one(record, data):
    binary = bytearray(record.binary)
    if data.draw(st.booleans()):
        binary[data.draw(st.integers(0, len(binary) - 1))] ^= data.draw(st.integers(1, 255))
    plain = plain_binary(bytes(binary))
    if plain is None:
        return
    entry = make_entry(BINARY.parse(bytes(binary)), extension("sha256"))

    assert plain[:2] == (entry.path, entry.digest)
    assert (entry.template, entry.pcr, entry.violation, entry.consistent) == (b"ima-ng", 10, False, True)


@given(any_record, st.data())
def test_changed_bytes_are_read_or_refused(record, data):
    binary = bytearray(record.binary)
    for _ in range(data.draw(st.integers(1, 4))):
        binary[data.draw(st.integers(0, len(binary) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AttestreamError):
        list(read_binary(bytes(binary), "sha256"))


def test_numbers_of_algorithms_are_those_of_the_kernel():
    numbers = {"md4": 0, "sha1": 2, "sha256": 4, "sha512": 6, "sha224": 7, "sm3": 17, "streebog512": 19, "sha3-512": 22}

    assert {name: ALGORITHM_NAMES.index(name) for name in numbers} == numbers
    assert {name.encode() for name in ALGORITHM_NAMES} | {b"sm3-256"} == set(DIGEST_SIZES)
