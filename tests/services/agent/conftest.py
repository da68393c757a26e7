"""A software TPM with EK certificates, made once; each test gets its own copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestream.bus.connection import Bus
from devtools.evidence_stream import EvidenceStream
from devtools.ima_emulator import ImaEmulator
from devtools.swtpm import Swtpm
from services.agent.tpm_device import TpmDevice


@pytest.fixture(scope="session")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State directory of a TPM that was made and is not running."""
    state_dir = tmp_path_factory.mktemp("manufactured")
    Swtpm.launch(state_dir).stop()
    return state_dir


@pytest.fixture
def swtpm(manufactured: Path, tmp_path: Path) -> Iterator[Swtpm]:
    """A running TPM of this test alone."""
    state_dir = tmp_path / "swtpm"
    shutil.copytree(manufactured, state_dir)
    with Swtpm.launch(state_dir) as tpm:
        yield tpm


@pytest.fixture
def emulator(swtpm: Swtpm, tmp_path: Path) -> ImaEmulator:
    """An IMA log of that TPM, just booted."""
    made = ImaEmulator(tmp_path / "ima", swtpm.tcti)
    made.boot()
    return made


@pytest.fixture
def device(swtpm: Swtpm, tmp_path: Path) -> TpmDevice:
    """The agent's view of that TPM, with an ECC AK: it is made in no time."""
    made = TpmDevice(swtpm.tcti, tmp_path / "agent", ek="p256", ak="p256")
    made.attestation_key()
    return made


@pytest.fixture
def stream(bus: Bus) -> EvidenceStream:
    """What agents have sent over ``bus``."""
    return EvidenceStream(bus)
