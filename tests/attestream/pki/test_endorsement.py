import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestream.pki.endorsement import judge_endorsement
from attestream.pki.judgement import UNCONDITIONAL
from attestream.pki.profile import PERMISSIVE, STRICT
from attestream.pki.trust_store import TrustStore
from devtools.certificates import Authority, common_name, key_usage, tpm_name

NOW = 1_800_000_000_000
ROOT = Authority("Maker CA", now=NOW)
STORE = TrustStore.of([ROOT.der])
EK = ec.generate_private_key(ec.SECP256R1()).public_key()
RSA_EKS = {bits: rsa.generate_private_key(65537, bits).public_key() for bits in (1024, 2048, 3072)}


def judge(*chain, profile=STRICT, key=None, store=STORE):
    return judge_endorsement(chain, store, profile=profile, now=NOW, key=key)


def codes(judged):
    return [finding.code.removeprefix("identity.") for finding in judged.findings()]


def severities(judged):
    return {finding.severity for finding in judged.findings()}


@pytest.mark.parametrize("key", [EK, RSA_EKS[2048], RSA_EKS[3072]], ids=["p256", "rsa2048", "rsa3072"])
def test_certificate_by_the_book_has_no_findings(key):
    """RSA-3072 among them: keylime#1552."""
    judged = judge(ROOT.endorse(key), key=key)
    assert judged.trusted
    assert (judged.anchor, judged.findings()) == ("CN=Maker CA", [])


def test_certificate_of_another_key():
    """Somebody else's certificate beside one's own EK."""
    judged = judge(ROOT.endorse(EK), key=RSA_EKS[2048], profile=PERMISSIVE)
    assert not judged.trusted
    assert judged.fatal[0].code in UNCONDITIONAL


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"purpose": ""}, "certificate-purpose"),
        ({"purpose": "1.3.6.1.5.5.7.3.1"}, "certificate-purpose"),
        ({"purpose": "2.23.133.8.3"}, "certificate-purpose"),
        ({"usage": key_usage(sign=True)}, "certificate-purpose"),
        ({"alternative": x509.DNSName("tpm.example")}, "certificate-subject"),
        ({"alternative": x509.DirectoryName(common_name("TPM"))}, "certificate-subject"),
        ({"alternative": tpm_name(manufacturer="STM")}, "certificate-subject"),
        ({"alternative": tpm_name(version="1.2")}, "certificate-subject"),
    ],
)
def test_neglected_profile_is_a_finding_of_its_own(settings, code):
    leaf = ROOT.endorse(EK, **settings)
    strict, permissive = judge(leaf), judge(leaf, profile=PERMISSIVE)
    assert (strict.trusted, codes(strict), severities(strict)) == (False, [code], {"failure"})
    assert (permissive.trusted, codes(permissive), severities(permissive)) == (True, [code], {"warning"})


def test_purpose_of_an_attestation_key_certificate_is_named_by_its_number():
    assert "2.23.133.8.1" in judge(ROOT.endorse(EK, purpose="2.23.133.8.3")).problems[0].message


def test_certificate_of_an_authority_is_no_ek_certificate():
    below = Authority("CA", now=NOW, parent=ROOT)
    assert "certificate-role" in codes(judge(below.der))
    assert not judge(below.der).trusted


@pytest.mark.parametrize("chain", [[b""], [b"\x30\x00"], [ROOT.endorse(EK), b"junk"]])
def test_what_can_not_be_parsed_is_a_finding(chain):
    judged = judge(*chain, profile=PERMISSIVE)
    assert codes(judged) == ["certificate-unreadable"]
    assert judged.problems[0].culprit == f"certificate {len(chain)}"


def test_key_that_is_too_weak():
    judged = judge(ROOT.endorse(RSA_EKS[1024]), profile=PERMISSIVE)
    assert not judged.trusted


def test_nothing_and_nobody():
    assert codes(judge(profile=PERMISSIVE)) == ["certificate-missing"]
    assert codes(judge(ROOT.endorse(EK), store=TrustStore())) == ["certificate-chain"]
    assert not judge(profile=PERMISSIVE).trusted
