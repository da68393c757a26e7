"""What a test vector may hold."""

import pytest

from attestream.errors import TooLargeError
from devtools.vm.recorder import MAX_VECTOR, write_vector
from schemas.attestation import Evidence, ImaDelta


def evidence(ima):
    return Evidence(
        agent_id="vm",
        enrolment=1,
        nonce=b"n",
        seq=1,
        issued_at=1,
        quote=b"q",
        signature=b"s",
        transport_key=b"t",
        ima=ImaDelta(ima_first=0, count=1, data=ima),
        boot_log=b"boot",
    )


def test_a_log_that_is_too_large_is_no_vector(tmp_path):
    with pytest.raises(TooLargeError):
        write_vector(evidence(bytes(MAX_VECTOR + 1)), b"ak", "", tmp_path)
    assert len(write_vector(evidence(b"ima"), b"ak", "", tmp_path)) == 3
