"""The SDK on a real bus: what is delivered, what is believed, and what becomes of commands."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.stored import last_messages
from attestream.client import (
    Client,
    CommandRefusedError,
    PendingCommandError,
    Rejected,
    connect,
    new_command_id,
    unverified,
)
from attestream.client import policies as policy_names
from attestream.embedded.nats import NatsServer
from attestream.errors import (
    BusError,
    ConfigError,
    MalformedError,
    PolicyError,
    SignatureError,
    UnknownPolicyError,
)
from attestream.signing import Signer, TrustedKeys
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.commands import Outcome as CommandOutcome
from schemas.commands import PolicyRecord, PublishPolicy, StopAgent
from schemas.events import Event, EventKind, Revocation, Signed, Standing

SIGNER_FILE = "signer.pem"


def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.generate(tmp_path / SIGNER_FILE)


@pytest.fixture
async def client(bus: Bus, nats_server: NatsServer, signer: Signer) -> AsyncIterator[Client]:
    keys = TrustedKeys.from_pems([signer.public_pem])
    async with connect(nats_server.url, keys=keys, trust=unverified()) as connected:
        yield connected


def a_revocation(number: int, agent_id: str = "a") -> Revocation:
    return Revocation(
        id=f"{agent_id}:{number}",
        agent_id=agent_id,
        at=now(),
        signed_at=now(),
        standing=Standing.FAILED,
        enrolment=1,
        policy="p@1",
        findings=[],
    )


async def publish(bus: Bus, signed: Signed, message_id: str, subject: str = "") -> None:
    await bus.publish_durable(subject or subjects.revocation("a"), signed, message_id=message_id)


class TestRevocations:
    async def test_a_durable_name_keeps_its_place_and_repeats_what_was_not_acknowledged(
        self, bus: Bus, client: Client, signer: Signer, nats_server: NatsServer
    ) -> None:
        for number in range(3):
            await publish(bus, signer.sign(a_revocation(number)), f"r{number}")
        first = client.revocations("siem")
        got = [await anext(first), await anext(first)]
        assert [item.id for item in got] == ["a:0", "a:1"]
        await got[0].ack()
        await got[1].retry(0)
        await first.stop()
        keys = TrustedKeys.from_pems([signer.public_pem])
        async with connect(nats_server.url, keys=keys, trust=unverified()) as other:
            again = other.revocations("siem")
            assert {(await anext(again)).id, (await anext(again)).id} == {"a:1", "a:2"}

    async def test_a_subscription_outlives_a_crash_of_the_server(
        self, bus: Bus, client: Client, signer: Signer, nats_server: NatsServer
    ) -> None:
        revocations = client.revocations("siem")
        await publish(bus, signer.sign(a_revocation(0)), "r0")
        await (await anext(revocations)).ack()
        await client.bus.nc.flush()
        nats_server.kill()
        nats_server.start()
        await publish(bus, signer.sign(a_revocation(1)), "r1")
        seen = ""
        while seen != "a:1":  # the acknowledgement of the first may have been lost with the server
            item = await asyncio.wait_for(anext(revocations), 40)
            await item.ack()
            seen = item.id

    async def test_a_forged_revocation_is_dead_lettered_and_never_yielded(
        self, bus: Bus, client: Client, signer: Signer, tmp_path: Path
    ) -> None:
        stranger = Signer.generate(tmp_path / "stranger.pem")
        true = signer.sign(a_revocation(1))
        forged = Signed(payload=true.payload, key_id=true.key_id, algorithm=true.algorithm, signature=b"\x00" * 64)
        await publish(bus, stranger.sign(a_revocation(0)), "r0")
        await publish(bus, forged, "r1")
        await publish(bus, true, "r2", subjects.revocation("b"))  # a true one, filed under another agent
        await bus.publish_durable(subjects.revocation("a"), b"\xc1", message_id="r3")
        await publish(bus, signer.sign(a_revocation(4)), "r4")
        rejected: list[Rejected] = []
        item = await anext(client.revocations("siem", on_rejected=rejected.append))
        assert item.id == "a:4"
        assert [type(each.error) for each in rejected] == [SignatureError, SignatureError, MalformedError, MalformedError]
        dead = await last_messages(bus, topology.DEAD.name, [subjects.dead("REVOCATIONS")])
        assert dead

    async def test_without_a_name_a_forged_one_is_skipped_and_leaves_no_trace(
        self, bus: Bus, client: Client, signer: Signer, tmp_path: Path
    ) -> None:
        await publish(bus, Signer.generate(tmp_path / "stranger.pem").sign(a_revocation(0)), "r0")
        await publish(bus, signer.sign(a_revocation(1)), "r1")
        rejected: list[Rejected] = []
        item = await anext(client.revocations(on_rejected=rejected.append))
        assert item.id == "a:1"
        assert len(rejected) == 1
        assert not await last_messages(bus, topology.DEAD.name, [subjects.DEAD])

    async def test_without_trusted_keys_there_is_no_subscription(self, bus: Bus, nats_server: NatsServer) -> None:
        async with connect(nats_server.url, trust=unverified()) as keyless:
            with pytest.raises(ConfigError):
                keyless.revocations()

    async def test_more_than_a_window_flows_to_a_reader_who_never_acknowledges_without_a_name(
        self, bus: Bus, client: Client, signer: Signer
    ) -> None:
        for number in range(150):
            await publish(bus, signer.sign(a_revocation(number)), f"r{number}")
        revocations = client.revocations()
        assert [(await anext(revocations)).id for _ in range(150)] == [f"a:{number}" for number in range(150)]

    async def test_stopping_ends_a_waiting_iteration(self, client: Client) -> None:
        revocations = client.revocations()
        waiting = asyncio.create_task(anext(revocations))
        await revocations.start()
        await revocations.stop()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 30)


class TestEvents:
    async def record(self, bus: Bus, kind: EventKind, agent_id: str) -> None:
        event = Event(id=f"{agent_id}:{kind}", kind=kind, agent_id=agent_id, at=now())
        await bus.publish_durable(subjects.event(kind, agent_id), event, message_id=event.id)

    async def test_they_are_chosen_by_kind_and_agent_and_fences_are_left_out(self, bus: Bus, client: Client) -> None:
        await bus.publish_durable(subjects.event_fence(3), b"", message_id="fence")
        for agent_id in ("a", "b"):
            for kind in (EventKind.ADDED, EventKind.FAILED):
                await self.record(bus, kind, agent_id)
        everything = client.events(from_start=True)
        assert [(await anext(everything)).event.id for _ in range(4)] == ["a:added", "a:failed", "b:added", "b:failed"]
        chosen = client.events(kinds=[EventKind.FAILED], agent_id="b", from_start=True)
        assert (await anext(chosen)).event.id == "b:failed"

    async def test_only_what_comes_next_or_since_a_moment(self, bus: Bus, client: Client) -> None:
        await self.record(bus, EventKind.ADDED, "old")
        await asyncio.sleep(0.02)
        moment = now()
        await self.record(bus, EventKind.ADDED, "a")
        new = client.events()
        await new.start()
        await self.record(bus, EventKind.ADDED, "b")
        assert (await anext(new)).event.agent_id == "b"
        assert (await anext(client.events(since=moment))).event.agent_id == "a"


class TestCommands:
    async def answering(self, bus: Bus, *, ok: bool) -> None:
        async def answer(message) -> None:
            command = decode(message.data, StopAgent)
            outcome = CommandOutcome(command_id=command.command_id, ok=ok, code="" if ok else "agent-unknown", message="no")
            for _ in range(2):  # an outcome may come twice
                await bus.publish(message.headers[subjects.HEADER_REPLY_TO], outcome)

        await bus.subscribe(subjects.COMMAND_IN, answer)
        await bus.nc.flush()

    async def test_the_outcome_comes_back_to_whoever_asked(self, bus: Bus, client: Client) -> None:
        await self.answering(bus, ok=True)
        commands = [StopAgent(command_id=new_command_id(), agent_id=f"a{number}") for number in range(50)]
        outcomes = await asyncio.gather(*(client.command(command) for command in commands))
        assert [outcome.command_id for outcome in outcomes] == [command.command_id for command in commands]

    async def test_a_refusal_keeps_its_code(self, bus: Bus, client: Client) -> None:
        await self.answering(bus, ok=False)
        with pytest.raises(CommandRefusedError) as caught:
            await client.command(StopAgent(command_id="1", agent_id="a"))
        assert caught.value.outcome.code == "agent-unknown"

    async def test_without_a_verifier_the_command_is_kept_and_the_caller_is_told(self, bus: Bus, client: Client) -> None:
        with pytest.raises(PendingCommandError) as caught:
            await client.command(StopAgent(command_id="1", agent_id="a"), timeout_s=0.1)
        assert caught.value.command_id == "1"
        stored = await last_messages(bus, topology.COMMANDS.name, [subjects.COMMAND_STORED])
        assert decode(stored[0].data, StopAgent).command_id == "1"

    async def test_an_impossible_agent_id_is_refused_before_anything_is_sent(self, client: Client) -> None:
        with pytest.raises(MalformedError):
            await client.command(StopAgent(command_id="1", agent_id="a b"))

    async def test_an_invalid_policy_never_leaves(self, bus: Bus, client: Client) -> None:
        with pytest.raises(PolicyError):
            await client.push_policy("p", b'{"format":"attestream-policy/1"}')
        with pytest.raises(MalformedError):
            await client.push_policy("a/b", b"{}")
        assert not await last_messages(bus, topology.COMMANDS.name, [subjects.COMMAND_STORED])


class TestPolicies:
    async def test_the_newest_version_is_the_highest_not_the_last_in_the_alphabet(self, bus: Bus, client: Client) -> None:
        from attestream.bus import objects

        digest = await objects.put(bus, topology.POLICIES, b"{}")
        for version in (2, 10, 9):
            record = PolicyRecord(name="web.v", version=version, digest=digest, at=now())
            key = topology.policy_key("web.v", version)
            await keyvalue.put(bus, topology.CLUSTER.name, key, encode(record), expected=0)
        assert [record.version for record in await client.policies()] == [2, 9, 10]
        assert (await client.policy("web.v"))[0].version == 10
        assert (await client.policy("web.v@9"))[0].version == 9
        with pytest.raises(UnknownPolicyError):
            await client.policy("web.v@3")
        with pytest.raises(UnknownPolicyError):
            await client.policy("web")

    @pytest.mark.parametrize("reference", ["", "@1", "a@", "a@0", "a@-1", "a@1.5", "a@٣", "a b", ".a", "a" * 65])
    def test_what_is_no_reference_is_refused(self, reference: str) -> None:
        with pytest.raises(MalformedError):
            policy_names.split(reference)


def test_a_policy_command_travels_under_the_policys_name() -> None:
    from attestream.client.commands import subject_of

    assert subject_of(PublishPolicy(command_id="1", name="web.v", digest="")) == "att.command.web%2Ev"


async def test_a_bus_that_does_not_answer_is_one_clear_error() -> None:
    with pytest.raises(BusError, match="can not be reached"):
        async with connect("nats://127.0.0.1:9", trust=unverified(), timeout_s=1):
            pass
