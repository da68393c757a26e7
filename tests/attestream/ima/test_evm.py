"""Portable EVM signatures: what they cover, and what they do not prove."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError
from attestream.ima.digests import digest_field
from attestream.ima.evm import FIELDS, Trust, read_protected, why_unproven
from attestream.ima.keys import KeyRing, SigningKey
from devtools.evm_signature import evm_fields, ima_digest, sign

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
CONTENT = hashlib.sha256(b"a program").digest()
DIGEST = digest_field("sha256", CONTENT)
LABEL = b"system_u:object_r:bin_t:s0\x00"
ATTRIBUTES = {"security.selinux": LABEL, "security.ima": ima_digest(CONTENT), "security.capability": bytes(20)}


def ring(*keys):
    return KeyRing(SigningKey(key.public_key()) for key in keys)


def trust(*keys, hashes=("sha256", "sha512"), file_keys=()):
    return Trust((ring(*keys),), (ring(*file_keys),), hashes)


def why(fields, *, digest=DIGEST, by=None):
    return why_unproven(fields, digest, by or trust(RSA, EC))


@pytest.mark.parametrize("key", [RSA, EC], ids=["rsa", "ec"])
@pytest.mark.parametrize("hash_name", ["sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_signature_over_attributes_and_inode_proves_the_file(key, hash_name, version):
    fields = evm_fields(key, ATTRIBUTES, owner=1000, group=100, mode=0o100640, hash_name=hash_name, version=version)
    both = (hash_name, "sha256")
    assert why(fields, by=trust(RSA, EC, hashes=both)) == ""
    assert "no key has the id" in why(fields, by=trust(EC if key is RSA else RSA, hashes=both))
    assert "is not valid for its attributes" in why(fields | {"iuid": bytes(4)}, by=trust(RSA, EC, hashes=both))
    if hash_name != "sha256":
        assert f"is over {hash_name}" in why(fields, by=trust(RSA, EC, hashes=("sha256",)))


@pytest.mark.parametrize("version", [2, 3])
def test_a_signature_of_one_version_is_none_of_the_other(version):
    fields = evm_fields(RSA, ATTRIBUTES, version=version)
    relabelled = bytes((5, 5 - version)) + fields["evmsig"][2:]
    assert "is not valid for its attributes" in why(fields | {"evmsig": relabelled})


def test_version_3_signs_for_what_it_was_made():
    """With version 2, a signature of a file whose content has the same digest would count."""
    fields = evm_fields(RSA, ATTRIBUTES)
    digest = next(read_protected(fields).digests("sha256"))[len("sha256:\0") :]
    of_a_file = sign(RSA, digest, kind=3, version=3)
    assert "is not valid for its attributes" in why(fields | {"evmsig": b"\x05" + of_a_file[1:]})


def test_the_digest_that_version_3_signs_is_that_of_the_kernel():
    """Worked out by hand from ``struct ima_file_id``: type, algorithm, and the digest without padding."""
    fields = evm_fields(EC, ATTRIBUTES)
    digest = next(read_protected(fields).digests("sha256"))[len("sha256:\0") :]
    signed = hashlib.sha256(b"\x05\x04" + digest).digest()
    value = EC.sign(signed, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    head = b"\x05\x03\x04" + SigningKey(EC.public_key()).keyid.to_bytes(4, "big") + len(value).to_bytes(2, "big")
    assert why(fields | {"evmsig": head + value}) == ""


def test_the_digest_is_that_of_the_kernel():
    """Worked out by hand from ``struct h_misc`` of a 64-bit kernel: 24 bytes, of which 12 are zeros and 2 padding."""
    fields = evm_fields(RSA, {"security.ima": b"\x04\x04" + CONTENT}, owner=0x01020304, group=5, mode=0o100755)
    misc = bytes(12) + bytes.fromhex("0403020105000000ed810000")
    assert next(read_protected(fields).digests("sha256")) == digest_field(
        "sha256", hashlib.sha256(b"\x04\x04" + CONTENT + misc).digest()
    )


NO_CAPABILITY = {"security.selinux": LABEL, "security.ima": ima_digest(b"\x01" * 32)}
"""Attributes that do not end in zeros, as those of a file without capabilities."""
OF_ONES = digest_field("sha256", b"\x01" * 32)


@pytest.mark.parametrize("key", [RSA, EC], ids=["rsa", "ec"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_signature_for_32_bit_kernels_proves_the_file(key, version):
    fields = evm_fields(key, NO_CAPABILITY, owner=1000, group=100, mode=0o100640, version=version, bits=32)
    assert why(fields, digest=OF_ONES) == ""
    for change in ({"iuid": bytes(4)}, {"igid": bytes(4)}, {"imode": b"\xed\x89"}):
        assert "is not valid for its attributes" in why(fields | change, digest=OF_ONES)
    assert "no key has the id" in why(fields, digest=OF_ONES, by=trust(EC if key is RSA else RSA))


def test_the_digest_for_32_bit_kernels_is_that_of_the_kernel():
    """Worked out by hand from ``struct h_misc`` of a 32-bit kernel: 20 bytes, of which 8 are zeros and 2 padding."""
    fields = evm_fields(RSA, {"security.ima": b"\x04\x04" + b"\x01" * 32}, owner=0x01020304, group=5, mode=0o100755)
    misc = bytes(8) + bytes.fromhex("0403020105000000ed810000")
    _, second = read_protected(fields).digests("sha256")
    assert second == digest_field("sha256", hashlib.sha256(b"\x04\x04" + b"\x01" * 32 + misc).digest())


def with_last(fields, value):
    """Return ``fields`` with another value of the last attribute; nothing in them says how long it was."""
    names = fields["xattrnames"].rstrip(b"\x00").split(b"|")
    sizes = [size for (size,) in struct.iter_unpack("<I", fields["xattrlengths"])]
    kept = fields["xattrvalues"][: sum(sizes[:-1])]
    assert len(names) == len(sizes)
    return fields | {
        "xattrlengths": struct.pack(f"<{len(sizes)}I", *sizes[:-1], len(value)),
        "xattrvalues": kept + value,
    }


def test_a_signature_for_one_kernel_is_not_taken_for_one_of_other_attributes_for_the_other():
    """Both layouts differ by four zeros before owner, group and mode, which could as well end the last attribute."""
    ours = NO_CAPABILITY | {"security.mine": b"value"}
    wide, narrow = (evm_fields(RSA, ours, bits=bits) for bits in (64, 32))
    assert why(wide, digest=OF_ONES) == why(narrow, digest=OF_ONES) == ""
    for fields in (wide, narrow):
        for value in (b"value" + bytes(4), b"value" + bytes(8), b"v", b""):
            assert "is not valid for its attributes" in why(with_last(fields, value), digest=OF_ONES)


def test_attributes_that_end_in_four_zeros_are_signed_for_64_bit_kernels_only():
    ours = NO_CAPABILITY | {"security.capability": bytes(20)}
    assert why(evm_fields(RSA, ours), digest=OF_ONES) == ""
    assert "is not valid for its attributes" in why(evm_fields(RSA, ours, bits=32), digest=OF_ONES)


@given(st.binary(max_size=12), st.binary(max_size=12), st.sampled_from([64, 32]))
def test_what_is_signed_can_be_read_in_one_way_only(signed, shown, bits):
    fields = evm_fields(EC, NO_CAPABILITY | {"security.mine": signed}, bits=bits)
    proven = why(with_last(fields, shown), digest=OF_ONES) == ""
    # Cut by four zeros, what is signed for 32 bits is the same as the rest for 64: no signature can tell.
    assert proven == (signed == shown if bits == 64 or not signed.endswith(bytes(4)) else signed == shown + bytes(4))


@pytest.mark.parametrize("version", [2, 3])
def test_a_signature_for_big_endian_machines_proves_nothing(version):
    for bits in (64, 32):
        fields = evm_fields(RSA, NO_CAPABILITY, owner=1000, group=100, version=version, bits=bits, order=">")
        assert "is not valid for its attributes" in why(fields, digest=OF_ONES)


@pytest.mark.parametrize(
    "change",
    [
        {"iuid": struct.pack("<I", 1)},
        {"igid": struct.pack("<I", 1)},
        {"imode": struct.pack("<H", 0o104755)},
        {"xattrvalues": LABEL.replace(b"bin_t", b"any_t") + ima_digest(CONTENT) + bytes(20)},
    ],
    ids=["owner", "group", "set-uid", "label"],
)
def test_what_was_changed_since_is_not_proven(change):
    assert "is not valid for its attributes" in why(evm_fields(RSA, ATTRIBUTES) | change)


def test_a_valid_signature_of_other_content_proves_nothing():
    other = digest_field("sha256", hashlib.sha256(b"another program").digest())
    assert "has another digest than the file" in why(evm_fields(RSA, ATTRIBUTES), digest=other)
    assert "has another digest" in why(evm_fields(RSA, ATTRIBUTES), digest=digest_field("sha512", bytes(64)))


def test_without_security_ima_the_content_is_not_covered():
    """The kernel refuses such signatures, too (``evm_calc_hmac_or_hash``: "must include an IMA hash")."""
    assert "does not cover security.ima" in why(evm_fields(RSA, {"security.selinux": LABEL}))
    assert "does not cover security.ima" in why(evm_fields(RSA, {"security.ima": b"", "security.selinux": LABEL}))


def test_security_ima_may_itself_be_a_signature():
    signed = evm_fields(RSA, {"security.ima": sign(EC, CONTENT, kind=3)})
    assert why(signed, by=trust(RSA, file_keys=[EC])) == ""
    assert "is not valid for the file's content" in why(signed, by=trust(RSA))
    stolen = evm_fields(RSA, {"security.ima": sign(EC, hashlib.sha256(b"another").digest(), kind=3)})
    assert "is not valid for the file's content" in why(stolen, by=trust(RSA, file_keys=[EC]))
    third = evm_fields(RSA, {"security.ima": sign(EC, CONTENT, kind=3, version=3)})
    assert why(third, by=trust(RSA, file_keys=[EC])) == ""
    verity = evm_fields(RSA, {"security.ima": sign(EC, CONTENT, kind=6, version=3)})
    assert why(verity, digest=b"verity:" + DIGEST, by=trust(RSA, file_keys=[EC])) == ""
    assert "is not valid for the file's content" in why(third, digest=b"verity:" + DIGEST, by=trust(RSA, file_keys=[EC]))
    portable = evm_fields(RSA, {"security.ima": sign(EC, CONTENT, kind=5)})
    assert "of a kind that does not count" in why(portable, by=trust(RSA, file_keys=[EC]))


def test_a_weak_hash_does_not_count():
    weak = hashlib.sha1(b"a program").digest()
    assert "is over sha1" in why(evm_fields(RSA, ATTRIBUTES, hash_name="sha1"))
    inside = evm_fields(RSA, {"security.ima": b"\x01" + weak})
    assert "of a kind that does not count" in why(inside, digest=digest_field("sha1", weak))
    assert why(inside, digest=digest_field("sha1", weak), by=trust(RSA, hashes=("sha1", "sha256"))) == ""


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (sign(RSA, CONTENT, kind=3), "is of type 3"),
        (b"\x02" + bytes(20), "type 2 is not that of a file signature"),
        (b"\x05\x04" + sign(RSA, CONTENT, kind=5)[2:], "version 4"),
        (b"\x05\x01" + sign(RSA, CONTENT, kind=5)[2:], "version 1"),
        (b"\x05\x02\x04", "ends within its header"),
    ],
    ids=["of a file", "hmac", "version 4", "version 1", "cut"],
)
def test_what_is_no_portable_signature_does_not_count(signature, reason):
    assert reason in why(evm_fields(RSA, ATTRIBUTES) | {"evmsig": signature})


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_the_log_does_not_carry_is_named(name):
    fields = evm_fields(RSA, ATTRIBUTES)
    assert f"the log carries no {name}" in why(fields | {name: b""})
    assert f"the log carries no {name}" in why({key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize(
    "change",
    [
        {"xattrnames": b"security.ima"},
        {"xattrnames": b"security.ima\x00security.capability\x00"},
        {"xattrnames": b"security.ima|security.ima|security.ima\x00"},
        {"xattrnames": b"security.ima\x00"},
        {"xattrlengths": b"\x01"},
        {"xattrlengths": struct.pack("<III", 1, 2, 3)},
        {"iuid": b"\x00"},
        {"imode": bytes(4)},
        {"xattrnames": b"|".join(str(number).encode() for number in range(65)) + b"\x00", "xattrlengths": bytes(4 * 65)},
    ],
)
def test_fields_that_do_not_fit_together_are_refused(change):
    with pytest.raises(MalformedError):
        read_protected(evm_fields(RSA, ATTRIBUTES) | change)
    assert "can not be checked" in why(evm_fields(RSA, ATTRIBUTES) | change)


@given(st.fixed_dictionaries(dict.fromkeys(FIELDS, st.binary(max_size=40))))
def test_arbitrary_fields_prove_nothing(fields):
    assert why(fields)
