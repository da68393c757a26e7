"""Machines with TPMs that their maker has equipped, at a registrar that admits nobody else."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tpm2_pytss import ESAPI, TPM2_ALG, TPM2_RH, TPM2_ST, TPMT_SIG_SCHEME, TPMT_TK_HASHCHECK, TSS2_Exception

from attestream.bus import stored
from attestream.config import AgentConfig, DatabaseUrl, LimitsConfig, RegistrarConfig
from attestream.credentials.nkey import Kind, NKey
from attestream.errors import EnrolmentError
from attestream.tpm.algorithms import hash_named
from attestream.tpm.certification import Certification, build_certification, parse_certification
from attestream.tpm.credential import open_credential
from attestream.tpm.public import Attribute, build_public, parse_public
from devtools.certificates import Authority
from devtools.machine_maker import PERSISTENT, Equipment, equip
from devtools.soft_tpm import SoftTpm
from devtools.swtpm import Swtpm
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.enrolment import (
    ActivateRequest,
    AgentQuery,
    DeviceIdentity,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    Identity,
    certified_data,
    transcript,
)
from schemas.events import Event
from services.agent import identity as identities
from services.agent.device_keys import DeviceIdentityError, DeviceKeys
from services.agent.enrolment import enrol
from services.agent.tpm_device import TpmDevice
from services.registrar.machines import MAX_IDS
from services.registrar.service import serving

NOW = 1_800_000_000_000
MAKER = Authority("Maker CA", now=NOW)


class Machine(msgspec.Struct):
    """A TPM, what its maker gave it, and the agent's view of it."""

    tpm: Swtpm
    made: Equipment
    device: TpmDevice
    keys: DeviceKeys

    def request(self, agent_id: str = "host-1") -> EnrolRequest:
        """Return what the agent would send."""
        asked = EnrolRequest(
            agent_id=agent_id,
            ek_public=self.device.endorsement_key().public,
            ak_public=self.device.attestation_key(),
            transport_key=secrets.token_bytes(32),
            nonce=secrets.token_bytes(32),
        )
        return msgspec.structs.replace(asked, device=self.keys.prove(asked))


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines of one maker."""
    made = []
    for serial in ("S1", "S2"):
        directory = tmp_path_factory.mktemp(serial)
        tpm = Swtpm.launch(directory / "state", certificates=False)
        equipment = equip(tpm.tcti, MAKER, serial)
        device = TpmDevice(tpm.tcti, directory / "agent", ek="p256", ak="p256")
        device.attestation_key()
        made.append(Machine(tpm, equipment, device, DeviceKeys(device, AgentConfig(device_identity="required"))))
    yield made
    for machine in made:
        machine.tpm.stop()


@pytest.fixture
def config(tmp_path):
    store = tmp_path / "makers"
    store.mkdir()
    (store / "maker.der").write_bytes(MAKER.der)
    return RegistrarConfig(database_url=DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"), iak_store=store)


@pytest.fixture
async def registrar(bus, config):
    """It has no store of EK certificates: nothing but a device identity admits a machine."""
    async with serving(bus, config, limits=LimitsConfig(enrolments_per_agent_min=1_000), clock=lambda: NOW) as serves:
        yield serves


async def ask(bus, request):
    return await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)


async def test_a_machine_with_a_device_identity_enrols(bus, registrar, machines, tmp_path):
    identity = identities.load(tmp_path, "host-1")
    machine = machines[0]
    with ThreadPoolExecutor(1) as executor:
        enrolled, _ = await enrol(bus, machine.device, identity, executor, device=machine.keys)
    assert enrolled.enrolment == 1
    known = await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id="host-1"), Identity)
    assert (known.ek_trust, known.ak_public) == ("iak", machine.device.attestation_key())

    async with asyncio.timeout(60):
        while not (found := await stored.last_messages(bus, topology.EVENTS.name, [subjects.events_of("host-1")])):
            await asyncio.sleep(0.01)
    vouched = next(one for one in decode(found[0].data, Event).findings if one.code == "identity.iak-vouched")
    assert vouched.culprit == "CN=Maker CA"
    assert "serialNumber=S1, CN=Server" in vouched.message


async def test_a_machine_without_one_is_refused(bus, registrar, machines):
    request = msgspec.structs.replace(machines[0].request(), device=None)
    with pytest.raises(EnrolmentError, match="certificate-missing"):
        await ask(bus, request)


async def test_what_another_machine_has_shown_does_not_help(bus, registrar, machines):
    """The wrong IAK, a swapped certificate, and the whole identity of another TPM."""
    mine, theirs = (machine.request() for machine in machines)
    own, other = mine.device, theirs.device
    taken = [
        (msgspec.structs.replace(own, iak_public=other.iak_public), "does not vouch for the AK"),
        (msgspec.structs.replace(own, iak_certificates=other.iak_certificates), "certificate-key"),
        (other, "does not vouch for the AK"),
    ]
    for shown, reason in taken:
        with pytest.raises(EnrolmentError, match=reason):
            await ask(bus, msgspec.structs.replace(mine, device=shown))
    assert (await ask(bus, mine)).challenge_id


async def test_an_iak_does_not_vouch_for_another_tpms_ak_even_for_the_same_request(bus, registrar, machines):
    mine, theirs = machines
    request = mine.request()
    foreign = theirs.keys.prove(request)
    with pytest.raises(EnrolmentError, match="about the object"):
        await ask(bus, msgspec.structs.replace(request, device=foreign))


async def test_a_certification_is_good_for_its_request_alone(bus, registrar, machines):
    """keylime#1416: the incumbent's agent certifies its UUID, and says the same for ever."""
    request = machines[0].request()
    changes: list[dict[str, object]] = [{"nonce": bytes(32)}, {"agent_id": "host-2"}, {"transport_key": bytes(32)}]
    for change in [*changes, {"bus_key": NKey.generate(Kind.USER).public}]:
        with pytest.raises(EnrolmentError, match="not made for this challenge"):
            await ask(bus, msgspec.structs.replace(request, **change))


async def test_who_has_heard_a_request_does_not_pass_for_the_machine_by_an_ek_of_his_own(bus, registrar, machines):
    """A hostile broker hears the request of a machine whose EK nobody has certified. With an EK of software it could open
    the challenge itself, and so would have the machine's id, with a key of its own on the bus."""
    heard, key = machines[0].request(), NKey.generate(Kind.USER)
    for ek in (SoftTpm(ek="p256", ak="p256").ek_public, machines[1].request().ek_public):
        with pytest.raises(EnrolmentError, match="not made for this challenge"):
            await ask(bus, msgspec.structs.replace(heard, ek_public=ek))
        with pytest.raises(EnrolmentError, match="not made for this challenge"):
            await ask(bus, msgspec.structs.replace(heard, ek_public=ek, bus_key=key.public))


async def test_a_machine_that_its_device_identity_admits_is_told_by_it_whatever_ek_it_shows(bus, registrar, machines):
    """Nobody has certified the EK, so that root of the machine may show one of software for each id."""
    for number in range(MAX_IDS + 1):
        software, name = SoftTpm(ek="p256", ak="p256"), f"again-{number}"
        request = msgspec.structs.replace(machines[0].request(name), ek_public=software.ek_public, device=None)
        request = msgspec.structs.replace(request, device=machines[0].keys.prove(request))
        sent = encode(request)
        reply = bytes((await bus.replies.ask(subjects.REGISTRAR_ENROL, sent, None, 10)).data)
        challenge = decode(reply, EnrolChallenge)
        ak_name = parse_public(request.ak_public).name
        ek = parse_public(software.ek_public)
        secret = open_credential(software._ek_key, ek, ak_name, challenge.credential, challenge.secret)
        proof = hmac.digest(secret, transcript(sent, reply), "sha256")
        activate = ActivateRequest(agent_id=name, challenge_id=challenge.challenge_id, proof=proof)
        if number < MAX_IDS:
            assert (await bus.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)).agent_id == name
        else:
            with pytest.raises(EnrolmentError, match="under 8 ids already"):
                await bus.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)


async def test_an_idevid_of_another_machine_is_refused(bus, registrar, machines):
    mine, theirs = (machine.request() for machine in machines)
    other = {"idevid_public": theirs.device.idevid_public, "idevid_certificates": theirs.device.idevid_certificates}
    with pytest.raises(EnrolmentError, match="device-mismatch"):
        await ask(bus, msgspec.structs.replace(mine, device=msgspec.structs.replace(mine.device, **other)))


def forged(machine: Machine, thief: SoftTpm, agent_id: str) -> EnrolRequest:
    """Return the request of a machine's owner who has its IDevID say what only an IAK may: that a software key is an AK."""
    asked = EnrolRequest(
        agent_id=agent_id,
        ek_public=thief.ek_public,
        ak_public=thief.ak_public,
        transport_key=secrets.token_bytes(32),
        nonce=secrets.token_bytes(32),
    )
    real = machine.keys.prove(asked)
    example = parse_certification(real.attest)
    claim = Certification(b"", certified_data(asked), example.clock, example.firmware, thief.ak_name, b"")
    attest = build_certification(claim)
    idevid = parse_public(real.idevid_public)
    pretended = build_public(
        idevid.key(),
        attributes=idevid.attributes | Attribute.restricted,
        policy=idevid.policy,
        scheme="ecdsa",
        scheme_hash="sha256",
    )
    device = DeviceIdentity(
        iak_public=pretended,
        iak_certificates=real.idevid_certificates,
        attest=attest,
        signature=signed(machine, "IDevID", attest),
    )
    return msgspec.structs.replace(asked, device=device)


def signed(machine: Machine, role: str, data: bytes) -> bytes:
    """Have a key of the TPM sign what its TPM has not made."""
    outside = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    with ESAPI(machine.tpm.tcti) as tpm:
        key = tpm.tr_from_tpmpublic(PERSISTENT[role])
        digest = hash_named("sha256").new(data).digest()
        return bytes(tpm.sign(key, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), outside).marshal())


async def test_an_idevid_can_not_stand_in_an_iaks_place(bus, registrar, machines):
    """The same CA vouches for both; the IDevID signs anything. Its certificate is what gives it away."""
    with pytest.raises(TSS2_Exception, match="ticket"):
        signed(machines[0], "IAK", b"\xffTCG")
    with pytest.raises(EnrolmentError, match="certificate-unrestricted"):
        await ask(bus, forged(machines[0], SoftTpm(ek="p256", ak="p256"), "host-3"))


async def test_what_iak_policy_warn_gives_away(bus, config, machines):
    """docs/device-identity.md says so: who asks for it must trust the owners of the machines."""
    careless = msgspec.structs.replace(config, iak_policy="warn")
    async with serving(bus, careless, clock=lambda: NOW):
        assert (await ask(bus, forged(machines[0], SoftTpm(ek="p256", ak="p256"), "host-3"))).challenge_id


async def test_an_agent_that_must_have_one_does_not_go_on_without(bus, registrar, machines, tmp_path):
    mine, theirs = machines
    (tmp_path / "iak.der").write_bytes(theirs.made.certificates["IAK"])
    keys = DeviceKeys(mine.device, AgentConfig(device_identity="required", iak_certificate=tmp_path / "iak.der"))
    with ThreadPoolExecutor(1) as executor, pytest.raises(DeviceIdentityError, match="serialNumber=S2") as raised:
        await enrol(bus, mine.device, identities.load(tmp_path, "host-4"), executor, device=keys)
    assert "docs/device-identity.md" in raised.value.hint
