"""The store of TPM manufacturers' CA certificates is what its manifest says, and nothing else."""

import hashlib
import shutil
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestream.errors import ConfigError
from attestream.manufacturers import shipped
from attestream.pki import extensions as ext
from attestream.pki.path import find_path
from attestream.pki.profile import PERMISSIVE
from attestream.pki.signatures import certified_key
from attestream.pki.trust_store import TrustStore, read_certificates
from devtools.certificates import Authority
from devtools.given_folder import given_folder

NOW = 1_795_305_600_000  # 2026-11-22
KNOWN = shipped.manifest()
STORE = TrustStore(shipped.certificates([shipped.ALL]))
FILES = shipped.FOLDER / shipped.CERTIFICATES
GIVEN = given_folder("ATTESTREAM_VECTORS", "vectors", [], "it holds data/ek/tpm_cert_store")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(shipped.FOLDER, tmp_path / "store")


def test_every_file_has_one_row_and_every_row_its_file():
    assert sorted(f"{row.name}.pem" for row in KNOWN.certificate) == sorted(path.name for path in FILES.iterdir())
    assert len({row.sha256 for row in KNOWN.certificate}) == len(KNOWN.certificate)
    assert not {row.path for row in KNOWN.certificate} & {one.path for one in KNOWN.left_out}


@pytest.mark.parametrize("row", KNOWN.certificate, ids=lambda row: row.name)
def test_a_row_is_true_and_its_certificate_can_vouch(row):
    (one,) = read_certificates((FILES / f"{row.name}.pem").read_bytes())
    assert hashlib.sha256(one.der).hexdigest() == row.sha256
    assert one.subject.text() == row.subject
    days = [datetime.fromtimestamp(at / 1000, UTC).date() for at in (one.not_before, one.not_after)]
    assert list(map(str, days)) == [row.not_before, row.not_after]
    assert str(certified_key(one).key_size) == row.key.partition("-")[2]
    assert one.extensions.authority
    assert one.extensions.key_usage is None or one.extensions.key_usage & ext.KEY_CERT_SIGN
    assert not one.extensions.unknown_critical
    assert not one.extensions.constrains_names


def test_nothing_is_here_that_was_seen_nowhere_else():
    collections = {one.name for one in KNOWN.collection}
    for row in KNOWN.certificate:
        assert row.seen_in, row.name
        assert set(row.seen_in) | set(row.key_in) <= collections
        assert KNOWN.sources(row) >= 1
    several = [row for row in KNOWN.certificate if {"guard-oss", "tpm_roots", "keylime"} <= set(row.seen_in)]
    assert several
    assert {KNOWN.sources(row) for row in several} <= {2, 3}, "collections of one source count once"


def test_one_manufacturer_is_chosen_or_several_or_all():
    assert KNOWN.manufacturers == sorted(
        ["amd", "atmel", "infineon", "intel", "microsoft", "nationz", "nuvoton", "stmicroelectronics"]
    )
    assert shipped.certificates([]) == []
    assert {row.manufacturer for row in KNOWN.of(["amd", "intel"])} == {"amd", "intel"}
    assert len(shipped.certificates([shipped.ALL])) == len(KNOWN.certificate)
    with pytest.raises(ConfigError, match="'acme'"):
        shipped.certificates(["amd", "acme"])


def tampered(path):
    path.write_bytes(path.read_bytes().replace(b"M", b"N", 1))


def replaced(path):
    path.write_bytes(Authority("Infineon OPTIGA(TM) RSA Root CA", now=NOW).certificate.public_bytes(Encoding.PEM))


def doubled(path):
    path.write_bytes(path.read_bytes() * 2)


@pytest.mark.parametrize("change", [tampered, replaced, doubled, lambda path: path.unlink()])
def test_a_file_that_was_changed_is_noticed(copy, change):
    row = KNOWN.of(["infineon"])[0]
    change(copy / shipped.CERTIFICATES / f"{row.name}.pem")
    with pytest.raises(ConfigError, match=row.name):
        shipped.certificates(["infineon"], copy)
    assert shipped.certificates(["amd"], copy)


def test_a_file_that_was_added_counts_for_nothing(copy):
    authority = Authority("Infineon OPTIGA(TM) RSA Root CA", now=NOW)
    (copy / shipped.CERTIFICATES / "added.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    assert shipped.certificates([shipped.ALL], copy) == shipped.certificates([shipped.ALL])


@pytest.mark.parametrize("text", ["", "junk", "[package]\n", None])
def test_a_manifest_that_can_not_be_read_is_an_error(copy, text):
    path = copy / shipped.MANIFEST
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=shipped.MANIFEST):
        shipped.certificates(["amd"], copy)


def given(name):
    """Return the certificates of a file of the given vectors."""
    return read_certificates((GIVEN.path / "data/ek" / name).read_bytes())


def ending(certificate, via=()):
    found = find_path(certificate, STORE, intermediates=via, profile=PERMISSIVE, now=NOW)
    return found.path[-1].subject.text() if found.path else found.problems[0].message


@pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)
def test_real_authorities_lead_to_the_store():
    """Each of the given CA certificates stands in the store or leads there, but for two."""
    files = sorted((GIVEN.path / "data/ek/tpm_cert_store").iterdir())
    found = {path.stem: given(f"tpm_cert_store/{path.name}")[0] for path in files}
    ends = {name: ending(one) for name, one in found.items() if one not in STORE}
    assert {name for name, end in ends.items() if end.startswith("Nobody")} == {"Alibaba_Cloud_vTPM_EK", "NUVO_0100"}
    reached = {end.partition(",")[0] for end in ends.values()}
    assert {"CN=Infineon OPTIGA(TM) RSA Root CA", "CN=STM TPM EK Root CA", "CN=Nationz TPM Root CA"} <= reached


@pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)
def test_real_certificates_of_tpms_lead_to_the_store():
    """One by STMicroelectronics over its intermediate, and one by Nuvoton, directly."""
    files = sorted((GIVEN.path / "data/ek/tpm_cert_store").glob("STM_RSA_*I.pem"))
    leaf = given("st_sha256_with_rsa.der")[0]
    assert ending(leaf, [given(f"tpm_cert_store/{path.name}")[0] for path in files]).startswith("CN=STM TPM EK Root CA")
    assert ending(leaf).startswith("Nobody in the trust store vouches for it"), "its intermediate is not in the store"
    assert "CN=Nuvoton TPM Root CA" in ending(given("nuvoton_ecdsa_sha256.der")[0])


@pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("store-missing.der", "Nobody in the trust store vouches for it"),
        ("own-ca-issuer-name-differs.der", "Nobody in the trust store vouches for it"),
        ("store-NTC2.der", "The issuer's key did not sign"),
        ("store-NUVO_2111.der", "The issuer's key did not sign"),
    ],
)
def test_others_are_refused_with_the_reason(name, reason):
    """By a CA that is not there, and in the name of one that is."""
    assert ending(given(name)[0]).startswith(reason)
