import datetime as dt
import secrets

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestream.config import RegistrarConfig
from attestream.errors import ConfigError, EnrolmentError, MalformedError, TooLargeError
from attestream.tpm.public import parse_public
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import SoftTpm
from schemas.enrolment import MAX_CERTIFICATES
from services.registrar.admission import TrustStore, admit
from services.registrar.service import serving

NOW = 1_800_000_000_000
TODAY = dt.datetime.fromtimestamp(NOW / 1000, dt.UTC)
AGENT = SoftAgent("a", SoftTpm(ek="p256", ak="p256"))
OTHER = SoftTpm(ek="p256", ak="p256")
EK = parse_public(AGENT.tpm.ek_public).key()
CA_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(subject, public, issuer, issuer_key, *, ca=None, start=-10, end=10) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(TODAY + dt.timedelta(days=start))
        .not_valid_after(TODAY + dt.timedelta(days=end))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


ROOT = certificate("Maker CA", CA_KEY.public_key(), "Maker CA", CA_KEY, ca=True)
GOOD = certificate("EK", EK, "Maker CA", CA_KEY)


def request(**changes):
    return msgspec.structs.replace(AGENT.enrol_request(), **changes)


def admitted(asked, *, accept_ek="certificate", store=None):
    return admit(asked, accept_ek=accept_ek, store=TrustStore([ROOT]) if store is None else store, now=NOW)


def der(*certificates):
    return [one.public_bytes(Encoding.DER) for one in certificates]


def test_any_ek_is_accepted_when_so_configured():
    found = admitted(request(), accept_ek="any", store=TrustStore([]))
    assert (found.ek_trust, found.ek_certificate) == ("accepted", b"")
    assert found.ak.name == AGENT.tpm.ak_name


def test_certificate_of_the_store_vouches():
    found = admitted(request(ek_certificates=der(GOOD)))
    assert (found.ek_trust, found.ek_certificate) == ("certificate", der(GOOD)[0])


def test_missing_certificate_is_refused():
    with pytest.raises(EnrolmentError, match="required"):
        admitted(request())


@pytest.mark.parametrize(
    "presented",
    [
        certificate("EK", EK, "Maker CA", ec.generate_private_key(ec.SECP256R1())),
        certificate("EK", EK, "Unknown CA", CA_KEY),
        certificate("EK", EK, "Maker CA", CA_KEY, start=-10, end=-1),
        certificate("EK", EK, "Maker CA", CA_KEY, start=1, end=10),
    ],
    ids=["signed-by-another-key", "unknown-issuer", "expired", "not-yet-valid"],
)
def test_certificate_that_the_store_does_not_vouch_for_is_refused(presented):
    with pytest.raises(EnrolmentError, match="store"):
        admitted(request(ek_certificates=der(presented)))


@pytest.mark.parametrize(
    "issuer",
    [
        certificate("Maker CA", CA_KEY.public_key(), "Maker CA", CA_KEY, ca=False),
        certificate("Maker CA", CA_KEY.public_key(), "Maker CA", CA_KEY),
        certificate("Maker CA", CA_KEY.public_key(), "Maker CA", CA_KEY, ca=True, end=-1),
    ],
    ids=["not-a-ca", "no-constraints", "expired"],
)
def test_issuer_that_may_not_issue_is_refused(issuer):
    with pytest.raises(EnrolmentError, match="store"):
        admitted(request(ek_certificates=der(GOOD)), store=TrustStore([issuer]))


@pytest.mark.parametrize("accept_ek", ["any", "certificate"])
def test_certificate_of_another_ek_is_refused(accept_ek):
    """Someone else's certificate beside one's own EK."""
    foreign = certificate("EK", parse_public(OTHER.ek_public).key(), "Maker CA", CA_KEY)
    with pytest.raises(EnrolmentError, match="another key"):
        admitted(request(ek_certificates=der(foreign)), accept_ek=accept_ek)


@pytest.mark.parametrize("accept_ek", ["any", "certificate"])
@pytest.mark.parametrize("junk", [b"\x30", b"junk", der(GOOD)[0] + b"\0", der(GOOD)[0][:-1]])
def test_certificate_that_can_not_be_parsed_is_refused(accept_ek, junk):
    with pytest.raises(EnrolmentError, match="parsed"):
        admitted(request(ek_certificates=[junk]), accept_ek=accept_ek)


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
        {"ek_certificates": der(GOOD) * (MAX_CERTIFICATES + 1)},
        {"ek_certificates": [bytes(9_000)]},
    ],
)
def test_fields_over_their_bound_are_too_large(changes):
    with pytest.raises(TooLargeError):
        admitted(request(**changes), accept_ek="any")


def test_store_reads_pem_and_der_and_nothing_else(tmp_path):
    other = certificate("Other CA", CA_KEY.public_key(), "Other CA", CA_KEY, ca=True)
    (tmp_path / "bundle.pem").write_bytes(other.public_bytes(Encoding.PEM) + ROOT.public_bytes(Encoding.PEM))
    (tmp_path / "one.der").write_bytes(ROOT.public_bytes(Encoding.DER))
    (tmp_path / "README").write_text("not a certificate")
    assert TrustStore.from_directory(tmp_path).vouches_for(GOOD, TODAY)


def test_store_with_a_bad_file_is_a_configuration_error(tmp_path):
    (tmp_path / "bad.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        TrustStore.from_directory(tmp_path)
    with pytest.raises(ConfigError, match="can not be read"):
        TrustStore.from_directory(tmp_path / "absent")


async def test_registrar_that_could_accept_nobody_does_not_start(bus):
    with pytest.raises(ConfigError, match="ek_store"):
        async with serving(bus, RegistrarConfig()):
            pass
