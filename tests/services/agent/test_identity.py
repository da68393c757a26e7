"""The agent's identity in its data directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from attestream.errors import ConfigError
from schemas import subjects
from services.agent import identity as identities


def test_an_identity_is_made_once_and_private(tmp_path: Path) -> None:
    made = identities.load(tmp_path, "")
    assert identities.load(tmp_path, "") == made
    assert identities.load(tmp_path, made.agent_id) == made
    assert subjects.token(made.agent_id) == made.agent_id
    assert (tmp_path / identities.FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert made.transport_digest == hashlib.sha256(made.transport_public).digest()


def test_another_id_is_another_identity(tmp_path: Path) -> None:
    made = identities.load(tmp_path, "host-1")
    identities.store(tmp_path, msgspec.structs.replace(made, enrolment=3, ak_public=b"ak"))
    other = identities.load(tmp_path, "host-2")
    assert (other.agent_id, other.enrolment) == ("host-2", 0)
    assert other.transport_private != made.transport_private


SHORT_KEY = msgspec.msgpack.encode({"agent_id": "host-1", "transport_private": bytes(31)})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"x" * 100_000, SHORT_KEY])
def test_a_damaged_identity_is_not_replaced_in_silence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / identities.FILE_NAME).write_bytes(data)
    with pytest.raises(ConfigError):
        identities.load(tmp_path, "")
