import hashlib
import time

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestream.pki.certificate import parse_certificate
from attestream.pki.path import MAX_DEPTH, MAX_SIGNATURES, find_path
from attestream.pki.profile import PERMISSIVE, STRICT
from attestream.pki.trust_store import TrustStore, key_digest
from devtools.certificates import EK_PURPOSE, ONE_SET, Authority, common_name, key_usage, resigned, unsorted

NOW = 1_800_000_000_000
DAY = 86_400_000
EK = ec.generate_private_key(ec.SECP256R1()).public_key()
ROOT = Authority("Root", now=NOW, usage=key_usage(issue=True))


def authority(name, parent=None, **settings):
    return Authority(name, now=NOW, parent=parent, **settings)


def path(leaf, *anchors, via=(), profile=STRICT, now=NOW, distrusted=()):
    trusted = TrustStore.of(one if isinstance(one, bytes) else one.der for one in anchors).certificates()
    store = TrustStore(trusted, distrusted=[key_digest(parse_certificate(one.der)) for one in distrusted])
    return find_path(
        parse_certificate(leaf),
        store,
        intermediates=[parse_certificate(one if isinstance(one, bytes) else one.der) for one in via],
        profile=profile,
        now=now,
        purpose=EK_PURPOSE,
    )


def codes(result):
    return [problem.code.removeprefix("identity.") for problem in result.problems if problem.fatal]


def names(result):
    return [one.subject.text() for one in result.path]


def chain(length, root=ROOT):
    made = [root]
    for number in range(length):
        made.append(authority(f"CA {number}", made[-1]))
    return made


def test_direct_issuer():
    result = path(ROOT.endorse(EK), ROOT)
    assert result.good
    assert names(result) == ["(no name)", "CN=Root"]


def test_intermediates_of_the_agent():
    """keylime#1552: Intel's ODCA chains, of which only the root is in the store."""
    root, first, second = chain(2)
    assert names(path(second.endorse(EK), root, via=[first, second])) == ["(no name)", "CN=CA 1", "CN=CA 0", "CN=Root"]
    assert codes(path(second.endorse(EK), root, via=[second])) == ["certificate-chain"]
    assert codes(path(second.endorse(EK), root)) == ["certificate-chain"]


def test_intermediate_in_the_store_is_an_anchor():
    """Makers publish intermediates whose root nobody can get."""
    _, first = chain(1)
    assert path(first.endorse(EK), first).good


def test_certificate_in_the_store_does_not_vouch_for_itself():
    leaf = ROOT.endorse(EK)
    assert codes(path(leaf, leaf)) == ["certificate-chain"]


def test_intermediates_are_never_trusted():
    """An agent that brings its own root."""
    own = authority("Own root")
    assert codes(path(own.endorse(EK), ROOT, via=[own])) == ["certificate-chain"]


def test_cross_signed_authority_gives_the_better_path():
    key = ec.generate_private_key(ec.SECP256R1())
    old, new = authority("Old root"), authority("New root")
    by_old = authority("CA", old, key=key, days=(-20, -1))
    by_new = authority("CA", new, key=key)
    for via in ([by_old, by_new], [by_new, by_old]):
        result = path(by_new.endorse(EK), old, new, via=via)
        assert result.good
        assert names(result)[-1] == "CN=New root"


def test_loops_end():
    """Two authorities that certify each other."""
    one = authority("One")
    two = authority("Two", one)
    back = Authority("One", now=NOW, parent=two, key=one.key)
    assert codes(path(two.endorse(EK), ROOT, via=[two, back, one])) == ["certificate-chain"]


def test_depth_is_bounded():
    fits = chain(MAX_DEPTH - 2)
    assert path(fits[-1].endorse(EK), ROOT, via=fits[1:]).good
    deep = chain(MAX_DEPTH - 1)
    assert codes(path(deep[-1].endorse(EK), ROOT, via=deep[1:])) == ["certificate-chain"]


@pytest.mark.alone
def test_search_is_bounded():
    """Many authorities of one name and key, so that every order of them is a chain."""
    key = ec.generate_private_key(ec.SECP521R1())
    many = [Authority("Same", now=NOW, key=ec.generate_private_key(ec.SECP256R1())) for _ in range(80)]
    start = time.perf_counter()
    leaf = Authority("Same", now=NOW, key=key).endorse(EK)
    result = path(leaf, *many[:40], via=many[40:])
    assert codes(result) == ["certificate-chain"]
    assert f"{MAX_SIGNATURES} signatures" in result.problems[0].message
    assert time.perf_counter() - start < 2


def test_signature_of_another_key_under_the_right_name():
    impostor = authority("Root")
    assert codes(path(impostor.endorse(EK), ROOT)) == ["certificate-signature"]


def test_right_signature_under_another_name():
    """The issuer's name in the certificate is not the authority's, the signature is right."""
    assert codes(path(ROOT.endorse(EK, issuer="Somebody else"), ROOT)) == ["certificate-chain"]


def test_altered_certificate():
    leaf = ROOT.endorse(EK)
    assert codes(path(leaf.replace(b"id:41545331", b"id:494E5443"), ROOT)) == ["certificate-signature"]


@pytest.mark.parametrize("flag", [False, None], ids=["ca-false", "no-constraints"])
def test_non_ca_leaf_in_the_store_is_no_issuer(flag):
    """Keylime takes any certificate of its store as issuer."""
    leaf = authority("Leaf", ROOT, authority=flag)
    assert codes(path(leaf.endorse(EK), leaf, profile=PERMISSIVE)) == ["certificate-issuer"]


def test_non_ca_leaf_of_the_agent_is_no_intermediate():
    """Any owner of a certificate could make more."""
    leaf = authority("Leaf", ROOT, authority=False)
    assert codes(path(leaf.endorse(EK), ROOT, via=[leaf], profile=PERMISSIVE)) == ["certificate-issuer"]


def test_key_that_may_not_sign_certificates():
    signer = authority("CA", ROOT, usage=key_usage(sign=True))
    assert codes(path(signer.endorse(EK), ROOT, via=[signer], profile=PERMISSIVE)) == ["certificate-issuer"]


def test_path_length():
    root = authority("Root", path_length=0)
    below = authority("Below", root)
    assert path(root.endorse(EK), root).good
    assert codes(path(below.endorse(EK), root, via=[below], profile=PERMISSIVE)) == ["certificate-issuer"]


def test_validity():
    leaf = ROOT.endorse(EK, days=(-10, 10))
    for now, wanted in (
        (NOW - 10 * DAY - 1, ["certificate-validity"]),
        (NOW - 10 * DAY, []),
        (NOW + 10 * DAY + 999, []),
        (NOW + 10 * DAY + 1000, ["certificate-validity"]),
    ):
        assert codes(path(leaf, ROOT, profile=PERMISSIVE, now=now)) == wanted


def test_expired_intermediate_of_the_agent():
    old = authority("CA", ROOT, days=(-20, -1))
    assert codes(path(old.endorse(EK), ROOT, via=[old], profile=PERMISSIVE)) == ["certificate-validity"]


def test_expired_anchor_is_up_to_the_profile():
    """Infineon's first intermediate CAs have expired; the TPMs that they vouched for are in use."""
    old = authority("CA", days=(-20, -1))
    leaf = old.endorse(EK)
    assert codes(path(leaf, old)) == ["certificate-validity"]
    tolerated = path(leaf, old, profile=PERMISSIVE)
    assert tolerated.good
    assert [problem.code for problem in tolerated.problems] == ["identity.certificate-validity"]


def test_anchor_that_is_not_valid_yet():
    early = authority("CA", days=(1, 20))
    assert codes(path(early.endorse(EK), early, profile=PERMISSIVE)) == ["certificate-validity"]


def test_unknown_critical_extension():
    odd = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    assert codes(path(ROOT.endorse(EK, extra=(odd,)), ROOT, profile=PERMISSIVE)) == ["certificate-critical"]
    assert path(ROOT.endorse(EK, extra=((odd[0], False),)), ROOT).good
    issuer = authority("CA", ROOT, extra=(odd,))
    assert codes(path(issuer.endorse(EK), ROOT, via=[issuer], profile=PERMISSIVE)) == ["certificate-critical"]


def test_name_constraints_are_refused():
    constrained = x509.NameConstraints([x509.DirectoryName(common_name("TPM"))], None)
    issuer = authority("CA", ROOT, extra=((constrained, True),))
    assert codes(path(issuer.endorse(EK), ROOT, via=[issuer], profile=PERMISSIVE)) == ["certificate-issuer"]


def test_authority_for_other_purposes():
    web = authority("Web CA", ROOT, extra=((x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")]), False),))
    assert codes(path(web.endorse(EK), ROOT, via=[web])) == ["certificate-purpose"]
    assert path(web.endorse(EK), ROOT, via=[web], profile=PERMISSIVE).good


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        (rsa.generate_private_key(65537, 2048), {"pss": False}),
        (rsa.generate_private_key(65537, 2048), {"pss": True}),
        (rsa.generate_private_key(65537, 3072), {"pss": True, "digest": hashes.SHA512()}),
        (ec.generate_private_key(ec.SECP256R1()), {}),
        (ec.generate_private_key(ec.SECP384R1()), {"digest": hashes.SHA384()}),
        (ec.generate_private_key(ec.SECP521R1()), {"digest": hashes.SHA512()}),
    ],
)
def test_signature_algorithms(key, settings):
    signer = authority("CA", key=key)
    leaf = signer.endorse(EK, **settings)
    assert path(leaf, signer).good
    broken = leaf[:-8] + bytes(byte ^ 1 for byte in leaf[-8:])
    assert codes(path(broken, signer)) == ["certificate-signature"]


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())], ids=["rsa1024", "secp256k1"]
)
def test_weak_or_odd_keys_of_an_issuer_are_refused(key):
    signer = authority("CA", key=key)
    assert codes(path(signer.endorse(EK), signer, profile=PERMISSIVE)) == ["certificate-algorithm"]


def test_sha1_signature_is_up_to_the_profile():
    signer = authority("CA", key=rsa.generate_private_key(65537, 2048))
    sha256, sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    leaf = resigned(signer.endorse(EK), signer.key, sha256, sha1, hashes.SHA1())
    assert codes(path(leaf, signer)) == ["certificate-sha1"]
    tolerated = path(leaf, signer, profile=PERMISSIVE)
    assert tolerated.good
    assert [problem.code for problem in tolerated.problems] == ["identity.certificate-sha1"]
    # What signed the anchor itself is of no interest: it stands in the store.
    anchor = resigned(signer.der, signer.key, sha256, sha1, hashes.SHA1())
    assert path(signer.endorse(EK), anchor).good


def test_malformed_certificates_are_up_to_the_profile():
    """keylime#944, #1775: nothing is encoded anew, so that signature and names still fit."""
    maker = Authority(ONE_SET, now=NOW)
    root, leaf = unsorted(maker.der, maker.key), unsorted(maker.endorse(EK), maker.key)
    for profile in (STRICT, PERMISSIVE):
        assert codes(path(leaf, root, profile=profile)) == ["certificate-malformed"] * 2
    result = path(leaf, root, profile=msgspec.structs.replace(STRICT, malformed="warn"))
    assert result.good
    assert [problem.code for problem in result.problems] == ["identity.certificate-malformed"] * 2
    # The names are the same when only one of them is out of order.
    assert path(leaf, maker, profile=msgspec.structs.replace(STRICT, malformed="warn")).good


def test_framing_is_up_to_the_profile():
    leaf = ROOT.endorse(EK) + b"\xff" * 100
    assert codes(path(leaf, ROOT)) == ["certificate-malformed"]
    assert path(leaf, ROOT, profile=PERMISSIVE).good


def test_distrusted_key_vouches_for_nothing_wherever_it_stands():
    """A CA that lost its key: in the store, below it, and passed off as the key of a TPM by whoever has it."""
    below = authority("Below", ROOT)
    own = path(below.der, ROOT, profile=PERMISSIVE, distrusted=[below])
    for refused in (
        path(ROOT.endorse(EK), ROOT, distrusted=[ROOT]),
        path(below.endorse(EK), ROOT, via=[below], distrusted=[below]),
        path(below.endorse(EK), ROOT, via=[below], distrusted=[ROOT]),
        own,
    ):
        assert codes(refused) == ["certificate-distrusted"]
    assert path(ROOT.endorse(EK), ROOT, via=[below], distrusted=[below]).good


def test_distrusted_key_is_the_same_under_another_certificate():
    """An authority that was taken out of the store comes back as an intermediate that another one has certified."""
    out = authority("Below", ROOT)
    via = [authority("Below", ROOT, key=out.key)]
    assert path(out.endorse(EK), ROOT, via=via).good
    assert codes(path(out.endorse(EK), ROOT, out, via=via, distrusted=[out])) == ["certificate-distrusted"]


def test_certificate_that_only_agents_show_can_be_distrusted_by_its_own_fingerprint():
    """What is published of an authority that lost its key is often that."""
    below = authority("Below", ROOT)
    shown = [parse_certificate(below.der)]
    store = TrustStore(TrustStore.of([ROOT.der]).certificates(), distrusted=[hashlib.sha256(below.der).digest()])
    endorsed = parse_certificate(below.endorse(EK))
    assert codes(find_path(endorsed, store, intermediates=shown, profile=STRICT, now=NOW)) == ["certificate-distrusted"]


def test_stores_that_are_put_together_distrust_what_either_does():
    key = key_digest(parse_certificate(ROOT.der))
    trusted = TrustStore.of([ROOT.der])
    assert (trusted + TrustStore(distrusted=[key])).distrusts(trusted.certificates()[0])
    assert not trusted.distrusts(trusted.certificates()[0])
