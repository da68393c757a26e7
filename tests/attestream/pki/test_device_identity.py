import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestream.pki.certificate import parse_certificate
from attestream.pki.device_identity import (
    AIK_CERTIFICATE,
    VERIFIED_FIXED,
    VERIFIED_RESTRICTED,
    judge_device_key,
    judge_same_device,
)
from attestream.pki.profile import PERMISSIVE, STRICT
from attestream.pki.trust_store import TrustStore
from devtools.certificates import DEVICE_POLICIES, Authority, common_name, key_usage

NOW = 1_800_000_000_000
ROOT = Authority("Maker CA", now=NOW)
STORE = TrustStore.of([ROOT.der])
IAK = ec.generate_private_key(ec.SECP256R1()).public_key()


def identity(**settings):
    return ROOT.identify("IAK", IAK, **settings)


def judge(*chain, profile=STRICT, key=None, role="IAK"):
    return judge_device_key(role, chain, STORE, profile=profile, now=NOW, key=key)


def codes(judged):
    return [problem.code.removeprefix("identity.") for problem in judged.fatal]


def test_device_identity_is_vouched_for():
    judged = judge(identity(), key=IAK)
    assert (judged.trusted, judged.anchor, judged.problems) == (True, "CN=Maker CA", ())


def test_idevid_is_vouched_for():
    judged = judge(ROOT.identify("IDevID", IAK), key=IAK, role="IDevID")
    assert (judged.trusted, judged.problems) == (True, ())


def test_policies_are_read_past_their_qualifiers():
    """A certificate without an end, with a policy that a URL and a text explain."""
    certificate = parse_certificate(identity())
    assert certificate.extensions.policies == frozenset(DEVICE_POLICIES["IAK"])
    assert not certificate.irregularities


@pytest.mark.parametrize("policies", [(), ("2.23.133.11.1.1",), ("2.23.133.11.1.1", VERIFIED_FIXED)])
def test_iak_that_nobody_calls_restricted_is_refused_in_every_profile(policies):
    """Such a certificate may be an IDevID's, whose key signs what its holder wants: also a certification."""
    for profile in (STRICT, PERMISSIVE):
        judged = judge(identity(policies=policies), profile=profile)
        assert codes(judged) == ["certificate-unrestricted"]
        assert not judged.trusted
    overlooked = judge(identity(policies=policies), profile=msgspec.structs.replace(PERMISSIVE, unrestricted="warn"))
    assert overlooked.trusted
    assert [problem.code for problem in overlooked.problems] == ["identity.certificate-unrestricted"]


@pytest.mark.parametrize("purpose", [VERIFIED_RESTRICTED, AIK_CERTIFICATE])
def test_extended_key_usage_may_say_that_the_iak_is_restricted(purpose):
    assert judge(identity(policies=(), purposes=(purpose,))).trusted


def test_what_is_only_recommended_warns():
    bare = identity(subject=common_name("Server"))
    assert [(problem.code, problem.fatal) for problem in judge(bare).problems] == [("identity.certificate-subject", False)]
    silent = judge(ROOT.identify("IDevID", IAK, policies=()), role="IDevID")
    assert [(problem.code, problem.fatal) for problem in silent.problems] == [("identity.certificate-purpose", False)]


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
    one, other = identity(serial="1"), identity(serial="2")
    assert judge_same_device([one], [one]) is None
    assert judge_same_device([one], [identity(hardware="")]) is None
    assert judge_same_device([one], [b"junk"]) is None
    assert judge_same_device([one], [other]).code == "identity.device-mismatch"
