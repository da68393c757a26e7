"""How fast agents get their identities on the bus, and how fast one that has failed is cut off."""

from __future__ import annotations

import asyncio
import logging
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attestream.bus.connection import Bus
from attestream.bus.topology import ensure_topology
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.embedded.orphan import die_with_parent
from attestream.tpm.credential import make_credential
from attestream.tpm.public import parse_public
from bench.machine import cpu_seconds
from bench.report import Figure, Report, against
from bench.stack import BenchError
from devtools.bus_identities import connect_with, enrolled, put_on_record, renewed
from devtools.secure_bus import secure_installation, secure_server
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.events import EventKind
from schemas.roles import Role

CUT_OFF: Final = 100
"""Agents that fail: half of them one after another, the others all at once."""
ENROLMENTS: Final = 600
RENEWALS: Final = 1_500
"""Few enough for each agent that the registrar does not take them for a flood."""
AT_ONCE: Final = 32

_LIFETIME_S: Final = 3_600
_PATIENCE_S: Final = 30.0


class Found(NamedTuple):
    """What was measured. Times are in seconds."""

    closed: list[float]
    """From before the failing event is published to the end of the agent's connection."""
    enrolment_cpu: float
    """Of the registrar, for each enrolment with a P-256 EK, all of it."""
    renewal_cpu: float
    credential_cpu: dict[str, float]
    """What MakeCredential takes of it: kind of EK -> seconds."""

    @property
    def issuing_cpu(self) -> float:
        """Of an enrolment without its MakeCredential."""
        return self.enrolment_cpu - self.credential_cpu["p256"]


class _Agent(NamedTuple):
    name: str
    key: NKey
    bus: Bus


async def measure() -> Found:
    """Measure on a bus that asks everybody who they are, with a registrar process of its own.

    :raises BenchError: something went wrong on the way.
    """
    with tempfile.TemporaryDirectory(prefix="attestream-bench-") as directory:
        place = secure_installation(Path(directory))
        server = secure_server(place)
        server.start()
        try:
            provisioner = await connect_with(server.url, place.credentials(Role.PROVISIONER))
            await ensure_topology(provisioner)
            await provisioner.close()
            verifier = await connect_with(server.url, place.credentials(Role.VERIFIER))
            enrolment = await connect_with(server.url, place.credentials(Role.ENROLMENT))
            async with _registrar(place.directory, server.url) as pid:
                enrolment_cpu, agents = await _enrol(pid, enrolment, server.url)
                renewal_cpu = await _renew(pid, agents)
                closed = await _cut_off(verifier, agents)
            for bus in (verifier, enrolment):
                await bus.close()
        finally:
            server.kill()
    return Found(closed, enrolment_cpu, renewal_cpu, {kind: _credential_cpu(kind) for kind in ("p256", "rsa2048")})


@asynccontextmanager
async def _registrar(directory: Path, url: str) -> AsyncIterator[int]:
    command = [sys.executable, "-m", "bench.registrar_driver", str(directory), url, str(_LIFETIME_S)]
    log = (directory / "registrar.log").open("wb")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=log,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
    )
    try:
        assert process.stdout is not None
        if await asyncio.to_thread(process.stdout.readline) != b"ready\n":
            raise BenchError(f"the registrar did not start:\n{(directory / 'registrar.log').read_text()[-2000:]}")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        log.close()


async def _enrol(pid: int, enrolment: Bus, url: str) -> tuple[float, list[_Agent]]:
    keys = KeyPool(4, own=("ek",))
    soft = [
        SoftAgent(f"agent-{index}", SoftTpm(ek="p256", ak="p256", ak_policy=secrets.token_bytes(32), keys=keys))
        for index in range(ENROLMENTS + AT_ONCE)
    ]
    nkeys = [NKey.generate(Kind.USER) for _ in soft]
    tokens: dict[int, str] = {}

    async def one(index: int) -> None:
        answer = await enrolled(enrolment, soft[index], nkeys[index])
        if not answer.bus_token:
            raise BenchError(f"no identity was issued: {answer.bus_refusal}")
        tokens[index] = answer.bus_token

    await _all([one(index) for index in range(AT_ONCE)])
    before = cpu_seconds(pid)
    await _all([one(index) for index in range(AT_ONCE, len(soft))])
    spent = (cpu_seconds(pid) - before) / ENROLMENTS
    agents = []
    for index in range(CUT_OFF):
        bus = await connect_with(url, Credentials(tokens[index], nkeys[index]))
        agents.append(_Agent(soft[index].agent_id, nkeys[index], bus))
    return spent, agents


async def _renew(pid: int, agents: list[_Agent]) -> float:
    before = cpu_seconds(pid)
    for _ in range(RENEWALS // len(agents)):
        await _all([_renewed(agent) for agent in agents])
    return (cpu_seconds(pid) - before) / (RENEWALS // len(agents) * len(agents))


async def _renewed(agent: _Agent) -> None:
    await renewed(agent.bus, agent.name, agent.key)


async def _cut_off(verifier: Bus, agents: list[_Agent]) -> list[float]:
    first, others = agents[: len(agents) // 2], agents[len(agents) // 2 :]
    times = [await _closing(verifier, agent) for agent in first]
    return times + list(await asyncio.gather(*(_closing(verifier, agent) for agent in others)))


async def _closing(verifier: Bus, agent: _Agent) -> float:
    closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def notice() -> None:
        closed.set_result(time.monotonic())

    agent.bus.on_closed(notice)
    began = time.monotonic()
    await put_on_record(verifier, agent.name, EventKind.FAILED)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await closed - began
    except TimeoutError as error:
        raise BenchError(f"{agent.name} has failed and is still connected after {_PATIENCE_S:g} s") from error


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(job: Coroutine[Any, Any, None]) -> None:
        async with turns:
            await job

    async with asyncio.TaskGroup() as tasks:
        for job in work:
            tasks.create_task(one(job))


def _credential_cpu(kind: str, runs: int = 200) -> float:
    tpm = SoftTpm(ek=kind, ak="p256")
    ek = parse_public(tpm.ek_public)
    before = time.process_time()
    for _ in range(runs):
        make_credential(ek, tpm.ak_name, bytes(32))
    return (time.process_time() - before) / runs


async def report_identities(report: Report) -> None:
    """Measure, and show what was found."""
    # Each of the connections tells that it has ended.
    logging.getLogger("attestream.bus").setLevel(logging.CRITICAL)
    found = await measure()
    milliseconds = sorted(1000 * took for took in found.closed)
    p50 = statistics.median(milliseconds)
    p99 = statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
    issued, renewals = 1 / found.issuing_cpu, 1 / found.renewal_cpu
    rows = [
        ("failing event to closed connection, p50", f"{p50:.1f} ms"),
        ("p99", against(p99, 500.0, more=False, unit=" ms")),
        ("max", f"{milliseconds[-1]:.1f} ms"),
        ("identities issued, per core", against(issued, 500.0, more=True, unit="/s")),
        ("identities renewed, per core", f"{renewals:,.0f}/s"),
        ("MakeCredential for an RSA-2048 EK", f"{1e6 * found.credential_cpu['rsa2048']:.0f} us"),
        ("MakeCredential for a P-256 EK", f"{1e6 * found.credential_cpu['p256']:.0f} us"),
    ]
    figures: dict[str, Figure] = {
        "revoked_connection_ms_p50": round(p50, 1),
        "revoked_connection_ms_p99": round(p99, 1),
        "revoked_connection_ms_max": round(milliseconds[-1], 1),
        "identities_per_s": round(issued),
        "identities_renewed_per_s": round(renewals),
        "make_credential_us_rsa2048": round(1e6 * found.credential_cpu["rsa2048"]),
        "make_credential_us_p256": round(1e6 * found.credential_cpu["p256"]),
    }
    caption = (
        f"{CUT_OFF} agents, each with a connection of its own, fail: half one after another, half at once. From before the "
        f"event is published until the client is told that its connection is closed. {ENROLMENTS} enrolments and "
        f"{RENEWALS:,} renewals, for each CPU second of the registrar, all its threads, SQLite; an enrolment counts without "
        "its MakeCredential. One nats-server with JWT accounts and a full resolver."
    )
    report.table("identities: issued, renewed, cut off", ["", ""], rows, caption, figures)
