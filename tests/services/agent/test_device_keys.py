"""The device identity of a real swtpm that a maker has equipped."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tpm2_pytss import ESAPI

from attestream.config import AgentConfig
from attestream.errors import ConfigError, TpmError
from attestream.tpm.certification import verify_certification
from attestream.tpm.public import check_attestation_key, parse_public
from devtools.certificates import Authority
from devtools.machine_maker import PERSISTENT, equip, write
from devtools.swtpm import Swtpm
from schemas.enrolment import DeviceIdentity, EnrolRequest, certified_data
from services.agent.device_keys import DeviceIdentityError, DeviceKeys
from services.agent.device_templates import IAK, IDEVID
from services.agent.tpm_device import TpmDevice

NOW = 1_800_000_000_000
MAKER = Authority("Maker CA", now=NOW)
BELOW = Authority("Maker Sub CA", now=NOW, parent=MAKER)
REQUEST = EnrolRequest(agent_id="host-1", ek_public=b"e", ak_public=b"a", transport_key=b"t" * 32, nonce=b"n" * 32)


def keys(device: TpmDevice, **settings: object) -> DeviceKeys:
    return DeviceKeys(device, AgentConfig(**{"device_identity": "required", **settings}))


def vouches(shown: DeviceIdentity | None, device: TpmDevice) -> DeviceIdentity:
    """Check the IAK's word for the AK, and return what was shown."""
    assert shown is not None
    iak, ak = parse_public(shown.iak_public), parse_public(device.attestation_key())
    check_attestation_key(iak)
    wanted = certified_data(REQUEST)
    verify_certification(iak, shown.attest, shown.signature, name=ak.name, extra_data=wanted)
    return shown


def loaded(tpm: Swtpm) -> str:
    """Transient objects that the TPM holds."""
    command = ["tpm2_getcap", "-T", tpm.tcti, "handles-transient"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_keys_that_the_maker_left_are_found(swtpm: Swtpm, device: TpmDevice) -> None:
    made = equip(swtpm.tcti, MAKER, "S1")
    found = keys(device)
    for _ in range(2):
        shown = vouches(found.prove(REQUEST), device)
    assert (shown.iak_public, shown.iak_certificates) == (made.keys["IAK"].tpm2b, [made.certificates["IAK"]])
    assert (shown.idevid_public, shown.idevid_certificates) == (made.keys["IDevID"].tpm2b, [made.certificates["IDevID"]])
    assert loaded(swtpm) == ""


@pytest.mark.parametrize(("kind", "variant"), [(("ecc", 256), 0), (("ecc", 256), 1), (("ecc", 384), 0), (("rsa", 2048), 0)])
def test_keys_are_derived_where_the_maker_left_only_certificates(
    swtpm: Swtpm, device: TpmDevice, kind: tuple[str, int], variant: int
) -> None:
    made = equip(swtpm.tcti, MAKER, "S1", kind=kind, variant=variant, persistent=False)
    found = keys(device)
    shown = vouches(found.prove(REQUEST), device)
    assert (shown.iak_public, shown.idevid_public) == (made.keys["IAK"].tpm2b, made.keys["IDevID"].tpm2b)
    swtpm.reboot()  # the saved context is void: they are derived again
    assert vouches(found.prove(REQUEST), device).iak_public == made.keys["IAK"].tpm2b
    assert loaded(swtpm) == ""


def test_certificates_come_from_files(swtpm: Swtpm, device: TpmDevice, tmp_path: Path) -> None:
    made = equip(swtpm.tcti, BELOW, "S1", stored=False)
    chain = (x509.load_der_x509_certificate(made.certificates["IAK"]), BELOW.certificate)
    (tmp_path / "iak.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    (tmp_path / "idevid.der").write_bytes(made.certificates["IDevID"])
    files = {"iak_certificate": tmp_path / "iak.pem", "idevid_certificate": tmp_path / "idevid.der"}
    shown = vouches(keys(device, **files).prove(REQUEST), device)
    assert shown.iak_certificates == [made.certificates["IAK"], BELOW.der]
    assert shown.idevid_certificates == [made.certificates["IDevID"]]


def test_an_iak_without_an_idevid_is_enough(swtpm: Swtpm, device: TpmDevice, tmp_path: Path) -> None:
    made = equip(swtpm.tcti, MAKER, "S1", stored=False)
    with ESAPI(swtpm.tcti) as tpm:
        write(tpm, IAK.certificates.start, made.certificates["IAK"])
        write(tpm, IDEVID.certificates.start, MAKER.identify("IDevID", MAKER.key.public_key()))
    assert vouches(keys(device).prove(REQUEST), device).idevid_public == b""


def test_intermediates_in_any_order_and_what_is_no_certificate(swtpm: Swtpm, device: TpmDevice) -> None:
    """A chain from its root down, cut between two indexes, with padding, junk and somebody else's certificate before it."""
    made = equip(swtpm.tcti, BELOW, "S1", stored=False)
    chain = BELOW.der + made.certificates["IAK"]
    other = BELOW.identify("IAK", MAKER.key.public_key())
    parts = (b"\xff" * 40, b"\x30\x03abc" + other + bytes(9), chain[:300], chain[300:] + bytes(20))
    with ESAPI(swtpm.tcti) as tpm:
        for index, part in enumerate(parts):
            write(tpm, IAK.certificates[2 * index], part)
    assert vouches(keys(device).prove(REQUEST), device).iak_certificates == [made.certificates["IAK"], BELOW.der]


def test_a_machine_without_a_device_identity(swtpm: Swtpm, device: TpmDevice, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(DeviceIdentityError, match="no IAK certificate in its NV memory"):
        keys(device).prove(REQUEST)
    auto = keys(device, device_identity="auto")
    assert auto.prove(REQUEST) is None
    assert [record.levelname for record in caplog.records if "without a device identity" in record.message] == ["INFO"]
    equip(swtpm.tcti, MAKER, "S1")
    assert keys(device, device_identity="off").prove(REQUEST) is None
    assert keys(device, device_identity="auto").prove(REQUEST) is not None


def test_a_certificate_of_another_machine(
    swtpm: Swtpm, device: TpmDevice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    equip(swtpm.tcti, MAKER, "S1")
    (tmp_path / "iak.der").write_bytes(MAKER.identify("IAK", MAKER.key.public_key(), serial="S2"))
    file = {"iak_certificate": tmp_path / "iak.der"}
    with pytest.raises(DeviceIdentityError, match=r"serialNumber=S2.* is not at the handles"):
        keys(device, **file).prove(REQUEST)
    with pytest.raises(DeviceIdentityError, match="not at handle 0x81020007"):
        keys(device, **file, iak_handle="0x81020007").prove(REQUEST)
    assert keys(device, **file, device_identity="auto").prove(REQUEST) is None
    assert [one.levelname for one in caplog.records if "without a device identity" in one.message] == ["WARNING"]


def test_an_iak_with_a_password(swtpm: Swtpm, device: TpmDevice, tmp_path: Path) -> None:
    equip(swtpm.tcti, MAKER, "S1", password=b"secret")
    file = tmp_path / "password"
    file.write_text("secret\n")
    handle = f"{PERSISTENT['IAK']:#x}"
    vouches(keys(device, iak_password_file=file, iak_handle=handle).prove(REQUEST), device)


def test_a_wrong_password_is_tried_once(swtpm: Swtpm, device: TpmDevice) -> None:
    """Each wrong one brings the TPM nearer to its lockout."""
    equip(swtpm.tcti, MAKER, "S1", password=b"secret")
    found = keys(device, device_identity="auto")
    for _ in range(5):
        assert found.prove(REQUEST) is None
    command = ["tpm2_getcap", "-T", swtpm.tcti, "properties-variable"]
    properties = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "TPM2_PT_LOCKOUT_COUNTER: 0x1\n" in properties
    with pytest.raises(DeviceIdentityError, match="certify the AK"):
        keys(device).prove(REQUEST)


def test_a_tpm_that_is_away_does_not_cost_the_device_identity(swtpm: Swtpm, tmp_path: Path) -> None:
    equip(swtpm.tcti, MAKER, "S1")
    device = TpmDevice(swtpm.tcti, tmp_path / "data", ek="p256", ak="p256", busy_s=0.05)
    device.attestation_key()
    found = keys(device, device_identity="auto")
    swtpm.stop()
    with pytest.raises(TpmError):
        found.prove(REQUEST)
    swtpm.start()
    vouches(found.prove(REQUEST), device)


@pytest.mark.parametrize("content", [b"junk", b"\x30" * 30_000, None])
def test_a_file_that_is_no_certificate(device: TpmDevice, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "iak.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"iak\.pem"):
        keys(device, iak_certificate=file)
