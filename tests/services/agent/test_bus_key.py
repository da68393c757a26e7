"""The key of an identity on the bus: only this TPM opens it, or only this user reads it."""

import logging
import shutil

import pytest

from attestream.errors import MalformedError
from devtools.swtpm import Swtpm
from services.agent import bus_key
from services.agent.tpm_device import TpmDevice


@pytest.mark.parametrize("kept", ["tpm", "file"])
def test_key_lasts_in_a_private_file_and_never_reaches_the_log(device, tmp_path, kept, caplog):
    caplog.set_level(logging.DEBUG)
    data = tmp_path / "agent"
    made = bus_key.load(data, kept, device)
    file = data / bus_key.FILES[kept]
    assert file.stat().st_mode & 0o777 == 0o600
    assert (made.private_bytes() in file.read_bytes()) == (kept == "file")
    assert bus_key.load(data, kept, device).public == made.public
    assert made.public in caplog.text
    assert made.seed not in caplog.text


def test_sealed_key_is_worth_nothing_with_another_tpm(device, tmp_path, caplog):
    data = tmp_path / "agent"
    made = bus_key.load(data, "tpm", device)
    stolen = tmp_path / "thief" / bus_key.FILES["tpm"]
    stolen.parent.mkdir()
    shutil.copy(data / bus_key.FILES["tpm"], stolen)
    with Swtpm.launch(tmp_path / "other", certificates=False) as other:
        thief = TpmDevice(other.tcti, stolen.parent, ek="p256", ak="p256")
        assert thief.unseal(stolen.read_bytes()) is None
        assert bus_key.load(stolen.parent, "tpm", thief).public != made.public
    assert "sealed by another TPM" in caplog.text


def test_key_that_is_kept_in_another_way_now_does_not_lie_about(device, tmp_path):
    data = tmp_path / "agent"
    bus_key.load(data, "file", device)
    bus_key.load(data, "tpm", device)
    assert not (data / bus_key.FILES["file"]).exists()


def test_damaged_file_makes_a_new_key(device, tmp_path, caplog):
    data = tmp_path / "agent"
    made = bus_key.load(data, "tpm", device)
    (data / bus_key.FILES["tpm"]).write_bytes(b"nonsense")
    assert bus_key.load(data, "tpm", device).public != made.public
    assert "is damaged" in caplog.text


def test_what_is_no_blob_is_refused(device):
    with pytest.raises(MalformedError):
        device.unseal(b"\xc1")
