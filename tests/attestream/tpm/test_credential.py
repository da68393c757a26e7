import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, SignatureError, TooLargeError, UnsupportedError
from attestream.tpm.credential import (
    IdObject,
    build_id_object,
    kdf_a,
    kdf_e,
    make_credential,
    open_credential,
    parse_id_object,
    protect_secret,
)
from attestream.tpm.marshalling import sized
from attestream.tpm.public import parse_public
from devtools.soft_tpm import KeyPool, SoftTpm

NAME = b"\x00\x0b" + bytes(range(32))
EKS = ["rsa2048", "rsa3072", "p256", "p384"]


@pytest.mark.parametrize("ek", EKS)
@pytest.mark.parametrize("size", [1, 16, 32])
def test_a_credential_opens_in_its_tpm(keys: KeyPool, ek: str, size: int) -> None:
    tpm = SoftTpm(ek=ek, ak="p256", keys=keys)
    secret = bytes(range(size))
    assert tpm.activate(*make_credential(parse_public(tpm.ek_public), tpm.ak_name, secret)) == secret


@pytest.mark.parametrize("ek", ["rsa2048", "p256"])
def test_a_credential_for_another_tpm_or_key_does_not_open(keys: KeyPool, ek: str) -> None:
    mine, other = (SoftTpm(ek=ek, ak="p256", keys=keys) for _ in range(2))
    public = parse_public(mine.ek_public)
    with pytest.raises(SignatureError):
        other.activate(*make_credential(public, other.ak_name, b"secret"))
    with pytest.raises(SignatureError):
        mine.activate(*make_credential(public, other.ak_name, b"secret"))


@pytest.mark.parametrize("ek", ["rsa2048", "p256"])
def test_no_byte_of_a_credential_can_be_changed(keys: KeyPool, ek: str) -> None:
    tpm = SoftTpm(ek=ek, ak="p256", keys=keys)
    made = make_credential(parse_public(tpm.ek_public), tpm.ak_name, b"secret")
    for part in (0, 1):
        for at in range(0, len(made[part]), 7):
            changed = list(made)
            changed[part] = made[part][:at] + bytes((made[part][at] ^ 0x10,)) + made[part][at + 1 :]
            with pytest.raises(AttestreamError):
                tpm.activate(*changed)
        for cut in (made[part][:-1], made[part] + b"\0", b""):
            changed = list(made)
            changed[part] = cut
            with pytest.raises(AttestreamError):
                tpm.activate(*changed)


@given(credential=st.binary(max_size=200), secret=st.binary(max_size=300), ek=st.sampled_from(["rsa2048", "p256"]))
def test_arbitrary_bytes_raise_nothing_else(keys: KeyPool, credential: bytes, secret: bytes, ek: str) -> None:
    tpm = SoftTpm(ek=ek, ak="p256", keys=keys)
    for opened in ((credential, secret), (sized(credential), sized(secret))):
        with pytest.raises(AttestreamError):
            tpm.activate(*opened)


@given(inner=st.binary(max_size=100))
def test_arbitrary_objects_under_a_proper_seed_raise_nothing_else(keys: KeyPool, inner: bytes) -> None:
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    _, secret = make_credential(parse_public(tpm.ek_public), tpm.ak_name, b"secret")
    with contextlib.suppress(AttestreamError):
        tpm.activate(sized(inner), secret)


def test_an_ephemeral_point_off_the_curve_is_refused(keys: KeyPool) -> None:
    """Invalid-curve attack: such a point would leak the private key bit by bit."""
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    credential, _ = make_credential(parse_public(tpm.ek_public), tpm.ak_name, b"secret")
    with pytest.raises(MalformedError, match="not on p256"):
        tpm.activate(credential, sized(sized(b"\1" * 32) + sized(b"\2" * 32)))


def test_each_credential_is_different_and_the_seed_comes_from_random(keys: KeyPool) -> None:
    tpm = SoftTpm(ek="rsa2048", ak="p256", keys=keys)
    public = parse_public(tpm.ek_public)
    assert make_credential(public, NAME, b"secret")[0] != make_credential(public, NAME, b"secret")[0]
    asked: list[int] = []

    def fixed(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    assert make_credential(public, NAME, b"x", random=fixed)[0] == protect_secret(public, bytes(32), NAME, b"x")
    assert asked == [32]


def test_secrets_and_names_are_bounded(keys: KeyPool) -> None:
    public = parse_public(SoftTpm(ek="p256", ak="p256", keys=keys).ek_public)
    for name, secret in ((NAME, b""), (NAME, bytes(33)), (b"", b"x"), (bytes(67), b"x")):
        with pytest.raises(MalformedError):
            make_credential(public, name, secret)


def test_a_key_that_is_no_storage_key_gets_no_credential(keys: KeyPool) -> None:
    public = parse_public(SoftTpm(ek="p256", ak="p256", keys=keys).ak_public)
    with pytest.raises(UnsupportedError):
        make_credential(public, NAME, b"secret")


def test_the_derivation_functions_know_their_answers() -> None:
    """Computed with the openssl program over the bytes that Part 1, section 11.4.10 prescribes."""
    assert kdf_a("sha256", b"\x11" * 32, b"INTEGRITY", b"", 256).hex() == (
        "94789f5bdf2e06996955def207b39ac5450e89e24dd1474bd9efc38901e2fd81"
    )
    assert kdf_e("sha256", b"\x22" * 32, b"IDENTITY", b"\x33" * 32, b"\x44" * 32, 256).hex() == (
        "f59da144d928b82a7aceb16c1dbc3c5b0588ef575d1baefaade7131ba5f2c6a5"
    )
    assert len(kdf_a("sha256", b"key", b"STORAGE", NAME, 512)) == 64
    assert kdf_a("sha256", b"key", b"STORAGE", NAME, 128) != kdf_a("sha256", b"key", b"STORAGE", NAME, 256)[:16]


def test_open_credential_needs_the_right_name() -> None:
    pool = KeyPool(1)
    tpm = SoftTpm(ek="p256", ak="rsa2048", keys=pool)
    public = parse_public(tpm.ek_public)
    made = make_credential(public, NAME, b"secret")
    assert open_credential(pool.take("p256", "ek"), public, NAME, *made) == b"secret"
    with pytest.raises(SignatureError):
        open_credential(pool.take("p256", "ek"), public, NAME[:-1] + b"\0", *made)


@given(st.binary(max_size=64), st.binary(max_size=66))
def test_an_id_object_survives_building_and_parsing(integrity: bytes, encrypted: bytes) -> None:
    id_object = IdObject(integrity, encrypted)
    assert parse_id_object(build_id_object(id_object)) == id_object


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_id_object_or_malformed(data: bytes) -> None:
    with contextlib.suppress(AttestreamError):
        parse_id_object(data)


def test_an_id_object_is_bounded() -> None:
    for wrong in (IdObject(bytes(65), b""), IdObject(b"", bytes(67))):
        with pytest.raises(TooLargeError):
            build_id_object(wrong)
    whole = build_id_object(IdObject(bytes(32), bytes(34)))
    for cut in (*(whole[:end] for end in range(len(whole))), whole + b"\0"):
        with pytest.raises(MalformedError):
            parse_id_object(cut)
