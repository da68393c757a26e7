"""Who vouches for endorsement keys: manufacturers that the configuration names, its directory, and nobody it distrusts."""

import hashlib
import logging

import msgspec
import pytest
from cryptography import x509

from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.errors import ConfigError, EnrolmentError
from attestream.manufacturers import shipped
from attestream.pki.certificate import parse_certificate
from attestream.pki.trust_store import key_digest
from attestream.tpm.public import parse_public
from devtools.certificates import Authority
from schemas import subjects
from schemas.enrolment import EnrolChallenge
from services.registrar.service import serving
from services.registrar.trust import endorsement_store

NOW = 1_800_000_000_000
OWN = Authority("Our CA", now=NOW)
NUVOTON = shipped.manifest().of(["nuvoton"])


@pytest.fixture
def own_store(tmp_path):
    folder = tmp_path / "ek-store"
    folder.mkdir()
    (folder / "own.der").write_bytes(OWN.der)
    return folder


@pytest.fixture
def ask(bus, make_agent):
    """Asks the registrar to enrol a machine whose EK ``authority`` has certified."""

    async def asked(authority):
        agent = make_agent("web-1")
        leaf = authority.endorse(parse_public(agent.tpm.ek_public).key())
        request = agent.enrol_request(ek_certificates=[leaf, authority.der])
        return await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)

    return asked


async def test_made_up_ca_does_not_vouch_under_whatever_name(bus, database_url, clock, ask):
    config = RegistrarConfig(database_url=DatabaseUrl(database_url), ek_manufacturers=["all"])
    names = [x509.load_der_x509_certificate(one.der).subject for one in shipped.certificates(["atmel", "microsoft"])]
    async with serving(bus, config, clock=clock):
        with pytest.raises(EnrolmentError, match=r"certificate-chain.*CN=Our CA"):
            await ask(OWN)
        for name in names:
            with pytest.raises(EnrolmentError, match="certificate-"):
                await ask(Authority(name, now=NOW))


async def test_own_directory_counts_beside_the_manufacturers_until_it_is_distrusted(
    bus, database_url, clock, ask, own_store
):
    config = RegistrarConfig(database_url=DatabaseUrl(database_url), ek_manufacturers=["all"], ek_store=own_store)
    async with serving(bus, config, clock=clock):
        assert (await ask(OWN)).credential
    distrusting = msgspec.structs.replace(config, ek_distrust=[hashlib.sha256(OWN.der).hexdigest()])
    async with serving(bus, distrusting, clock=clock):
        with pytest.raises(EnrolmentError, match="certificate-distrusted"):
            await ask(OWN)


def test_only_the_named_manufacturers_are_trusted(own_store):
    assert len(endorsement_store(RegistrarConfig())) == 0
    both = endorsement_store(RegistrarConfig(ek_manufacturers=["nuvoton"], ek_store=own_store))
    found = {hashlib.sha256(one.der).hexdigest() for one in both.certificates()}
    assert found == {row.sha256 for row in NUVOTON} | {hashlib.sha256(OWN.der).hexdigest()}
    with pytest.raises(ConfigError, match="'acme'"):
        endorsement_store(RegistrarConfig(ek_manufacturers=["acme"]))


@pytest.mark.parametrize(
    ("changes", "told"), [({}, True), ({"ek_manufacturers": ["amd"]}, False), ({"accept_ek": "any"}, False)]
)
def test_a_store_without_a_certificate_is_told(tmp_path, caplog, changes, told):
    endorsement_store(RegistrarConfig(ek_store=tmp_path, **changes))
    assert ("no TPM can enrol" in caplog.text) is told


@pytest.mark.parametrize("form", [str.lower, str.upper, lambda text: ":".join(text[i : i + 2] for i in range(0, 64, 2))])
def test_a_certificate_is_distrusted_by_its_fingerprint(form):
    row, other = NUVOTON[:2]
    for names in (["nuvoton"], ["amd"]):
        store = endorsement_store(RegistrarConfig(ek_manufacturers=names, ek_distrust=[form(row.sha256)]))
        assert store.distrusts(shipped.certificate(row))
        assert not store.distrusts(shipped.certificate(other))


def test_a_key_that_nobody_knows_is_distrusted_and_told(caplog):
    digest = key_digest(parse_certificate(OWN.der)).hex()
    with caplog.at_level(logging.WARNING, "services.registrar.trust"):
        store = endorsement_store(RegistrarConfig(ek_manufacturers=["all"], ek_distrust=[digest]))
    assert store.distrusts(parse_certificate(OWN.der))
    assert digest in caplog.text


@pytest.mark.parametrize("text", ["", "junk", "ab" * 31, "ab" * 33, "ab" * 31 + "a", "é" * 64])
def test_what_is_no_fingerprint_is_a_configuration_error(text):
    with pytest.raises(ConfigError, match="ek_distrust"):
        endorsement_store(RegistrarConfig(ek_distrust=[text]))
