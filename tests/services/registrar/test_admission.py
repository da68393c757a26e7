import secrets

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestream.config import RegistrarConfig
from attestream.errors import ConfigError, EnrolmentError, MalformedError, TooLargeError
from attestream.pki.trust_store import TrustStore
from attestream.tpm.certification import Certification, build_certification
from attestream.tpm.public import parse_public
from attestream.tpm.structures import ClockInfo
from devtools.certificates import Authority
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import SoftTpm
from schemas.enrolment import MAX_CERTIFICATES, DeviceIdentity, certified_data
from services.registrar.admission import Rules, decide, examine
from services.registrar.service import serving
from services.registrar.trust import read_store

NOW = 1_800_000_000_000
AGENT = SoftAgent("a", SoftTpm(ek="p256", ak="p256"))
OTHER = SoftTpm(ek="p256", ak="p256")
EK = parse_public(AGENT.tpm.ek_public).key()
ROOT = Authority("Maker CA", now=NOW)
GOOD = ROOT.endorse(EK)


def request(**changes):
    return msgspec.structs.replace(AGENT.enrol_request(), **changes)


def admitted(asked, *, accept_ek="certificate", store=(ROOT,), devices=None):
    rules = Rules(
        accept_ek=accept_ek,
        store=TrustStore.of(one.der for one in store),
        devices=TrustStore.of(one.der for one in devices) if devices is not None else None,
    )
    return decide(examine(asked, rules, now=NOW), accept_ek)


def codes(found):
    return [(finding.code.removeprefix("identity."), finding.severity) for finding in found.findings]


def test_any_ek_is_accepted_when_so_configured():
    found = admitted(request(), accept_ek="any", store=())
    assert (found.ek_trust, found.ek_certificate) == ("accepted", b"")
    assert found.ak.name == AGENT.tpm.ak_name
    assert codes(found) == [("ek-accepted", "warning")]


def test_certificate_of_the_store_vouches():
    found = admitted(request(ek_certificates=[GOOD]))
    assert (found.ek_trust, found.ek_certificate) == ("certificate", GOOD)
    assert codes(found) == [("ek-vouched", "info")]
    assert found.findings[0].culprit == "CN=Maker CA"


def test_intermediates_of_the_agent_are_used():
    """keylime#1552: the registrar keeps only the first certificate of a chain."""
    below = Authority("Below", now=NOW, parent=ROOT)
    assert admitted(request(ek_certificates=[below.endorse(EK), below.der])).ek_trust == "certificate"


def test_neglected_profile_is_told_with_the_enrolment():
    found = admitted(request(ek_certificates=[ROOT.endorse(EK, purpose="")]))
    assert codes(found) == [("ek-vouched", "info"), ("certificate-purpose", "warning")]


def test_missing_certificate_is_refused():
    with pytest.raises(EnrolmentError, match="certificate-missing"):
        admitted(request())


REFUSED = {
    "signed-by-another-key": (Authority("Maker CA", now=NOW).endorse(EK), "certificate-signature"),
    "unknown-issuer": (ROOT.endorse(EK, issuer="Unknown CA"), "certificate-chain"),
    "expired": (ROOT.endorse(EK, days=(-10, -1)), "certificate-validity"),
    "not-yet-valid": (ROOT.endorse(EK, days=(1, 10)), "certificate-validity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_certificate_that_the_store_does_not_vouch_for(case):
    """It is refused when a certificate is required, and told with the enrolment when it is not."""
    presented, code = REFUSED[case]
    with pytest.raises(EnrolmentError, match=code):
        admitted(request(ek_certificates=[presented]))
    found = admitted(request(ek_certificates=[presented]), accept_ek="warn")
    assert found.ek_trust == "accepted"
    assert codes(found) == [("ek-accepted", "warning"), (code, "warning")]


@pytest.mark.parametrize(
    "settings", [{"authority": False}, {"authority": None}, {"path_length": 0}], ids=["not-a-ca", "no-constraints", "length"]
)
def test_issuer_that_may_not_issue_is_refused(settings):
    top = Authority("Top", now=NOW, **settings)
    below = Authority("Below", now=NOW, parent=top)
    with pytest.raises(EnrolmentError, match="certificate-issuer"):
        admitted(request(ek_certificates=[below.endorse(EK), below.der]), store=(top,))


@pytest.mark.parametrize("accept_ek", ["any", "warn", "certificate", "hook"])
def test_certificate_of_another_ek_is_refused(accept_ek):
    """Someone else's certificate beside one's own EK."""
    foreign = ROOT.endorse(parse_public(OTHER.ek_public).key())
    with pytest.raises(EnrolmentError, match="another key"):
        admitted(request(ek_certificates=[foreign]), accept_ek=accept_ek)


@pytest.mark.parametrize("accept_ek", ["any", "warn", "certificate", "hook"])
@pytest.mark.parametrize("junk", [b"\x30", b"junk", GOOD + b"\x01", GOOD[:-1]])
def test_certificate_that_can_not_be_parsed_is_refused(accept_ek, junk):
    with pytest.raises(EnrolmentError, match="certificate-unreadable"):
        admitted(request(ek_certificates=[junk]), accept_ek=accept_ek)


DEVICE_ROOT = Authority("Device CA", now=NOW)


IAK = SoftTpm(ek="p256", ak="p256")
"""Plays the machine's initial attestation key with its AK."""


def device(asked, *, signer=DEVICE_ROOT, name=AGENT.tpm.ak_name, data=b"", **changes):
    """Return the request with the device identity of the agent's machine."""
    leaf = signer.identify("IAK", parse_public(IAK.ak_public).key())
    wanted = certified_data(asked)
    attest = build_certification(Certification(IAK.ak_name, data or wanted, ClockInfo(1, 1, 1, True), 1, name, name))
    made = {
        "iak_public": IAK.ak_public,
        "iak_certificates": [leaf],
        "attest": attest,
        "signature": IAK.sign(attest),
    }
    return msgspec.structs.replace(asked, device=DeviceIdentity(**{**made, **changes}))


def test_device_identity_vouches_in_place_of_the_ek_certificate():
    found = admitted(device(request()), devices=(DEVICE_ROOT,))
    assert found.ek_trust == "iak"
    assert codes(found) == [("iak-vouched", "info"), ("certificate-missing", "warning")]
    assert "serialNumber=1234" in found.findings[0].message


def test_both_vouch():
    found = admitted(device(request(ek_certificates=[GOOD])), devices=(DEVICE_ROOT,))
    assert found.ek_trust == "certificate"
    assert codes(found) == [("iak-vouched", "info"), ("ek-vouched", "info")]


def test_device_identity_is_passed_over_without_a_store():
    with pytest.raises(EnrolmentError, match="certificate-missing"):
        admitted(device(request()))


def test_device_identity_of_an_unknown_maker_does_not_vouch():
    strange = device(request(), signer=Authority("Stranger", now=NOW))
    with pytest.raises(EnrolmentError, match="certificate-chain"):
        admitted(strange, devices=(DEVICE_ROOT,))
    assert ("certificate-chain", "warning") in codes(admitted(strange, devices=(DEVICE_ROOT,), accept_ek="warn"))


@pytest.mark.parametrize("accept_ek", ["warn", "certificate", "any", "hook"])
@pytest.mark.parametrize(
    "changes",
    [{"name": OTHER.ak_name}, {"data": bytes(32)}, {"iak_public": OTHER.ak_public}],
    ids=["another-ak", "replayed", "another-iak"],
)
def test_proof_by_the_iak_must_be_right_in_any_mode(accept_ek, changes):
    with pytest.raises(EnrolmentError, match="does not vouch for the AK"):
        admitted(device(request(ek_certificates=[GOOD]), **changes), devices=(DEVICE_ROOT,), accept_ek=accept_ek)


def test_idevid_of_another_device_is_refused():
    leaf = DEVICE_ROOT.identify("IDevID", parse_public(OTHER.ak_public).key(), serial="another")
    other = {"idevid_public": OTHER.ak_public, "idevid_certificates": [leaf]}
    with pytest.raises(EnrolmentError, match="device-mismatch"):
        admitted(device(request(), **other), devices=(DEVICE_ROOT,))


@pytest.mark.parametrize(
    "changes",
    [
        {"ak_public": AGENT.tpm.ek_public},
        {"ek_public": AGENT.tpm.ak_public},
        {"ek_public": AGENT.tpm.ak_public, "ak_public": AGENT.tpm.ek_public},
    ],
    ids=["ek-as-ak", "ak-as-ek", "swapped"],
)
def test_key_of_another_role_is_refused(changes):
    with pytest.raises(EnrolmentError, match="attribute"):
        admitted(request(**changes), accept_ek="any")


@pytest.mark.parametrize(
    "changes",
    [
        {"transport_key": b""},
        {"transport_key": bytes(31)},
        {"transport_key": bytes(33)},
        {"nonce": b""},
        {"nonce": bytes(64)},
        {"ek_public": b""},
        {"ak_public": AGENT.tpm.ak_public + b"\0"},
        {"ak_public": AGENT.tpm.ak_public[:-1]},
        {"agent_id": "not an id"},
    ],
)
def test_fields_out_of_bounds_are_malformed(changes):
    with pytest.raises(MalformedError):
        admitted(request(**changes), accept_ek="any")


@pytest.mark.parametrize(
    "changes",
    [
        {"ek_public": secrets.token_bytes(5_000)},
        {"ak_public": secrets.token_bytes(5_000)},
        {"ek_certificates": [GOOD] * (MAX_CERTIFICATES + 1)},
        {"ek_certificates": [bytes(9_000)]},
    ],
)
def test_fields_over_their_bound_are_too_large(changes):
    with pytest.raises(TooLargeError):
        admitted(request(**changes), accept_ek="any")


def test_store_reads_pem_and_der_and_nothing_else(tmp_path):
    other = Authority("Other CA", now=NOW)
    pem = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (other, ROOT))
    (tmp_path / "bundle.pem").write_bytes(pem)
    (tmp_path / "one.DER").write_bytes(ROOT.der)
    (tmp_path / "README").write_text("not a certificate")
    assert {one.der for one in read_store(tmp_path).certificates()} == {other.der, ROOT.der}


def test_store_with_a_bad_file_is_a_configuration_error(tmp_path):
    (tmp_path / "bad.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        read_store(tmp_path)
    with pytest.raises(ConfigError, match="can not be read"):
        read_store(tmp_path / "absent")


@pytest.mark.parametrize(("config", "setting"), [({}, "ek_store"), ({"accept_ek": "hook"}, "ek_hook")])
async def test_registrar_that_could_accept_nobody_does_not_start(bus, config, setting):
    with pytest.raises(ConfigError, match=setting):
        async with serving(bus, RegistrarConfig(**config)):
            pass
