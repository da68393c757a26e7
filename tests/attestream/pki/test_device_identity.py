import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestream.pki.device_identity import TPM_HARDWARE, judge_device_key, judge_same_device
from attestream.pki.profile import PERMISSIVE, STRICT
from attestream.pki.trust_store import TrustStore
from devtools.certificates import Authority, common_name, hardware_module, key_usage

NOW = 1_800_000_000_000
ROOT = Authority("Maker CA", now=NOW)
STORE = TrustStore.of([ROOT.der])
IAK = ec.generate_private_key(ec.SECP256R1()).public_key()


def identity(*, hardware=TPM_HARDWARE, serial=b"1234", usage=None, days=(-10, 10)):
    extensions = [(usage or key_usage(sign=True), True)]
    if hardware:
        extensions.append((x509.SubjectAlternativeName([hardware_module(hardware, serial)]), False))
    made = ROOT.sign(common_name("Server 1"), IAK, days=days, extensions=tuple(extensions))
    return made.public_bytes(Encoding.DER)


def judge(*chain, profile=STRICT, key=None):
    return judge_device_key("IAK", chain, STORE, profile=profile, now=NOW, key=key)


def codes(judged):
    return [problem.code.removeprefix("identity.") for problem in judged.fatal]


def test_device_identity_is_vouched_for():
    judged = judge(identity(), key=IAK)
    assert (judged.trusted, judged.anchor, judged.problems) == (True, "CN=Maker CA", ())


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"hardware": ""}, "certificate-subject"),
        ({"usage": key_usage(encipher=True)}, "certificate-purpose"),
        ({"days": (-10, -1)}, "certificate-validity"),
    ],
)
def test_neglected_profile(settings, code):
    assert codes(judge(identity(**settings))) == [code]
    assert judge(identity(**settings), profile=PERMISSIVE).trusted


def test_hardware_that_is_no_tpm():
    assert codes(judge(identity(hardware="2.23.133.1.1"), profile=PERMISSIVE)) == ["certificate-subject"]


def test_certificate_of_another_key():
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert codes(judge(identity(), key=other, profile=PERMISSIVE)) == ["certificate-key"]


def test_certificate_that_is_not_valid_yet():
    assert codes(judge(identity(days=(1, 2)), profile=PERMISSIVE)) == ["certificate-validity"]


def test_nothing_and_junk():
    assert codes(judge()) == ["certificate-missing"]
    assert codes(judge(b"junk")) == ["certificate-unreadable"]


def test_keys_of_two_devices():
    one, other = identity(serial=b"1"), identity(serial=b"2")
    assert judge_same_device([one], [one]) is None
    assert judge_same_device([one], [identity(hardware="")]) is None
    assert judge_same_device([one], [b"junk"]) is None
    assert judge_same_device([one], [other]).code == "identity.device-mismatch"
