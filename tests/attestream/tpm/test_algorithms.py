import hashlib

import pytest

from attestream.errors import UnsupportedError
from attestream.tpm.algorithms import curve_by_id, curve_named, hash_by_id, hash_named


@pytest.mark.parametrize(
    ("name", "tpm_id", "size"), [("sha1", 0x04, 20), ("sha256", 0x0B, 32), ("sha384", 0x0C, 48), ("sha512", 0x0D, 64)]
)
def test_hashes_have_the_identifiers_of_the_tcg_registry(name: str, tpm_id: int, size: int) -> None:
    algorithm = hash_named(name)
    assert (algorithm.tpm_id, algorithm.size) == (tpm_id, size)
    assert hash_by_id(tpm_id) is algorithm
    assert algorithm.digest(b"x") == algorithm.new(b"x").digest() == hashlib.new(name, b"x").digest()


@pytest.mark.parametrize(("name", "tpm_id", "size"), [("p256", 3, 32), ("p384", 4, 48), ("p521", 5, 66)])
def test_curves_have_the_identifiers_of_the_tcg_registry(name: str, tpm_id: int, size: int) -> None:
    assert curve_named(name) is curve_by_id(tpm_id)
    assert curve_named(name).size == size


def test_what_is_not_known_is_refused() -> None:
    for call in (
        lambda: hash_named("md5"),
        lambda: hash_by_id(0x0012),
        lambda: curve_named("secp256k1"),
        lambda: curve_by_id(0x0020),
    ):
        with pytest.raises(UnsupportedError):
            call()
