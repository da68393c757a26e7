"""From a violation on an agent to its signed revocation at an outside subscriber."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final, NamedTuple

from attestream.signing import TrustedKeys
from bench.fleet import agent_name
from bench.stack import BenchError, Stack, attestation, stack, until
from schemas import subjects
from schemas.base import decode
from schemas.events import Revocation, Signed

AGENTS: Final = 1_000
VIOLATIONS: Final = 300
PER_S: Final = 20.0
"""Violations per second, at random times."""
CHANGE_INTERVAL_MS: Final = 10_000
SCHEDULE_INTERVAL_MS: Final = 2_000


class Latency(NamedTuple):
    """Milliseconds from the violation to the revocation."""

    samples: int
    p50: float
    p99: float
    worst: float


def quantile(values: list[float], share: float) -> float:
    """Return the smallest of ``values`` that ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def summary(values: list[float]) -> Latency:
    """Return the figures of ``values`` in milliseconds."""
    return Latency(len(values), quantile(values, 0.5), quantile(values, 0.99), max(values))


async def measure(*, notice: bool, violations: int = VIOLATIONS) -> Latency:
    """Let agents run an unknown program, with or without telling of the change.

    :raises BenchError: when a revocation stays away, is not signed as it should be, or hits an honest agent.
    """
    async with stack() as parts:
        parts.worker("worker")
        parts.notifier()
        fleet = await parts.fleet(AGENTS, "rsa2048")
        await parts.reading("worker")
        await parts.publish_policy()
        interval_ms = CHANGE_INTERVAL_MS if notice else SCHEDULE_INTERVAL_MS
        await parts.add([agent_name(number) for number in range(AGENTS)], attestation(interval_ms))
        await parts.settled(AGENTS, attested=2)
        arrivals, envelopes = await _listen(parts)
        victims = [agent_name(number) for number in random.sample(range(AGENTS), violations)]
        for victim in victims:
            fleet.order(do="violate", agent=victim, notice=notice)
            await asyncio.sleep(random.expovariate(PER_S))
        await until(lambda: len(arrivals) >= violations, "every revocation arrives", pause_s=0.1)
        violated = await _times(fleet, violations)
        if violated.keys() != arrivals.keys():
            raise BenchError("others were revoked than those that had a violation")
        _check(parts, envelopes)
        return summary([(arrivals[victim] - at) / 1e6 for victim, at in violated.items()])


async def _listen(parts: Stack) -> tuple[dict[str, int], list[bytes]]:
    arrivals: dict[str, int] = {}
    envelopes: list[bytes] = []

    async def hear(message: Any) -> None:
        arrivals.setdefault(subjects.agent_id(message.subject.rpartition(".")[2]), time.monotonic_ns())
        envelopes.append(message.data)

    await parts.client.bus.subscribe(subjects.REVOKED, hear)
    return arrivals, envelopes


async def _times(fleet: Any, count: int) -> dict[str, int]:
    violated: dict[str, int] = {}
    while len(violated) < count:
        told = await asyncio.wait_for(fleet.told.get(), 10)
        if "violated" in told:
            violated[told["violated"]] = told["at"]
    return violated


def _check(parts: Stack, envelopes: list[bytes]) -> None:
    keys = TrustedKeys.from_directory(parts.place.trusted_keys)
    for envelope in envelopes:
        revocation = keys.open(decode(envelope, Signed), Revocation)
        if not any(finding.culprit == "/opt/intruder" for finding in revocation.findings):
            raise BenchError(f"the revocation of {revocation.agent_id} does not name the culprit")
