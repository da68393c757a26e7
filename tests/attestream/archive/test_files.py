"""Exported evidence that somebody else has written."""

import pytest

from attestream.archive import files
from attestream.errors import MalformedError


@pytest.mark.parametrize("proof", [b"", b"{}", b'{"format": "\xff"}', b"[" * 100_000, b'{"format": "other"}'])
def test_a_proof_that_can_not_be_read_is_said_in_a_line(tmp_path, proof):
    (tmp_path / files.PROOF).write_bytes(proof)
    with pytest.raises(MalformedError):
        files.read(tmp_path, None)


def test_a_file_over_its_limit_is_refused(tmp_path):
    (tmp_path / files.PROOF).write_bytes(bytes(5 << 20))
    with pytest.raises(MalformedError, match="is larger than"):
        files.read(tmp_path, None)
