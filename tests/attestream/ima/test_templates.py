import hashlib

import pytest

from attestream.errors import MalformedError
from attestream.ima.digests import DIGEST_SIZES, digest_field, digest_text


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"])
def test_digest_sizes_are_those_of_the_algorithms(algorithm):
    assert DIGEST_SIZES[algorithm.encode()] == hashlib.new(algorithm).digest_size


def test_digest_text_and_field_are_inverse():
    field = digest_field("sha256", bytes(32))

    assert field == b"sha256:\x00" + bytes(32)
    assert digest_text(field) == "sha256:" + "00" * 32


@pytest.mark.parametrize(
    ("algorithm", "size"), [("sha256", 20), ("sha255", 32), ("", 0), ("sha256\x00", 32), ("sh\udc80", 32)]
)
def test_digest_that_no_kernel_makes(algorithm, size):
    with pytest.raises(MalformedError):
        digest_field(algorithm, bytes(size))
