"""A pool of verifier workers in this process, and a tenant that commands it: on a real bus and a real database.

Tests and the benchmark use it where killing a process is not the point.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from attestream.bus import objects
from attestream.bus.connection import Bus, BusSettings, connect
from attestream.bus.stored import get_batch, last_messages
from attestream.bus.trust import Trust
from attestream.clock import unix_ms
from attestream.config import VerifierConfig
from attestream.database import migrate, open_engine
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas import subjects, topology
from schemas.base import decode
from schemas.commands import AddAgent, Attestation, Command, Outcome, PublishPolicy
from schemas.events import Event, Result, Standing
from services.verifier.cluster_secret import ClusterSecret
from services.verifier.queries import Queries
from services.verifier.store import Store
from services.verifier.worker import Worker

_KEYS = KeyPool(2, own=("ek",))


def digest_of(path: str) -> bytes:
    """Return the SHA-256 that an honest file at ``path`` has in tests."""
    return hashlib.sha256(path.encode()).digest()


def allowing(*paths: str, **more: Any) -> dict[str, Any]:
    """Return a policy document that allows the honest files at ``paths``."""
    runtime = {"digests": {path: [f"sha256:{digest_of(path).hex()}"] for path in paths}, "excludes": ["/tmp/.*"]}
    return {"format": "attestream-policy/1", "bank": "sha256", "runtime": runtime} | more


def make_agent(agent_id: str, ak: str = "p256") -> SoftAgent:
    """Return an agent that has booted, with one entry in its log."""
    agent = SoftAgent(agent_id, SoftTpm(ek="p256", ak=ak, keys=_KEYS))
    agent.run("boot_aggregate", digest_of("boot_aggregate"))
    return agent


async def eventually(condition: Callable[[], Any | Awaitable[Any]], timeout_s: float = 30.0) -> Any:
    """Poll ``condition`` until it is true and return its value.

    :raises AssertionError: when it stays false.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {timeout_s} s")
        await asyncio.sleep(0.02)


class Pool:
    """Workers that can be started, stopped in order, or cut off as if killed."""

    def __init__(
        self,
        url: str,
        directory: Path,
        settings: VerifierConfig,
        database: str = "",
        trust: Callable[[], Trust] = Trust.unsigned,
    ) -> None:
        self._bus_url = url
        self._settings = settings
        self._secret = secrets.token_bytes(32)
        self._trust = trust
        self._workers: dict[str, tuple[Worker, Bus, asyncio.Task[None]]] = {}
        self.engine = open_engine(database or f"sqlite:///{directory}/verifier.db")
        self.store = Store(self.engine)

    @property
    def secret(self) -> bytes:
        """The cluster secret, for tests that forge."""
        return self._secret

    @property
    def workers(self) -> list[Worker]:
        """Those that run."""
        return [worker for worker, _, _ in self._workers.values()]

    async def start(self, name: str, clock: Callable[[], int] = unix_ms) -> Worker:
        """Start a worker that reads the time from ``clock``."""
        await migrate(self.engine, "services.verifier.migrations")
        bus = await connect(BusSettings(urls=[self._bus_url], name=name, reconnect_spread_s=0.1))
        await self._trust().start(bus)
        settings = msgspec.structs.replace(self._settings, worker_id=name)
        worker = Worker(bus, self.store, settings, ClusterSecret(self._secret), clock)
        await Queries(bus, self.store, worker).serve()
        self._workers[name] = (worker, bus, asyncio.create_task(worker.run()))
        return worker

    async def stop(self, name: str) -> None:
        """Stop a worker in order: it hands over."""
        worker, bus, task = self._workers.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await worker.stop()
        await bus.close()

    async def cut(self, name: str) -> None:
        """End a worker without a word: nothing is flushed, released or acknowledged."""
        _, bus, task = self._workers.pop(name)
        task.cancel()
        await bus.nc.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        """Stop all workers."""
        for name in list(self._workers):
            await self.stop(name)
        await self.engine.dispose()


class Tenant:
    """Publishes commands and reads what came of them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def command(self, subject_of: str, command: Command, timeout_s: float = 30.0) -> Outcome:
        """Publish ``command`` and return its outcome."""
        inbox = self.bus.nc.new_inbox()
        subscription = await self.bus.nc.subscribe(inbox)
        await self.bus.publish_durable(
            subjects.command(subject_of),
            command,
            message_id=command.command_id,
            headers={subjects.HEADER_REPLY_TO: inbox},
            sign=True,
        )
        reply = await subscription.next_msg(timeout=timeout_s)
        await subscription.unsubscribe()
        return decode(reply.data, Outcome)

    async def push(self, name: str, document: dict[str, Any]) -> Outcome:
        """Publish a version of policy ``name``."""
        digest = await objects.put(self.bus, topology.POLICIES, json.dumps(document).encode())
        return await self.command(name, PublishPolicy(command_id=uuid.uuid4().hex, name=name, digest=digest))

    async def add(self, agent_id: str, policy: str = "base", interval_ms: int = 1000, lease_ms: int = 0) -> Outcome:
        """Put an agent under attestation."""
        attestation = Attestation(policy=policy, interval_ms=interval_ms, lease_ms=lease_ms)
        return await self.command(
            agent_id, AddAgent(command_id=uuid.uuid4().hex, agent_id=agent_id, attestation=attestation)
        )

    async def result(self, agent_id: str) -> Result | None:
        """Return the live result of an agent, if it has one."""
        for stored in await last_messages(self.bus, topology.RESULTS.name, [subjects.result(agent_id)]):
            if stored.data and not stored.marker:
                return decode(stored.data, Result)
        return None

    async def standing(self, agent_id: str) -> Standing:
        """Return what the results say of an agent."""
        result = await self.result(agent_id)
        return Standing.UNKNOWN if result is None or result.expires_at <= unix_ms() else result.standing

    async def events(self, agent_id: str) -> list[Event]:
        """Return all events about an agent, in order."""
        found: list[Event] = []
        start = 1
        while True:
            request = {"seq": start, "batch": 200, "next_by_subj": subjects.events_of(agent_id)}
            batch = await get_batch(self.bus, topology.EVENTS.name, request)
            found += [decode(stored.data, Event) for stored in batch.messages]
            if not batch.messages:
                return found
            start = batch.messages[-1].sequence + 1

    async def becomes(self, agent_id: str, standing: Standing, timeout_s: float = 30.0) -> None:
        """Wait until the results say ``standing``.

        :raises AssertionError: when they do not in time.
        """

        async def reached() -> bool:
            return await self.standing(agent_id) == standing

        await eventually(reached, timeout_s)
