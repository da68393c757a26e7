"""Ten thousand agents, each with a connection and an identity of its own: what they cost the server, and how they come back
when it was restarted."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from attestream.bus.connection import BusSettings, connect
from attestream.bus.stored import get_batch
from attestream.bus.topology import ensure_topology
from attestream.client import Client, new_command_id, trusted
from attestream.clock import unix_ms
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import role_tag, user_token
from attestream.embedded.nats import NatsServer
from attestream.installation.bus_keys import load_seed, load_token
from attestream.installation.live import publish_roster
from attestream.installation.places import Installation
from bench.fleet import make_agents
from bench.machine import cpu_seconds, unique_bytes
from bench.report import Figure, Report, against
from bench.stack import BenchError, Program, until
from devtools.crowd import Crowd
from devtools.pool import allowing
from devtools.secure_bus import secure_installation, secure_server
from devtools.soft_agent import SoftAgent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.commands import AddAgent, AgentStatus, AgentStatusPage, Attestation
from schemas.enrolment import AgentsQuery
from schemas.events import EventKind, Standing
from schemas.roles import Role

AGENTS: Final = 10_000
INTERVAL_MS: Final = 30_000
LEASE_MS: Final = 90_000
SPREAD_S: Final = 5.0
"""Width of the random delay before an agent comes back, ``[bus] reconnect_spread_s``."""

_ADDING: Final = 128
_PAGE: Final = 500
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


class Site:
    """A secure installation with a bus and a verifier; the registrar's answers come from this process."""

    def __init__(self, directory: Path) -> None:
        self.place: Installation = secure_installation(directory)
        self.server: NatsServer = secure_server(self.place)
        self.client: Client
        self._fleet: SoftFleet
        self._verifier: Program

    async def start(self, agents: Sequence[SoftAgent]) -> None:
        """Start the parts."""
        self.server.start()
        provisioner = await connect(self._settings(Role.PROVISIONER))
        await ensure_topology(provisioner)
        await provisioner.close()
        await publish_roster(self.place, [self.server.url])
        registrar = await connect(self._settings(Role.REGISTRAR))
        await trusted(self.place.root_public, signing_key=self.place.service_key(Role.REGISTRAR)).start(registrar)
        self._fleet = SoftFleet(registrar, agents)
        await self._fleet.serve_identities()
        mine = self.place.operator("admin")
        bus = await connect(BusSettings(urls=[self.server.url], credentials=mine / "bus.creds"))
        await trusted(self.place.root_public, signing_key=mine / "signing.pem").start(bus)
        self.client = Client(bus)
        environment = {
            "ATTESTREAM_BUS_URLS": self.server.url,
            "ATTESTREAM_LOG_LEVEL": "warning",
            "ATTESTREAM_VERIFIER_WORKER_ID": "worker",
            # Agents are added one after another in each partition, and each addition waits for its row.
            "ATTESTREAM_VERIFIER_FLUSH_MS": "20",
        }
        arguments = ["services.verifier", "--config", str(self.place.config_file)]
        self._verifier = Program("worker", arguments, self.place.directory / "worker.log", environment)

    async def policy(self) -> None:
        """Publish the policy of the boot aggregate alone, once the verifier is there."""

        async def there() -> bool:
            return bool(await self.client.workers())

        await until(there, "the verifier is there", pause_s=0.2)
        await self.client.push_policy("base", json.dumps(allowing("boot_aggregate")).encode())

    async def add(self, names: Sequence[str]) -> float:
        """Put agents under attestation; return how many a second that made."""
        began, left = time.monotonic(), iter(names)

        async def one_after_another() -> None:
            attestation = Attestation(policy="base", interval_ms=INTERVAL_MS, lease_ms=LEASE_MS)
            for name in left:
                command = AddAgent(command_id=new_command_id(), agent_id=name, attestation=attestation)
                await self.client.command(command, timeout_s=_PATIENCE_S)

        await asyncio.gather(*(one_after_another() for _ in range(_ADDING)))
        return len(names) / (time.monotonic() - began)

    async def statuses(self) -> list[AgentStatus]:
        """Return the status of every agent."""
        found: list[AgentStatus] = []
        more = True
        while more:
            query = AgentsQuery(after=found[-1].agent_id if found else "", limit=_PAGE)
            page = await self.client.bus.request(subjects.QUERY_VERIFIER_AGENTS, query, AgentStatusPage, timeout_s=30)
            found += page.agents
            more = page.more
        return found

    async def trusted(self, agents: int, since_ms: int) -> bool:
        """Tell whether ``agents`` agents are trusted and were attested since then."""
        good = [one for one in await self.statuses() if one.standing is Standing.TRUSTED and one.last_at >= since_ms]
        return len(good) == agents

    async def lapses(self) -> int:
        """Return how often an agent became unreachable or its result lapsed."""
        total = 0
        for kind in (EventKind.UNREACHABLE, EventKind.LAPSED):
            start = 1
            while True:
                request = {"seq": start, "batch": 500, "next_by_subj": subjects.events_of_kind(kind)}
                found = (await get_batch(self.client.bus, topology.EVENTS.name, request)).messages
                if not found:
                    break
                total += len(found)
                start = found[-1].sequence + 1
        return total

    async def close(self) -> None:
        """End everything."""
        await self.client.close()
        await self._fleet._bus.close()
        self._verifier.stop()
        self.server.kill()

    def log(self) -> str:
        """Return the end of the verifier's log."""
        return self._verifier.tail()

    def _settings(self, role: Role) -> BusSettings:
        return BusSettings(urls=[self.server.url], credentials=self.place.credentials(role))


@asynccontextmanager
async def _site(agents: Sequence[SoftAgent]) -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="attestream-bench-") as name:
        site = Site(Path(name))
        await site.start(agents)
        try:
            yield site
        except BenchError:
            print(site.log())
            raise
        finally:
            await site.close()


async def measure(count: int = AGENTS) -> Found:
    """Let ``count`` agents in, attest them, and restart the server under them.

    :raises BenchError: they do not become trusted, or do not come back.
    """
    _raise_limit(count + 1_000)
    agents = make_agents(count, _AK)
    async with _site(agents) as site:
        identities = _identities(site.place, [agent.agent_id for agent in agents])
        crowd = Crowd(site.server.url, list(zip(agents, identities, strict=True)), spread_s=SPREAD_S)
        try:
            return await _measured(site, crowd, count)
        finally:
            crowd.leave()


async def _measured(site: Site, crowd: Crowd, count: int) -> Found:
    await site.policy()
    before = _server_bytes(site)
    began = time.monotonic()
    await crowd.enter()
    await until(lambda: crowd.connected == count, "everybody is connected", pause_s=0.01, timeout_s=_PATIENCE_S)
    connecting = count / (time.monotonic() - began)
    await until(lambda: not crowd.unconfirmed, "every hello is confirmed", pause_s=0.05, timeout_s=_PATIENCE_S)
    await asyncio.sleep(_SETTLE_S)
    per_agent = (_server_bytes(site) - before) / count
    adding = await site.add([member.agent.agent_id for member in crowd.members])
    await _until_trusted(site, count, 0)
    lapses = await site.lapses()
    crowd.complaints.clear()

    ended, ended_ms = time.monotonic(), unix_ms()
    site.server.kill()
    site.server.start()
    await until(lambda: crowd.connected < count, "the connections end", pause_s=0.01)
    await until(lambda: crowd.connected == count, "everybody is back", pause_s=0.01, timeout_s=_PATIENCE_S)
    connected = time.monotonic() - ended
    await _until_trusted(site, count, ended_ms)
    recovery = time.monotonic() - ended
    assert site.server.pid is not None
    return Found(
        agents=count,
        server_bytes=per_agent,
        connecting_per_s=connecting,
        adding_per_s=adding,
        connected_s=connected,
        recovery_s=recovery,
        lapses=await site.lapses() - lapses,
        server_cpu_s=cpu_seconds(site.server.pid),
        refusals=sum(crowd.complaints.values()),
    )


async def _until_trusted(site: Site, count: int, since_ms: int) -> None:
    async def done() -> bool:
        try:
            return await site.trusted(count, since_ms)
        except Exception:
            # The verifier may be on its way back as well.
            return False

    await until(done, f"{count} agents are trusted", pause_s=0.5, timeout_s=_PATIENCE_S)


def _identities(place: Installation, names: Sequence[str]) -> list[Credentials]:
    """Return what a registrar would issue after enrolment."""
    issuer = load_seed(place.issuer(Role.AGENT), Kind.ACCOUNT, "the agents' issuer")
    account = load_token(place.account_token(Role.AGENT)).subject
    now = int(time.time())
    made = []
    for name in names:
        key = NKey.generate(Kind.USER)
        token = user_token(
            issuer,
            key.public,
            subjects.token(name),
            account=account,
            now=now,
            expires_at=now + 3600,
            tags=[role_tag(Role.AGENT)],
        )
        made.append(Credentials(token, key))
    return made


def _server_bytes(site: Site) -> int:
    assert site.server.pid is not None
    return unique_bytes(site.server.pid)


def _raise_limit(files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        raise BenchError(f"this needs {files} open files, and the limit is {hard} (ulimit -n)")
    if soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


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
