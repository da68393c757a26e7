"""One machine with a very long IMA log among others that are attested every second.

``python -m bench.long_log --installation DIRECTORY --url URL`` is that machine, a process of its own: the agent's code over
a software TPM and a log in a file.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from attestream.bus.connection import BusSettings, connect
from attestream.credentials.document import parse
from attestream.installation.places import Installation
from bench.fleet import agent_name, tell
from bench.growth import populated, started_worker, unrefused
from bench.holdings import lapses
from bench.machine import peak_bytes, reset_peak, unique_bytes
from bench.population import enrol
from bench.report import Figure, Report, against
from bench.samples import path_of
from bench.stack import PATIENCE_S, POLICY, Simulator, Stack, attestation, stack, until
from devtools import ima_log
from devtools.pool import allowing, digest_of
from devtools.secure_bus import agent_credentials
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import SoftTpm
from schemas import subjects
from schemas.commands import AgentStatus
from schemas.enrolment import AgentQuery
from schemas.events import Standing
from services.agent.answering import Answerer
from services.agent.evidence import Attester, EvidenceMaker
from services.agent.ima_log import ImaLog
from services.agent.tpm_pcrs import Banks

ENTRIES: Final = 1_000_000
PATHS: Final = 100_000
"""Of the policy, each logged once; all other entries are of files in a directory that it excludes."""
OTHERS: Final = 200
INTERVAL_MS: Final = 1_000
NAME: Final = "long-log"
QUIET_S: Final = 15.0
"""How long the others are watched before."""
MOST_DELAY_S: Final = 1.0
"""Goal: nobody misses an interval."""

_WORKER: Final = "worker"
_IDENTITY_S: Final = 24 * 3600
_TRUSTED_S: Final = 300.0


class Found(NamedTuple):
    """What was measured. Times are in seconds, sizes in bytes."""

    entries: int
    size: int
    """Of the log."""
    evidences: int
    """That it came in."""
    trusted_s: float
    """From the command until its machine was trusted."""
    quiet: list[float]
    """Between two challenges of one of the others: p50, p99 and longest, before."""
    meanwhile: list[float]
    """And while the log was taken in."""
    memory: int
    """Of the worker before."""
    peak: int
    """By how much that grew meanwhile."""
    kept: int
    """And how much of it remained."""
    lapses: int
    """Of all."""


async def measure(entries: int = ENTRIES, others: int = OTHERS, quiet_s: float = QUIET_S) -> Found:
    """Take in a machine with a log of ``entries`` entries among ``others``.

    :raises BenchError: it is not trusted in time, or another one is not any more.
    """
    async with stack() as parts:
        crowd = await populated(parts, others)
        await started_worker(parts, _WORKER)
        files = ("boot_aggregate", *map(path_of, range(PATHS)))
        await parts.client.push_policy(POLICY, json.dumps(allowing(*files)).encode(), timeout_s=PATIENCE_S)
        crowd.order(do="enter")
        await crowd.hear("entered")
        await parts.add([agent_name(number) for number in range(others)], attestation(INTERVAL_MS))
        machine = await parts.simulator("bench.long_log", entries=entries)
        size = await machine.hear("size")
        await parts.settled(others, attested=3)
        quiet = await _gaps(crowd, quiet_s)
        pid = parts.programs[_WORKER].pid
        memory = unique_bytes(pid)
        reset_peak(pid)
        lowest = peak_bytes(pid)
        trusted, meanwhile = await _taken_in(parts, crowd)
        peak = peak_bytes(pid) - lowest
        machine.order()
        evidences = await machine.hear("evidences")
        await unrefused(crowd)
        await parts.settled(others + 1)
        return Found(
            entries,
            size,
            evidences,
            trusted,
            quiet,
            meanwhile,
            memory,
            peak,
            unique_bytes(pid) - memory,
            await lapses(parts),
        )


async def _taken_in(parts: Stack, crowd: Simulator) -> tuple[float, list[float]]:
    crowd.order(do="begin")
    await crowd.hear("begun")
    began = time.monotonic()
    await parts.add([NAME], attestation(INTERVAL_MS))

    async def trusted() -> bool:
        query = AgentQuery(agent_id=NAME)
        status = await parts.client.bus.request(subjects.QUERY_VERIFIER_AGENT, query, AgentStatus, timeout_s=PATIENCE_S)
        return status.standing is Standing.TRUSTED

    await until(trusted, f"{NAME} is trusted", pause_s=0.1, timeout_s=_TRUSTED_S)
    return time.monotonic() - began, await _gaps(crowd, 0)


async def _gaps(crowd: Simulator, seconds: float) -> list[float]:
    if seconds:
        crowd.order(do="begin")
        await asyncio.sleep(seconds)
    crowd.order(do="gaps")
    return list(await crowd.hear("gaps"))


async def report_long_log(report: Report) -> None:
    """Measure, and show what was found."""
    found = await measure()
    delay, usual = (max(0.0, gaps[2] - INTERVAL_MS / 1000) for gaps in (found.meanwhile, found.quiet))
    rows = [
        ("size of the log", f"{found.size / 2**20:.0f} MiB, in {found.evidences} evidences"),
        ("taken in, trusted after", f"{found.trusted_s:.1f} s"),
        ("longest delay of another machine meanwhile", against(delay, MOST_DELAY_S, more=False, unit=" s")),
        ("... before", f"{usual:.2f} s"),
        ("time between two challenges of another, p50 / p99", " / ".join(f"{gap:.2f} s" for gap in found.meanwhile[:2])),
        ("... before", " / ".join(f"{gap:.2f} s" for gap in found.quiet[:2])),
        ("the worker's memory before", f"{found.memory / 2**20:.0f} MiB"),
        ("... grew by, at most", f"{found.peak / 2**20:.0f} MiB"),
        ("... of which remained", f"{found.kept / 2**20:.0f} MiB"),
        ("lapses, agents called unreachable", against(found.lapses, 0, more=False)),
    ]
    figures: dict[str, Figure] = {
        "long_log_entries": found.entries,
        "long_log_mib": round(found.size / 2**20),
        "long_log_evidences": found.evidences,
        "long_log_trusted_s": round(found.trusted_s, 1),
        "long_log_delay_s": round(delay, 2),
        "long_log_delay_before_s": round(usual, 2),
        "long_log_peak_mib": round(found.peak / 2**20),
        "long_log_kept_mib": round(found.kept / 2**20),
        "long_log_lapses": found.lapses,
    }
    caption = (
        f"A machine with an ima-ng log of {found.entries:,} entries comes under attestation among {OTHERS} that are "
        f"attested every {INTERVAL_MS / 1000:g} s, all by one worker. The policy has {PATHS:,} paths; the log has each of "
        "them once, and other files from a directory that the policy excludes. The machine runs the agent's code over a "
        "software TPM. Delay: by how much the longest time between two challenges of another machine is above its interval."
    )
    report.table("long log: one machine among others", ["", ""], rows, caption, figures)


class _Tpm:
    """A software TPM as the agent's code wants one."""

    def __init__(self, tpm: SoftTpm) -> None:
        self._tpm = tpm
        self.quotes = 0

    def quote(self, qualifying: bytes, banks: Banks) -> tuple[bytes, bytes]:
        self.quotes += 1
        return self._tpm.quote(qualifying, banks)

    def read_pcrs(self, banks: Banks) -> dict[str, dict[int, bytes]]:
        return {bank: {pcr: self._tpm.pcr(bank, pcr) for pcr in pcrs} for bank, pcrs in banks.items()}


def write_log(path: Path, tpm: SoftTpm, entries: int) -> None:
    """Write a log of ``entries`` entries, and extend PCR 10 of ``tpm`` by them."""
    with path.open("wb") as file:
        for number in range(entries):
            name = "boot_aggregate" if not number else path_of(number - 1)
            if number > PATHS:
                name = f"/tmp/build/{number // 500:05d}/made/object_{number:07d}.o"
            record = ima_log.record(name, digest_of(name))
            tpm.extend(record.pcr, {"sha256": ima_log.extend_value(record, "sha256")})
            file.write(record.binary)


async def machine(place: Installation, url: str, entries: int) -> None:
    """Be the machine, until an order comes: then tell how often it was asked."""
    tpm = SoftTpm(ek="p256", ak="p256", banks=("sha256",))
    agent = SoftAgent(NAME, tpm)
    with tempfile.TemporaryDirectory(prefix="attestream-log-") as directory, ThreadPoolExecutor(1) as executor:
        log = Path(directory) / "binary_runtime_measurements"
        write_log(log, tpm, entries)
        credentials = agent_credentials(place, NAME, lifetime_s=_IDENTITY_S)
        await enrol(place, [agent], [parse(credentials.read_text()).key.public])
        bus = await connect(BusSettings(urls=[url], credentials=credentials, name=NAME))
        counting = _Tpm(tpm)
        attester = Attester(NAME, agent.enrolment, hashlib.sha256(agent.transport_key).digest())
        answerer = Answerer(bus, NAME, EvidenceMaker(attester, counting, ima=ImaLog(log)), executor)
        await bus.nc.subscribe(subjects.challenge_of(subjects.token(NAME)), cb=answerer.hear)
        answering = asyncio.create_task(answerer.run())
        tell(ready=True)
        tell(size=log.stat().st_size)
        await asyncio.to_thread(sys.stdin.readline)
        tell(evidences=counting.quotes)
        answering.cancel()
        await bus.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.long_log", description=__doc__)
    parser.add_argument("--installation", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    told = parser.parse_args()
    uvloop.run(machine(Installation(told.installation), told.url, told.entries))
