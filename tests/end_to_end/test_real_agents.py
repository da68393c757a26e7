"""Agents on real TPMs, from enrolment to revocation; every part is a process of its own."""

import json
import sys

import pytest

from attestream.appraisal import freshness
from attestream.appraisal.policy import policy_from_log
from attestream.clock import unix_ms
from devtools.ima_emulator import ImaEmulator
from devtools.observer import BAD, GOOD, Observer
from devtools.pool import eventually
from schemas import subjects
from schemas.attestation import PART_BYTES, Challenge, Evidence, EvidencePart, Inbound
from schemas.base import Decoder
from schemas.commands import AgentStatus
from schemas.enrolment import AgentQuery, Identity
from schemas.events import EventKind, Standing

LONG = "/tmp/" + "x" * 3900
HOOK = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read() + b'\\n')"


@pytest.fixture(params=["sqlite", "postgresql"])
def cluster(request, make_cluster):
    """The whole installation on each kind of database."""
    if request.param == "sqlite":
        return make_cluster()
    server = request.getfixturevalue("postgres_server")
    return make_cluster(database=lambda name: server.new_database())


@pytest.fixture
def machines(tpms, tmp_path):
    """Two machines that have booted and run the same programs."""
    made = []
    for number, tpm in enumerate(tpms):
        machine = ImaEmulator(tmp_path / f"ima-{number}", tpm.tcti)
        machine.boot()
        machine.run(GOOD, b"an honest program")
        made.append(machine)
    return made


@pytest.fixture
def start_agent(cluster, tpms, machines, tmp_path):
    """Starts the agent of a machine, with a hook that writes down what it is handed."""

    async def start(agent_id, number, **settings):
        hook = [sys.executable, "-c", HOOK, str(tmp_path / f"{agent_id}.heard")]
        log = str(machines[number].binary_log)
        return await cluster.agent(agent_id, tpms[number].tcti, ima_log=log, revocation_hook=hook, **settings)

    return start


@pytest.fixture
def heard(tmp_path):
    """Reads which revocations, and whose, the hook of an agent was handed so far."""

    def read(agent_id):
        path = tmp_path / f"{agent_id}.heard"
        told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(revocation["id"], revocation["agent_id"]) for revocation in told]

    return read


async def policy_of(tenant, machine):
    outcome = await tenant.push("base", policy_from_log(machine.binary_log.read_bytes(), excludes=["/tmp/.*"]))
    assert outcome.ok, outcome.message


async def test_enrolment_attestation_tampering_and_revocation(bus, cluster, machines, start_agent, tenant, receiver, heard):
    observer = Observer(bus, cluster.signer.public_pem)
    await cluster.registrar()
    await cluster.verifier("one")
    await cluster.notifier(receiver.url)
    await policy_of(tenant, machines[0])
    await start_agent("rsa", 0, ek="rsa2048", ak="rsa2048")
    await start_agent("ecc", 1, ek="p256", ak="p256")
    kinds = {}
    for agent_id in ("rsa", "ecc"):
        assert (await tenant.add(agent_id, interval_ms=2000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED, 60)
        identity = await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=agent_id), Identity)
        kinds[agent_id] = identity.ak_public
    assert len(kinds["rsa"]) > 256 > len(kinds["ecc"])
    for number, (culprit, witness) in enumerate((("rsa", "ecc"), ("ecc", "rsa"))):
        machines[number].run(BAD, b"a program that nobody knows")
        await tenant.becomes(culprit, Standing.FAILED, 60)
        failed = (await observer.record(EventKind.FAILED))[number]
        assert [(found.code, found.culprit) for found in failed.findings] == [("runtime.path-unknown", BAD)]
        await eventually(lambda pair=(failed.id, culprit), who=witness: pair in heard(who), 20)
        await eventually(lambda id_=failed.id: id_ in receiver.ids, 20)
    assert [document["agent_id"] for document in receiver.documents] == ["rsa", "ecc"]
    assert receiver.documents[0]["findings"][0]["culprit"] == BAD
    await observer.record_is_sound()


@pytest.mark.alone
@pytest.mark.parametrize("cluster", ["sqlite"], indirect=True)
async def test_logs_in_parts_through_a_worker_kill(bus, cluster, machines, start_agent, tenant, tmp_path):
    observer = Observer(bus, cluster.signer.public_pem)
    await cluster.registrar()
    workers = {name: await cluster.verifier(name) for name in ("one", "two")}
    await policy_of(tenant, machines[0])
    long_entries = PART_BYTES // len(LONG) + 10
    for number in range(long_entries):
        machines[0].run(f"{LONG}{number}", b"")
    boot_log = tmp_path / "boot_log"
    boot_log.write_bytes(b"firmware" * (PART_BYTES // 8 + 1))
    agent = await start_agent("a", 0, ek="p256", ak="p256", boot_log=str(boot_log))
    assert (await tenant.add("a", interval_ms=900_000, lease_ms=1_800_000)).ok
    await tenant.becomes("a", Standing.TRUSTED, 60)

    async def status():
        return await bus.request(subjects.QUERY_VERIFIER_AGENT, AgentQuery(agent_id="a"), AgentStatus)

    parts = await parts_seen(bus, "a")
    challenge = a_challenge(cluster, "a")
    await bus.publish(subjects.challenge("a"), challenge)

    async def accepted():
        # Either worker may answer. A log from its start was not asked for: the owner may have asked once more by now.
        return any([(await status()).seq >= challenge.seq for _ in range(4)])

    await eventually(accepted, 60)
    assert [part.boot for part in parts] == [False, False, True, True]
    assert await tenant.standing("a") is Standing.TRUSTED

    # All entries at once: with the agent awake each would be told of by itself.
    await observer.evidence_is_settled()
    agent.freeze()
    for number in range(long_entries):
        machines[0].run(f"{LONG}-{number}", b"")
    machines[0].run(BAD, b"a program that nobody knows")
    owner = workers[(await tenant.result("a")).worker]

    async def stall(message):
        # It must not have all parts before it is killed, however late that is.
        if owner.alive:
            owner.freeze()

    await bus.subscribe(subjects.challenge("a"), stall)
    await parts_seen(bus, "a", lambda part: owner.kill())
    agent.thaw()
    await tenant.becomes("a", Standing.FAILED, 60)
    [failed] = await observer.record(EventKind.FAILED)
    assert [found.culprit for found in failed.findings] == [BAD]
    assert failed.worker != owner.name
    assert not owner.alive
    await observer.evidence_is_settled()


async def parts_seen(bus, agent_id, then=lambda part: None):
    """Return a list that grows by every part that the agent sends; ``then`` is called for each."""
    seen = []
    inbound = Decoder[Evidence | EvidencePart](Inbound)

    async def take(message):
        sent = inbound.decode(message.data)
        if isinstance(sent, EvidencePart):
            seen.append(sent)
            then(sent)

    await bus.subscribe(subjects.evidence(agent_id), take)
    return seen


def a_challenge(cluster, agent_id):
    """A challenge for everything, as any worker of the cluster can make it."""
    now = unix_ms()
    return Challenge(
        agent_id=agent_id,
        nonce=freshness.nonce(cluster.secret, agent_id, now, now),
        seq=now,
        issued_at=now,
        deadline=now + 5000,
        banks={"sha256": [10]},
        ima_from=0,
        boot_log=True,
    )
