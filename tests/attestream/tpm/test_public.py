import contextlib
import functools
import hashlib
import operator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, EnrolmentError, MalformedError, UnsupportedError
from attestream.tpm.public import (
    Attribute,
    build_public,
    check_attestation_key,
    check_endorsement_key,
    parse_public,
)
from devtools.soft_tpm import KeyPool, SoftTpm

AK = 0x0005_0072
"""fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign: what tpm2-tools gives an AK."""
EK = 0x0003_00B2
"""TCG EK Credential Profile, templates L-1 and L-2."""
KINDS = ["rsa2048", "rsa3072", "p256", "p384", "p521"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_survives_building_and_parsing(keys: KeyPool, kind: str) -> None:
    key = keys.take(kind).public_key()
    scheme = "rsapss" if kind.startswith("rsa") else "ecdsa"
    area = build_public(
        key, attributes=AK, name_hash="sha384", policy=bytes(48), scheme=scheme, scheme_hash="sha512", symmetric_bits=256
    )
    public = parse_public(area)
    assert public.key().public_numbers() == key.public_numbers()
    assert (public.attributes, public.name_hash, public.policy) == (AK, "sha384", bytes(48))
    assert (public.scheme, public.scheme_hash, public.symmetric_bits) == (scheme, "sha512", 256)
    assert public.tpm2b == area
    assert (public.kind, public.bits, public.curve) == (
        ("rsa", int(kind[3:]), "") if kind.startswith("rsa") else ("ecc", 0, kind)
    )
    assert public.name == b"\x00\x0c" + hashlib.sha384(area[2:]).digest()


def test_an_area_has_the_layout_of_the_specification() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    point = key.public_numbers()
    area = build_public(key, attributes=AK, scheme="ecdsa", scheme_hash="sha256")
    assert area.hex() == (
        "0058 0023 000b 00050072 0000 0010 0018000b 0003 0010".replace(" ", "") + f"0020{point.x:064x}0020{point.y:064x}"
    )


def test_coordinates_without_leading_zeros_are_the_same_key() -> None:
    curve = ec.SECP256R1()
    scalar = next(i for i in range(1, 5000) if not ec.derive_private_key(i, curve).public_key().public_numbers().x >> 248)
    key = ec.derive_private_key(scalar, curve).public_key()
    area = build_public(key, attributes=AK, scheme="ecdsa", scheme_hash="sha256")
    short = area[:22] + b"\x00\x1f" + area[25:]
    short = (len(short) - 2).to_bytes(2, "big") + short[2:]
    assert parse_public(short).key().public_numbers() == key.public_numbers()
    assert parse_public(short).name != parse_public(area).name


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_every_truncation_and_a_trailing_byte_are_refused(keys: KeyPool, kind: str) -> None:
    whole = SoftTpm(ek=kind, ak="p256", keys=keys).ek_public
    area = whole[2:]
    for end in range(len(area)):
        for cut in (whole[: 2 + end], end.to_bytes(2, "big") + area[:end]):
            with pytest.raises(MalformedError):
                parse_public(cut)
    for longer in (whole + b"\0", (len(area) + 1).to_bytes(2, "big") + area + b"\0"):
        with pytest.raises(MalformedError):
            parse_public(longer)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(2, "big") + data):
        with contextlib.suppress(AttestreamError):
            parse_public(candidate)


@given(st.data())
def test_a_changed_byte_raises_nothing_else(keys: KeyPool, data: st.DataObject) -> None:
    changed = bytearray(SoftTpm(ek=data.draw(st.sampled_from(["rsa2048", "p256"])), ak="p256", keys=keys).ek_public)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AttestreamError):
        parse_public(bytes(changed)).key()


def replaced(area: bytes, at: int, value: bytes) -> bytes:
    return area[:at] + value + area[at + len(value) :]


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (2, "0008", UnsupportedError),  # TPM_ALG_KEYEDHASH
        (4, "0012", UnsupportedError),  # nameAlg SM3
        (6, "80050072", MalformedError),  # reserved attribute
        (12, "0013", UnsupportedError),  # symmetric algorithm SM4
        (14, "001a", UnsupportedError),  # ECDAA
        (14, "0014", UnsupportedError),  # RSASSA on a point
        (16, "0012", UnsupportedError),  # signs with SM3
        (18, "0010", UnsupportedError),  # BN P256
        (20, "0020", UnsupportedError),  # with a KDF
        (18, "0004", MalformedError),  # P-256 coordinates under P-384
    ],
)
def test_each_field_of_an_ecc_key_is_checked(keys: KeyPool, at: int, value: str, error: type[AttestreamError]) -> None:
    area = build_public(keys.take("p256").public_key(), attributes=AK, scheme="ecdsa", scheme_hash="sha256")
    with pytest.raises(error):
        parse_public(replaced(area, at, bytes.fromhex(value)))


def test_a_point_off_its_curve_is_refused(keys: KeyPool) -> None:
    area = build_public(keys.take("p256").public_key(), attributes=AK, scheme="ecdsa", scheme_hash="sha256")
    for x in (area[24:55] + bytes((area[55] ^ 1,)), b"\xff" * 32, bytes(32)):
        with pytest.raises(MalformedError, match="no point on p256"):
            parse_public(replaced(area, 24, x))


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (18, "0400", UnsupportedError),  # 1024 bits: NIST SP 800-131A
        (20, "00000003", UnsupportedError),  # exponent 3
        (18, "0c00", MalformedError),  # 2048-bit modulus under 3072
        (26, "7f", MalformedError),  # a modulus of 2047 bits
    ],
)
def test_each_field_of_an_rsa_key_is_checked(keys: KeyPool, at: int, value: str, error: type[AttestreamError]) -> None:
    area = build_public(keys.take("rsa2048").public_key(), attributes=AK, scheme="rsassa", scheme_hash="sha256")
    with pytest.raises(error):
        parse_public(replaced(area, at, bytes.fromhex(value)))


def test_an_even_modulus_and_other_exponents_are_refused(keys: KeyPool) -> None:
    area = build_public(keys.take("rsa2048").public_key(), attributes=AK, scheme="rsassa", scheme_hash="sha256")
    with pytest.raises(MalformedError):
        parse_public(area[:-1] + b"\x02")
    assert parse_public(replaced(area, 20, (65537).to_bytes(4, "big"))).bits == 2048


def test_a_policy_has_the_size_of_the_name(keys: KeyPool) -> None:
    key = keys.take("p256").public_key()
    assert parse_public(build_public(key, attributes=AK, policy=bytes(32))).policy == bytes(32)
    for size in (1, 20, 48, 65):
        with pytest.raises(MalformedError):
            parse_public(build_public(key, attributes=AK, policy=bytes(size)))


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_keys_of_a_tpm_are_what_they_claim(keys: KeyPool, kind: str) -> None:
    tpm = SoftTpm(ek=kind, ak=kind, keys=keys)
    check_attestation_key(parse_public(tpm.ak_public))
    check_endorsement_key(parse_public(tpm.ek_public))
    with pytest.raises(EnrolmentError, match="lacks the attribute sign"):
        check_attestation_key(parse_public(tpm.ek_public))
    with pytest.raises(EnrolmentError, match="lacks the attribute decrypt"):
        check_endorsement_key(parse_public(tpm.ak_public))


REQUIRED = [Attribute.fixedTPM, Attribute.fixedParent, Attribute.sensitiveDataOrigin, Attribute.restricted]


@pytest.mark.parametrize("missing", [*REQUIRED, Attribute.sign])
def test_an_attestation_key_without_one_attribute_is_refused(keys: KeyPool, missing: Attribute) -> None:
    key = keys.take("p256").public_key()
    area = build_public(key, attributes=AK & ~missing, scheme="ecdsa", scheme_hash="sha256")
    with pytest.raises(EnrolmentError, match=f"lacks the attribute {missing.name}"):
        check_attestation_key(parse_public(area))


def test_an_attestation_key_that_could_do_more_is_refused(keys: KeyPool) -> None:
    build = functools.partial(build_public, keys.take("p256").public_key())
    wrong = {
        "has the attribute decrypt": build(attributes=AK | Attribute.decrypt, scheme="ecdsa", scheme_hash="sha256"),
        "bound to no signature scheme": build(attributes=AK),
        "signs with sha1": build(attributes=AK, scheme="ecdsa", scheme_hash="sha1"),
        "named by sha1": build(attributes=AK, scheme="ecdsa", scheme_hash="sha256", name_hash="sha1"),
        "only a storage key has": build(attributes=AK, scheme="ecdsa", scheme_hash="sha256", symmetric_bits=128),
    }
    for message, area in wrong.items():
        with pytest.raises(EnrolmentError, match=message):
            check_attestation_key(parse_public(area))


@pytest.mark.parametrize("missing", [*REQUIRED, Attribute.decrypt])
def test_an_endorsement_key_without_one_attribute_is_refused(keys: KeyPool, missing: Attribute) -> None:
    area = build_public(keys.take("p256").public_key(), attributes=EK & ~missing, symmetric_bits=128)
    with pytest.raises(EnrolmentError, match=f"lacks the attribute {missing.name}"):
        check_endorsement_key(parse_public(area))


def test_an_endorsement_key_that_could_do_more_is_refused(keys: KeyPool) -> None:
    build = functools.partial(build_public, keys.take("p256").public_key())
    wrong = {
        "has the attribute sign": build(attributes=EK | Attribute.sign, symmetric_bits=128),
        "has the attribute encryptedDuplication": build(attributes=EK | Attribute.encryptedDuplication, symmetric_bits=128),
        "no symmetric algorithm": build(attributes=EK),
        "bound to a signature scheme": build(attributes=EK, symmetric_bits=128, scheme="ecdsa", scheme_hash="sha256"),
    }
    for message, area in wrong.items():
        with pytest.raises(EnrolmentError, match=message):
            check_endorsement_key(parse_public(area))


def test_attributes_have_the_bits_of_the_specification() -> None:
    bits = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]
    assert functools.reduce(operator.or_, Attribute) == sum(1 << bit for bit in bits)
    assert Attribute.restricted == 0x10000
