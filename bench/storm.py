"""Ten thousand agents, each with a connection and an identity of its own: what they cost the server, and how they come back
when it was restarted."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Final, NamedTuple

from attestream.clock import unix_ms
from attestream.errors import BusError
from bench.fleet import allow_files, make_agents, registrar
from bench.holdings import lapses
from bench.machine import cpu_seconds, unique_bytes
from bench.report import Figure, Report, against
from bench.stack import POLICY, Stack, stack, until
from devtools.crowd import Crowd
from devtools.pool import allowing
from devtools.secure_bus import agent_identities
from schemas.commands import Attestation
from schemas.events import Standing

AGENTS: Final = 10_000
INTERVAL_MS: Final = 30_000
LEASE_MS: Final = 90_000
SPREAD_S: Final = 5.0
"""Width of the random delay before an agent comes back, ``[bus] reconnect_spread_s``."""

_SETTLE_S: Final = 3.0
_PATIENCE_S: Final = 180.0
_AK: Final = "p256"


class Found(NamedTuple):
    """What was measured. Times are in seconds from the server's end."""

    agents: int
    server_bytes: float
    """Of the server, for each connected agent."""
    connecting_per_s: float
    adding_per_s: float
    connected_s: float
    """Until the last agent was connected again."""
    recovery_s: float
    """Until every agent had been attested again, and was trusted."""
    lapses: int
    """Agents that became unreachable or whose result lapsed meanwhile."""
    server_cpu_s: float
    """That the new server had used by then."""
    refusals: int


async def measure(count: int = AGENTS) -> Found:
    """Let ``count`` agents in, attest them, and restart the server under them.

    :raises BenchError: they do not become trusted, or do not come back.
    """
    allow_files(count)
    agents = make_agents(count, _AK)
    # Agents are added one after another in each partition, and each addition waits for its row.
    async with stack(flush_ms="20") as parts, registrar(parts.place, parts.server.url, agents):
        parts.worker("worker")
        identities = agent_identities(parts.place, [agent.agent_id for agent in agents])
        crowd = Crowd(parts.server.url, list(zip(agents, identities, strict=True)), spread_s=SPREAD_S)
        try:
            return await _measured(parts, crowd, count)
        finally:
            crowd.leave()


async def _measured(parts: Stack, crowd: Crowd, count: int) -> Found:
    await parts.reading("worker")
    await parts.client.push_policy(POLICY, json.dumps(allowing("boot_aggregate")).encode())
    before = _server_bytes(parts)
    began = time.monotonic()
    await crowd.enter()
    await until(lambda: crowd.connected == count, "everybody is connected", pause_s=0.01, timeout_s=_PATIENCE_S)
    connecting = count / (time.monotonic() - began)
    await until(lambda: not crowd.unconfirmed, "every hello is confirmed", pause_s=0.05, timeout_s=_PATIENCE_S)
    await asyncio.sleep(_SETTLE_S)
    per_agent = (_server_bytes(parts) - before) / count
    attestation = Attestation(policy=POLICY, interval_ms=INTERVAL_MS, lease_ms=LEASE_MS)
    adding = await parts.add([member.agent.agent_id for member in crowd.members], attestation)
    await _until_trusted(parts, count, 0)
    before_it = await lapses(parts)
    crowd.complaints.clear()

    ended, ended_ms = time.monotonic(), unix_ms()
    parts.server.kill()
    parts.server.start()
    await until(lambda: crowd.connected < count, "the connections end", pause_s=0.01)
    await until(lambda: crowd.connected == count, "everybody is back", pause_s=0.01, timeout_s=_PATIENCE_S)
    connected = time.monotonic() - ended
    await _until_trusted(parts, count, ended_ms)
    recovery = time.monotonic() - ended
    assert parts.server.pid is not None
    return Found(
        agents=count,
        server_bytes=per_agent,
        connecting_per_s=connecting,
        adding_per_s=adding,
        connected_s=connected,
        recovery_s=recovery,
        lapses=await lapses(parts) - before_it,
        server_cpu_s=cpu_seconds(parts.server.pid),
        refusals=sum(crowd.complaints.values()),
    )


async def _until_trusted(parts: Stack, count: int, since_ms: int) -> None:
    async def done() -> bool:
        try:
            statuses = await parts.statuses()
        except BusError:  # the verifier may be on its way back as well
            return False
        good = [one for one in statuses if one.standing is Standing.TRUSTED and one.last_at >= since_ms]
        return len(good) == count

    await until(done, f"{count} agents are trusted", pause_s=0.5, timeout_s=_PATIENCE_S)


def _server_bytes(parts: Stack) -> int:
    assert parts.server.pid is not None
    return unique_bytes(parts.server.pid)


async def report_storm(report: Report) -> None:
    """Measure, and show what was found."""
    found = await measure()
    rows = [
        ("server's memory for each connected agent", f"{found.server_bytes / 1024:.1f} KiB"),
        ("agents let in", f"{found.connecting_per_s:,.0f}/s"),
        ("agents put under attestation by signed commands", f"{found.adding_per_s:,.0f}/s"),
        ("server killed to the last agent connected again", f"{found.connected_s:.1f} s"),
        ("... to the last agent attested again", against(found.recovery_s, LEASE_MS / 1000, more=False, unit=" s")),
        ("lapses that it caused", against(found.lapses, 0, more=False)),
        ("CPU of the new server by then", f"{found.server_cpu_s:.1f} s"),
    ]
    figures: dict[str, Figure] = {
        "server_kib_per_agent": round(found.server_bytes / 1024, 1),
        "storm_10k_recovery_s": round(found.recovery_s, 1),
        "storm_10k_connected_s": round(found.connected_s, 1),
        "storm_10k_lapses": found.lapses,
        "storm_10k_refusals": found.refusals,
        "agents_let_in_per_s": round(found.connecting_per_s),
        "signed_adds_per_s": round(found.adding_per_s),
    }
    caption = (
        f"{found.agents:,} agents in one process, each with a connection, an NKey and a token of its own, under attestation "
        f"every {INTERVAL_MS // 1000} s with a lease of {LEASE_MS // 1000} s; all that it says is signed and "
        f"checked. The server is killed and started at once; agents come back within {SPREAD_S:g} s of jitter, as [bus] "
        "reconnect_spread_s says, and say hello. Memory: unique set size before and after they connected."
    )
    report.table("storm: ten thousand identities", ["", ""], rows, caption, figures)


if __name__ == "__main__":
    import uvloop

    print(uvloop.run(measure(int(os.environ.get("AGENTS", AGENTS)))))
