import hashlib

import pytest

from attestream.errors import MalformedError, UnsupportedError
from attestream.tpm.names import ENDORSEMENT, MAX_NAME, name_of, qualified_name


@pytest.mark.parametrize(
    ("number", "algorithm"), [(0x0004, "sha1"), (0x000B, "sha256"), (0x000C, "sha384"), (0x000D, "sha512")]
)
def test_a_name_is_its_hash_and_the_digest_of_the_area(number: int, algorithm: str) -> None:
    area = b"\x00\x01" + number.to_bytes(2, "big") + b"rest"
    name = name_of(area)
    assert name == number.to_bytes(2, "big") + hashlib.new(algorithm, area).digest()
    assert len(name) <= MAX_NAME


def test_an_area_without_a_known_hash_has_no_name() -> None:
    with pytest.raises(MalformedError):
        name_of(b"\x00\x01\x00")
    with pytest.raises(UnsupportedError):
        name_of(bytes(4))


def test_a_qualified_name_chains_up_to_the_hierarchy() -> None:
    primary, child = b"\x00\x0b" + bytes(32), b"\x00\x0c" + bytes(48)
    above = qualified_name(ENDORSEMENT.to_bytes(4, "big"), primary)
    assert above == b"\x00\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + primary).digest()
    assert qualified_name(above, child) == b"\x00\x0c" + hashlib.sha384(above + child).digest()


@pytest.mark.parametrize("name", [b"\x00\x0b" + bytes(31), b"\x00\x0b" + bytes(33), b"\x00\x0b"])
def test_a_name_of_the_wrong_size_is_refused(name: bytes) -> None:
    with pytest.raises(MalformedError):
        qualified_name(b"", name)
