"""The page about the size of an installation, worked out from what the benchmark has measured (``bench/results``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from devtools.docs.text import page, table

RESULTS: Final = Path(__file__).resolve().parents[2] / "bench" / "results"

AGENTS: Final = (10, 1_000, 10_000, 100_000)
INTERVALS_S: Final = (2, 30, 300)
BUSY: Final = 0.6
"""Part of its core that a worker should need at most."""
JITTER: Final = 0.95
"""Mean of the times between two attestations, as a part of the interval."""
ONE_MACHINE: Final = 1_000
"""Agents for which one machine is enough."""
WHOLE_RUN: Final = 10_000
"""Agents with connections of their own in a run of full size."""
EACH_S: Final = 10
"""Interval from which a result is renewed with nearly every attestation: its lease is three intervals, and at least 30 s."""
RENEWED_S: Final = 2_400
"""An agent's identity lives an hour and is renewed when two thirds of that are over."""
RECORD_MIB: Final = 4_096
"""Default size of the stream EVENTS."""

PROCESSES: Final = {"worker": "worker", "server": "nats-server", "registrar": "registrar", "notifier": "notifier"}
"""What is measured of an installation: name in the figures -> name in tables."""
_MIB: Final = 2**20
_EARLIER: Final = {"machine_gogc": "100"}
"""What runs did not say when it was always the same."""


class Measured:
    """Figures by name."""

    def __init__(self, results: Path = RESULTS) -> None:
        self._figures: dict[str, float | str] = {}
        for name in ("identities", "scaling"):
            self._figures |= json.loads((results / f"{name}.json").read_text(encoding="utf-8"))

    def number(self, name: str) -> float:
        """Return a number of the run that measured growth."""
        return float(self._figures[name if name in self._figures else f"scaling_{name}"])

    def text(self, name: str) -> str:
        """Return what the run says of itself."""
        return str(self._figures.get(name, _EARLIER.get(name)))

    def attestation_us(self, process: str, *, often: bool) -> float:
        """Return the CPU time of an attestation, without what a process uses at rest.

        ``often``: as of agents that are attested every 2 s; otherwise at least every attestation but one renews a result.
        """
        load, idle = ("1w", "1w_idle") if often else ("own" if process == "server" else "all", "idle")
        spent = self.number(f"{load}_{process}_cores") - self.number(f"{idle}_{process}_cores")
        return max(0.0, 1e6 * spent / self.number(f"{load}_rate"))

    def idle_cores(self, process: str) -> float:
        """Return what a process uses that has nothing to do."""
        return self.number(f"1w_idle_{process}_cores")

    def agent_bytes(self, process: str) -> float:
        """Return what an agent adds to the memory of a process."""
        # What nats-server holds for a connection is there only where agents have connections of their own.
        stage = "own" if process == "server" else "all"
        grown = self.number(f"{stage}_{process}_mib") - self.number(f"empty_{process}_mib")
        return max(0.0, _MIB * grown / self.number(f"{stage}_agents"))

    def stored_bytes(self, what: str) -> float:
        """Return what an agent adds to a database, or a message to a stream."""
        grown = _MIB * (self.number(f"all_{what}_mib") - self.number(f"empty_{what}_mib"))
        if what in ("events", "results"):
            return grown / (self.number(f"all_{what}") - self.number(f"empty_{what}"))
        return _MIB * self.number(f"all_{what}_mib") / self.number("all_agents")


class Size:
    """What so many agents need that are attested every ``interval_s`` seconds."""

    def __init__(self, measured: Measured, agents: int, interval_s: int) -> None:
        often = interval_s < EACH_S
        self.rate = agents / (JITTER * interval_s)
        us, idle = measured.attestation_us("worker", often=often), measured.idle_cores("worker")
        self.workers = max(1, math.ceil(self.rate * us / 1e6 / (BUSY - idle)))
        self.worker_cores = self.workers * idle + self.rate * us / 1e6
        self.server_cores = measured.idle_cores("server") + self.rate * measured.attestation_us("server", often=often) / 1e6
        base = measured.number("empty_worker_mib")
        self.worker_mib = base + agents / self.workers * measured.agent_bytes("worker") / _MIB


def document(results: Path = RESULTS) -> str:
    """Return the page."""
    measured = Measured(results)
    return page(
        "Sizing",
        _introduction(measured),
        "## What to take",
        _WHAT,
        table(
            (
                "Agents",
                "Interval",
                "Attestations/s",
                "Workers",
                "Cores of all workers",
                "Memory of each",
                "nats-server, cores",
            ),
            _sizes(measured),
        ),
        _STARRED,
        table(_HELD, _held(measured)),
        _record(measured),
        "## Where that comes from",
        _FORMULAS,
        table(("", *PROCESSES.values()), _costs(measured)),
        table(("Stored", "Bytes"), _stored(measured)),
        _connection(measured),
        "## What was measured",
        "One worker; restart: from the start of the process until it owned, had challenged, and had attested all.",
        _growth(measured),
        _pool_text(measured),
        table(
            ("Interval", "Workers", "Rate", "Workers, CPU s", "nats-server, CPU s", "Agents of a worker", "Partitions"),
            _pool(measured),
        ),
        _OTHERS,
    )


def _introduction(measured: Measured) -> str:
    small = measured.number("own_agents") < WHOLE_RUN
    warning = (
        f"**This was a small run, of {measured.number('all_agents'):,.0f} agents: it shows the form, not the figures.**\n\n"
        if small
        else ""
    )
    server = measured.text("machine_versions").rpartition(", ")[2]
    return f"""\
{warning}All tables follow from one run of `make bench only=scaling`, which is kept in `bench/results/scaling.json`.

| | |
| --- | --- |
| When | {measured.text("date")[:10]} |
| Machine | {measured.number("machine_cores"):.0f} cores of {measured.text("machine_cpu")}, \
{measured.number("machine_memory_gib"):.1f} GiB, {measured.text("machine_system")}, {server} |
| Load | {measured.number("machine_load_before"):.2f} before; everything else on the machine used \
{measured.number("scaling_foreign_cores"):.2f} cores meanwhile. Agents and installation shared the machine |
| Installation | as `attestream init` makes it: everybody has an identity on the bus, everything is signed and checked; \
SQLite; no TLS on the loopback interface |
| Agents | P-256 attestation keys (RSA-2048 costs a worker less: [performance](performance.md#figures)); their answers \
bring nothing new |"""


_WHAT: Final = f"""\
A worker is one process and uses one core at most. The table plans with {BUSY:.0%} of that; run one worker more than it says,
so that the others carry on when one ends. nats-server uses all cores of its machine.

Up to a thousand agents or so one machine does for everything, with SQLite and one bus server. Beyond that take several, so
that the loss of none ends attestation: three bus servers, which store everything three times, PostgreSQL or MariaDB
([databases](databases.md)), two registrars and two notifiers. That is advice, and does not follow from figures."""

_STARRED: Final = """\
`*` extrapolated: by the formulas below, beyond the number of agents or the rate that was measured. Measure before you rely
on it.

Besides its workers an installation holds, rows as SQLite keeps them:"""

_HELD: Final = (
    "Agents",
    "Bus servers",
    "Memory of one with all connections",
    "Memory of a registrar",
    "Database",
    "Verifiers' rows",
    "Registrar's rows",
    "Results on each server's disk",
)

_FORMULAS: Final = f"""\
| | |
| --- | --- |
| attestations a second | agents / ({JITTER} x interval); the time between two is 0.9 to 1 interval, at random |
| cores of workers | workers x idle + attestations a second x CPU of each |
| workers | attestations a second x CPU of each / ({BUSY:g} - idle), rounded up |
| cores of nats-server | idle + attestations a second x CPU of each |
| memory of a worker | base + agents / workers x bytes of each |
| memory of nats-server, of a registrar | base + agents x bytes of each; three servers share the connections |
| disk | rows and results: agents x bytes; the record: events x bytes |

An attestation costs more where it renews the result: a lease is three intervals, at least 30 s, and is renewed when a third
of it has gone. At 2 s that is one in five, from {EACH_S} s on nearly each. The first table takes one cost or the other."""

_OTHERS: Final = """\
Not measured: clusters of three servers, TLS on the bus (a connection needs more memory then, and more CPU when it begins),
and databases other than SQLite with so many agents. Answers with new log entries cost a worker about twice as much
([performance](performance.md#figures)) and pass through the stream EVIDENCE, which forgets them. What policies keep
is in [kept evidence](evidence-archive.md), what a restart of the bus brings in
[performance of identities](performance-security.md)."""


def _sizes(measured: Measured) -> Iterable[tuple[str, ...]]:
    most = measured.number("all_agents")
    fastest = max(measured.number(name) for name in ("all_rate", "1w_rate", "1w_full_rate"))
    for agents in AGENTS:
        for interval_s in INTERVALS_S:
            size = Size(measured, agents, interval_s)
            star = "*" if agents > most or size.rate > fastest else ""
            yield (
                f"{agents:,}",
                f"{interval_s} s" if interval_s < 60 else f"{interval_s // 60} min",
                f"{size.rate:.1g}" if size.rate < 1 else f"{size.rate:,.0f}",
                f"{size.workers}{star}",
                f"{size.worker_cores:.2f}{star}",
                f"{size.worker_mib:,.0f} MiB{star}",
                f"{size.server_cores:.2f}{star}",
            )


def _held(measured: Measured) -> Iterable[tuple[str, ...]]:
    for agents in AGENTS:
        star = "*" if agents > measured.number("all_agents") else ""
        connected = "*" if agents > measured.number("own_agents") else ""
        memory = {
            name: measured.number(f"empty_{name}_mib") + agents * measured.agent_bytes(name) / _MIB for name in PROCESSES
        }
        rows = [agents * measured.stored_bytes(what) / _MIB for what in ("verifier_db", "registrar_db", "results")]
        several = agents > ONE_MACHINE
        verifiers, registrars, results = (f"{size:,.1f} MiB{star}" for size in rows)
        yield (
            f"{agents:,}",
            "3" if several else "1",
            f"{memory['server']:,.0f} MiB{connected}",
            f"{memory['registrar']:,.0f} MiB{star}",
            "PostgreSQL" if several else "SQLite",
            verifiers,
            registrars,
            results,
        )


def _record(measured: Measured) -> str:
    size = measured.stored_bytes("events")
    most = AGENTS[-1]
    most_events = RECORD_MIB * _MIB / size
    renewals = most / RENEWED_S / measured.number("identities_renewed_per_s")
    return f"""\
The record grows by {size:,.0f} bytes with each change of standing, and with two when an agent is added. Its default of
{RECORD_MIB // 1024} GiB holds {most_events / 1e6:.1f} million, {most_events / most:.0f} of each of {most:,} agents in
400 days: more need a larger `events_mib` ([limits](limits.md)).

A notifier needs {measured.number("all_notifier_mib"):.0f} MiB, however many agents there are. Identities are renewed every
{RENEWED_S // 60} minutes: for {most:,} agents that is {renewals:.2f}* of a core of a registrar
([performance of identities](performance-security.md))."""


def _connection(measured: Measured) -> str:
    return f"""\
Most of nats-server's memory is connections. By its own profile, each of 2,000 with the permissions of an agent holds:

| KiB | What |
| --- | --- |
| 29 | the stacks of two goroutines, which verify a token and store messages |
| 15 | its permissions, as a tree of subjects with a table at each level |
| 4 | the client itself |
| 10 | its token, subscriptions, buffers, and subjects that it has used |
| 50 to 80 | what Go's collector has not collected yet, or not given back |

So it does not get small. `GOGC=50` in the environment of nats-server has it collect earlier: 110 KiB for each connection in
place of 135, with no more CPU that could be told from noise at 350 attestations a second; `GOGC=25` saves 8 KiB more and
costs CPU. `attestream up` sets 50 unless the environment has another value; give it to servers that you start yourself
(`Environment=GOGC=50` in a systemd unit). The tables on this page were measured with {measured.text("machine_gogc")}."""


def _costs(measured: Measured) -> Iterable[tuple[str, ...]]:
    yield "at rest, cores", *(f"{measured.idle_cores(name):.3f}" for name in PROCESSES)
    for label, often in (("CPU of an attestation, every 2 s", True), ("... when each renews a result", False)):
        yield label, *(f"{measured.attestation_us(name, often=often):,.0f} us" for name in list(PROCESSES)[:2]), "", ""
    yield "memory without agents", *(f"{measured.number(f'empty_{name}_mib'):,.0f} MiB" for name in PROCESSES)
    yield "memory of an agent", *(f"{measured.agent_bytes(name):,.0f} bytes" for name in PROCESSES)


def _stored(measured: Measured) -> Iterable[tuple[str, str]]:
    for label, what in (
        ("row of an agent in the verifiers' database", "verifier_db"),
        ("rows of an agent in the registrar's database, without its EK's certificate", "registrar_db"),
        ("result of an agent", "results"),
        ("event", "events"),
    ):
        yield label, f"{measured.stored_bytes(what):,.0f}"


GROWTH: Final = (
    ("taken in by signed commands, all trusted after", "taken_in_s", " s"),
    ("attestations", "rate", "/s"),
    *((f"CPU: {shown}", f"{name}_cores", " cores") for name, shown in PROCESSES.items()),
    ("interval kept, p50", "gap_p50_s", " s"),
    ("... p99", "gap_p99_s", " s"),
    ("lapses, agents called unreachable", "lapses", ""),
    *((f"memory: {shown}", f"{name}_mib", " MiB") for name, shown in PROCESSES.items()),
    ("files of the streams", "disk_mib", " MiB"),
    ("restart: owned", "loaded_s", " s"),
    ("... challenged", "ready_s", " s"),
    ("... attested", "again_s", " s"),
    ("lapses, agents called unreachable by that", "restart_lapses", ""),
)
"""What is told of one worker with so many agents: in words, name of the figure behind that of the stage, unit."""


def _growth(measured: Measured) -> str:
    head = (
        f"Every {measured.number('interval_s'):g} s",
        f"{measured.number('own_agents'):,.0f} agents, a connection each",
        f"{measured.number('all_agents'):,.0f} agents, one connection for all",
    )
    rows = (
        (label, *(f"{measured.number(f'{stage}_{key}'):,g}{unit}" for stage in ("own", "all")))
        for label, key, unit in GROWTH
    )
    return table(head, rows)


def _pool_text(measured: Measured) -> str:
    return f"""\
One, two and four workers with the same {measured.number("pool_agents"):,.0f} agents, a connection each: every 2 s, and as
often as the machine could do it. CPU seconds for 1,000 attestations, all workers together. Agents, bus and workers share
{measured.number("machine_cores"):.0f} cores: the last rates show what these are good for, and not what more workers are."""


def _pool(measured: Measured) -> Iterable[tuple[str, ...]]:
    for label, full in (("2 s", ""), ("as often as possible", "full_")):
        for count in (1, 2, 4):
            name = f"{count}w_{full}"
            rate = measured.number(f"{name}rate")
            ranges = [
                f"{measured.number(f'{name}{what}_min'):,.0f} to {measured.number(f'{name}{what}_max'):,.0f}"
                for what in ("agents", "partitions")
            ]
            cpu = [f"{1000 * measured.number(f'{name}{process}_cores') / rate:.3f}" for process in ("worker", "server")]
            yield label, str(count), f"{rate:,.0f}/s", *cpu, *ranges
