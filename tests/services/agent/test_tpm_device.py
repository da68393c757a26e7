"""The TPM device against a real swtpm."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestream.errors import ConfigError, MalformedError, SignatureError, TpmError
from attestream.tpm.credential import make_credential
from attestream.tpm.public import check_attestation_key, check_endorsement_key, parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from attestream.tpm.structures import parse_quote, parse_signature
from devtools.swtpm import Swtpm
from services.agent.tpm_device import KeyLostError, TpmDevice

KINDS = [("rsa2048", "rsa2048", ""), ("rsa2048", "rsa2048", "rsapss"), ("p256", "p256", ""), ("rsa2048", "p256", "ecdsa")]
BANKS = {"sha1": [10], "sha256": [0, 7, 10, 17, 18, 19, 20, 21, 22, 23]}


def loaded(tpm: Swtpm) -> str:
    """Transient objects and sessions that the TPM holds."""
    return "".join(
        subprocess.run(["tpm2_getcap", "-T", tpm.tcti, what], capture_output=True, text=True, check=True).stdout
        for what in ("handles-transient", "handles-loaded-session", "handles-saved-session")
    )


@pytest.mark.parametrize(("ek", "ak", "scheme"), KINDS)
def test_a_key_proves_itself_and_quotes(swtpm: Swtpm, tmp_path: Path, ek: str, ak: str, scheme: str) -> None:
    tpm = TpmDevice(swtpm.tcti, tmp_path / "agent", ek=ek, ak=ak, ak_scheme=scheme)
    ek_public = parse_public(tpm.endorsement_key().public)
    ak_public = parse_public(tpm.attestation_key())
    check_endorsement_key(ek_public)
    check_attestation_key(ak_public)

    secret = secrets.token_bytes(32)
    assert tpm.activate(*make_credential(ek_public, ak_public.name, secret)) == secret

    quoted, signature = tpm.quote(b"n" * 32, BANKS)
    quote = verify_quote_signature(ak_public, quoted, signature)
    assert quote.extra_data == b"n" * 32
    assert quote.selection == (("sha1", (10,)), ("sha256", tuple(BANKS["sha256"])))
    assert parse_signature(signature).scheme == (scheme or {"rsa2048": "rsassa", "p256": "ecdsa"}[ak])
    values = tpm.read_pcrs(BANKS)
    assert pcr_digest("sha256", quote.selection, values) == quote.pcr_digest
    assert values["sha256"][17] == b"\xff" * 32
    assert loaded(swtpm) == ""


def test_a_credential_for_another_ak_is_not_opened(swtpm: Swtpm, tmp_path: Path) -> None:
    tpm = TpmDevice(swtpm.tcti, tmp_path / "agent", ek="p256", ak="p256")
    other = TpmDevice(swtpm.tcti, tmp_path / "other", ek="p256", ak="p256")
    ek = parse_public(tpm.endorsement_key().public)
    credential = make_credential(ek, parse_public(other.attestation_key()).name, b"s" * 32)
    with pytest.raises(TpmError):
        tpm.activate(*credential)
    assert loaded(swtpm) == ""


def test_a_credential_that_is_none_is_malformed(device: TpmDevice) -> None:
    with pytest.raises(MalformedError):
        device.activate(b"\x00", b"\x00\x00")
    ek, ak = parse_public(device.endorsement_key().public), parse_public(device.attestation_key())
    credential, secret = make_credential(ek, ak.name, b"s" * 32)
    with pytest.raises(MalformedError):
        device.activate(credential + b"\x00", secret)


def test_the_rsa_ek_is_the_one_that_its_certificate_names(swtpm: Swtpm, tmp_path: Path) -> None:
    key = TpmDevice(swtpm.tcti, tmp_path / "agent", ek="rsa2048").endorsement_key()
    certificate = x509.load_der_x509_certificate(key.certificates[0])
    assert certificate.public_key() == parse_public(key.public).key()
    issuer = x509.load_pem_x509_certificate(swtpm.ca_certificates[0].read_bytes())
    certificate.verify_directly_issued_by(issuer)


def test_intermediates_follow_the_certificate(swtpm: Swtpm, tmp_path: Path) -> None:
    chain = b"".join(
        x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) for path in swtpm.ca_certificates
    )
    # The chain is cut in the middle of a certificate, as TPM makers do where an index is full.
    for index, part in ((0x01C00100, chain[:900]), (0x01C00101, chain[900:] + b"\xff" * 8)):
        command = ["tpm2_nvdefine", "-T", swtpm.tcti, hex(index), "-C", "o", "-s", str(len(part)), "-a"]
        subprocess.run([*command, "ownerwrite|authread|ownerread"], check=True, capture_output=True)
        write = ["tpm2_nvwrite", "-T", swtpm.tcti, hex(index), "-C", "o", "-i", "-"]
        subprocess.run(write, input=part, check=True, capture_output=True)
    found = TpmDevice(swtpm.tcti, tmp_path / "agent", ek="rsa2048").endorsement_key().certificates
    subjects = [x509.load_der_x509_certificate(one).subject.rfc4514_string() for one in found]
    assert subjects[1:] == ["CN=swtpm-localca", "CN=swtpm-localca-rootca"]


def test_a_tpm_without_certificates_still_has_an_ek(device: TpmDevice) -> None:
    # swtpm_setup certifies an EK on P-384 (template H-3), not the one on P-256.
    assert device.endorsement_key().certificates == []


def test_the_ak_is_kept_and_private(swtpm: Swtpm, tmp_path: Path) -> None:
    first = TpmDevice(swtpm.tcti, tmp_path / "agent", ak="p256").attestation_key()
    assert (tmp_path / "agent" / "ak.key").stat().st_mode & 0o777 == 0o600
    swtpm.reboot()
    assert TpmDevice(swtpm.tcti, tmp_path / "agent", ak="p256").attestation_key() == first


def test_quotes_go_on_after_the_tpm_was_reset(swtpm: Swtpm, device: TpmDevice) -> None:
    public = parse_public(device.attestation_key())
    before = verify_quote_signature(public, *device.quote(b"1", {"sha256": [10]}))
    swtpm.reboot()
    after = verify_quote_signature(public, *device.quote(b"2", {"sha256": [10]}))
    assert after.clock.reset_count == before.clock.reset_count + 1


def test_a_key_that_was_enrolled_is_not_replaced_while_the_agent_runs(swtpm: Swtpm, device: TpmDevice) -> None:
    device.quote(b"n", {"sha256": [0]})
    subprocess.run(["tpm2_clear", "-T", swtpm.tcti, "-c", "p"], check=True, capture_output=True)
    for _ in range(2):
        with pytest.raises(KeyLostError):
            device.quote(b"n", {"sha256": [0]})


@pytest.mark.parametrize("damage", ["garbage", "another TPM", "another kind"])
def test_a_stored_ak_that_does_not_load_is_replaced(swtpm: Swtpm, tmp_path: Path, damage: str) -> None:
    data_dir = tmp_path / "agent"
    first = TpmDevice(swtpm.tcti, data_dir, ak="p256").attestation_key()
    if damage == "another TPM":
        subprocess.run(["tpm2_clear", "-T", swtpm.tcti, "-c", "p"], check=True, capture_output=True)
    if damage == "garbage":
        (data_dir / "ak.key").write_bytes(b"\x93garbage")
    tpm = TpmDevice(swtpm.tcti, data_dir, ak="rsa2048" if damage == "another kind" else "p256")
    second = tpm.attestation_key()
    assert second != first
    with pytest.raises(SignatureError):
        verify_quote_signature(parse_public(first), *tpm.quote(b"n", {"sha256": [0]}))


def test_a_tpm_that_is_away_does_not_cost_the_ak(swtpm: Swtpm, tmp_path: Path) -> None:
    data_dir = tmp_path / "agent"
    first = TpmDevice(swtpm.tcti, data_dir, ak="p256").attestation_key()
    swtpm.stop()
    with pytest.raises(TpmError):
        TpmDevice(swtpm.tcti, data_dir, ak="p256", busy_s=0.05).attestation_key()
    tpm = TpmDevice(swtpm.tcti, data_dir, ak="p256", busy_s=10)
    # It is waited for while it comes up.
    timer = threading.Timer(0.1, swtpm.start)
    timer.start()
    assert tpm.attestation_key() == first
    timer.join()


def test_a_bank_that_is_not_active_is_not_there(device: TpmDevice) -> None:
    assert device.read_pcrs({"sha384": [0, 1], "sha256": [1]}) == {"sha256": {1: bytes(32)}}


def test_a_quote_over_a_bank_that_is_not_active_says_so(device: TpmDevice) -> None:
    quote = parse_quote(device.quote(b"n", {"sha256": [10], "sha384": [10]})[0])
    assert dict(quote.selection) == {"sha256": (10,), "sha384": ()}


def test_the_tpm_is_free_between_operations(swtpm: Swtpm, device: TpmDevice) -> None:
    device.attestation_key()
    stop = threading.Event()
    quoted = 0

    def quote() -> None:
        nonlocal quoted
        while not stop.is_set():
            device.quote(b"n", {"sha256": [10]})
            quoted += 1

    thread = threading.Thread(target=quote)
    thread.start()
    try:
        for _ in range(10):
            subprocess.run(["tpm2_pcrread", "-T", swtpm.tcti, "sha256:10"], check=True, capture_output=True, timeout=10)
    finally:
        stop.set()
        thread.join()
    assert quoted > 0


@pytest.mark.parametrize(("ek", "ak", "scheme"), [("rsa1024", "p256", ""), ("p256", "dsa", ""), ("p256", "p256", "rsapss")])
def test_an_unknown_kind_of_key_is_refused(tmp_path: Path, ek: str, ak: str, scheme: str) -> None:
    with pytest.raises(ConfigError):
        TpmDevice("swtpm", tmp_path, ek=ek, ak=ak, ak_scheme=scheme)


@pytest.mark.parametrize("tcti", ["nonsense:x", "swtpm:port=abc"])
def test_a_tcti_that_leads_nowhere_is_not_waited_for(tmp_path: Path, tcti: str) -> None:
    start = time.monotonic()
    with pytest.raises(TpmError, match=tcti):
        TpmDevice(tcti, tmp_path, busy_s=60).endorsement_key()
    assert time.monotonic() - start < 10
