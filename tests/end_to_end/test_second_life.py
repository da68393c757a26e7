"""An agent whose enrolment was deleted enrols anew, with another TPM: nothing of its earlier life stands in its way."""

from attestream.client import connect as connect_client
from attestream.client import unverified
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects
from schemas.base import decode, encode
from schemas.commands import DeleteAgent
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled
from schemas.events import EventKind, Standing


async def enrol(bus, agent):
    request = encode(agent.enrol_request())
    reply = await bus.replies.ask(subjects.REGISTRAR_ENROL, request, bus.headers(), 10.0)
    challenge = decode(reply.data, EnrolChallenge)
    proof = agent.proof(request, reply.data)
    activate = ActivateRequest(agent_id=agent.agent_id, challenge_id=challenge.challenge_id, proof=proof)
    agent.enrolment = (await bus.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)).enrolment


async def test_deleted_and_enrolled_anew_with_another_tpm(bus, cluster, nats_server, tenant, observer):
    registrar = await cluster.registrar()
    await cluster.verifier("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for _ in range(2):
        agent = make_agent("a")
        agent.tpm = type(agent.tpm)(ek="p256", ak="p256")
        agent.log.clear()
        agent.run("boot_aggregate", digest_of("boot_aggregate"))
        await enrol(bus, agent)
        fleet = SoftFleet(bus, [agent])
        await fleet.start()
        assert (await tenant.add("a", interval_ms=300)).ok
        await tenant.becomes("a", Standing.TRUSTED, 60)
        await fleet.stop()
        assert (await tenant.command("a", DeleteAgent(command_id=agent.transport_key.hex(), agent_id="a"))).ok
        async with connect_client(nats_server.url, trust=unverified()) as client:
            await client.delete_enrolment("a")
        registrar.kill()
        await registrar.restart()
    life = [EventKind.ENROLLED, EventKind.ADDED, EventKind.TRUSTED, EventKind.DELETED, EventKind.IDENTITY_DELETED]

    # The last event waits in the registrar's database for the one that was started anew.
    async def whole() -> bool:
        return len([event for event in await observer.record() if event.agent_id == "a"]) >= len(life) * 2

    await eventually(whole, 20)
    record = await observer.record()
    assert [event.kind for event in record if event.agent_id == "a"] == life * 2
    assert [event.enrolment for event in record if event.agent_id == "a"] == [1] * 5 + [2] * 5
    assert len({event.id for event in record}) == len(record)
