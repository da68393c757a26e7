"""Hello over a real bus."""

from __future__ import annotations

import asyncio
import time

from attestream.bus.connection import Bus
from attestream.embedded.nats import NatsServer
from devtools.evidence_stream import EvidenceStream
from schemas.attestation import Hello
from services.agent.presence import Presence


def now() -> int:
    return time.time_ns() // 1_000_000


async def test_hello_is_said_at_the_start_and_after_each_return(
    bus: Bus, stream: EvidenceStream, nats_server: NatsServer
) -> None:
    presence = Presence(bus, "host.1", 4, now=now)
    task = asyncio.create_task(presence.run())
    ((_, hello),) = await stream.count(1)
    assert isinstance(hello, Hello)
    assert (hello.agent_id, hello.enrolment) == ("host.1", 4)
    await stream.restarted(lambda: (nats_server.kill(), nats_server.start()))
    await stream.count(2)
    task.cancel()
