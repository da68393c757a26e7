"""Watches a cluster from outside, over the bus alone: the record, the results, the revocations, and who owns what."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable

from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.bus.stored import Stored, get_batch, last_messages
from attestream.signing import TrustedKeys
from devtools.pool import digest_of, eventually
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.base import decode
from schemas.events import Event, EventKind, Result, Revocation, Signed, Standing
from services.verifier.lease import owners

GOOD = "/usr/bin/ls"
BAD = "/usr/bin/evil"

PATIENCE_S = 60.0
"""How long anything that must come to pass may take on a busy machine."""


class Observer:
    """What tests ask of a cluster whose notifier signs with ``public_pem``."""

    def __init__(self, bus: Bus, public_pem: str) -> None:
        self._bus = bus
        self._keys = TrustedKeys.from_pems([public_pem])

    async def record(self, *kinds: EventKind, agent_id: str = "") -> list[Event]:
        """Return all events, or those of some kinds or of one agent, in order."""
        stored = await self._everything(topology.EVENTS.name, "att.event.*.*")
        events = [decode(message.data, Event) for message in stored if not message.subject.startswith("att.event.fence.")]
        return [event for event in events if (not kinds or event.kind in kinds) and agent_id in ("", event.agent_id)]

    async def revocations(self) -> list[Revocation]:
        """Return all revocations, their signatures verified, in order."""
        stored = await self._everything(topology.REVOCATIONS.name, subjects.REVOCATIONS)
        return [self._keys.open(decode(message.data, Signed), Revocation) for message in stored]

    async def results(self) -> dict[str, Result]:
        """Return the live results by agent."""
        stored = await last_messages(self._bus, topology.RESULTS.name, [subjects.RESULTS])
        results = [decode(message.data, Result) for message in stored if message.data and not message.marker]
        return {result.agent_id: result for result in results}

    async def all_are_judged(self, fleet: SoftFleet, bad: Collection[str], workers: Collection[str]) -> None:
        """Wait until every agent has a result of one of ``workers``: failed if it is bad, otherwise trusted.

        :raises AssertionError: when that does not come to pass.
        """

        async def judged() -> bool:
            results = await self.results()
            return all(
                agent_id in results
                and results[agent_id].standing is (Standing.FAILED if agent_id in bad else Standing.TRUSTED)
                and results[agent_id].worker in workers
                for agent_id in fleet.agents
            )

        await eventually(judged, PATIENCE_S)

    async def all_are_renewed(self, agent_ids: Iterable[str], since: int) -> None:
        """Wait until every agent has a result, trusted, for a challenge that was made after ``since`` (Unix ms).

        :raises AssertionError: when that does not come to pass.
        """

        async def renewed() -> bool:
            results = await self.results()
            return all(
                agent_id in results and results[agent_id].standing is Standing.TRUSTED and results[agent_id].seq > since
                for agent_id in agent_ids
            )

        await eventually(renewed, PATIENCE_S)

    async def each_failure_is_revoked(self, bad: Collection[str]) -> list[str]:
        """Wait until there is one revocation for each failing transition, of which each bad agent has exactly one.

        Return their ids in the order of the record.

        :raises AssertionError: when that does not come to pass.
        """

        async def failures() -> list[Event]:
            events = await self.record(EventKind.FAILED)
            return events if len(events) >= len(bad) else []

        failed: list[Event] = await eventually(failures, PATIENCE_S)
        assert sorted(event.agent_id for event in failed) == sorted(bad)

        async def revoked() -> bool:
            return len(await self.revocations()) >= len(failed)

        await eventually(revoked, PATIENCE_S)
        ids = [event.id for event in failed]
        assert sorted(revocation.id for revocation in await self.revocations()) == sorted(ids)
        return ids

    async def record_is_sound(self) -> None:
        """Check that ids are unique, that each agent's events are numbered without a gap, and that no fence goes back.

        :raises AssertionError: when that is not so.
        """
        events = await self.record()
        assert [id_ for id_, count in Counter(event.id for event in events).items() if count > 1] == []
        for agent_id in {event.agent_id for event in events}:
            own = [event for event in events if event.agent_id == agent_id and event.event_number]
            numbers = [event.event_number for event in own if event.kind is not EventKind.REFUSED]
            assert numbers == list(range(1, len(numbers) + 1)), [(event.kind, event.event_number) for event in own]
            fences = [event.fence for event in own]
            assert fences == sorted(fences), own

    async def evidence_is_settled(self) -> None:
        """Wait until the stream EVIDENCE is empty: nothing that was sent is waiting for anybody.

        :raises AssertionError: when that does not come to pass.
        """

        async def empty() -> bool:
            info = await jetstream.call(self._bus, f"STREAM.INFO.{topology.EVIDENCE.name}")
            return bool(info["state"]["messages"] == 0)

        await eventually(empty)

    async def partitions_are_shared(self, workers: Collection[str]) -> None:
        """Wait until every partition is owned, and each of ``workers`` has some.

        :raises AssertionError: when that does not come to pass.
        """

        async def shared() -> bool:
            held = [owner.worker for owner in (await owners(self._bus)).values() if owner.alive]
            return len(held) == subjects.PARTITIONS and set(held) == set(workers)

        await eventually(shared, PATIENCE_S)

    async def _everything(self, stream: str, subject: str) -> list[Stored]:
        found: list[Stored] = []
        while True:
            start = found[-1].sequence + 1 if found else 1
            batch = await get_batch(self._bus, stream, {"seq": start, "batch": 500, "next_by_subj": subject})
            if not batch.messages:
                return found
            found += batch.messages


async def storm(fleet: SoftFleet, bad: Collection[str]) -> None:
    """Let every agent of ``fleet`` run a program at the same moment: the bad ones one that no policy allows."""
    for agent_id, agent in fleet.agents.items():
        path = BAD if agent_id in bad else GOOD
        agent.run(path, digest_of(path))
    await asyncio.gather(*(fleet.notice(agent_id) for agent_id in fleet.agents))
