"""Looks at how full streams, account and disk are, and raises an alarm before they refuse anything."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from attestream.appraisal.findings import finding
from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.config import LimitsConfig
from attestream.errors import BusError
from attestream.telemetry import STREAM_FILL, gauge
from schemas import subjects, topology
from schemas.events import Event, EventKind

HYSTERESIS: Final = 0.05
"""How far below its mark a place must fall before the next alarm about it."""

_BUS: Final = "disk"
"""The place that is the disk of the bus."""

_MINUTE_MS: Final = 60_000
_log = logging.getLogger(__name__)


class Fill(NamedTuple):
    """How full a place is, in bytes."""

    place: str
    used: int
    limit: int

    @property
    def ratio(self) -> float:
        """The share that is used."""
        return self.used / self.limit


class Watch:
    """Raises an alarm when a place passes a mark: on the record, in the log, and as the metric that shows every fill.

    :param databases: files of databases on this machine, by their services' names; their disks are watched too.
    """

    def __init__(
        self, bus: Bus, limits: LimitsConfig, clock: Callable[[], int], *, databases: Mapping[str, Path] | None = None
    ) -> None:
        self._bus = bus
        self._limits = limits
        self._clock = clock
        self._marks = sorted((limits.alarm_ratio, limits.critical_ratio))
        self._levels: dict[str, int] = {}
        self._disks = {_BUS: limits.store_dir} if limits.store_dir is not None else {}
        self._disks |= {f"disk-{service}": path for service, path in (databases or {}).items()}
        self._gauge = gauge(STREAM_FILL)

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self.look()
            except BusError as error:
                _log.warning("the bus can not be watched: %s", error.message)
            await asyncio.sleep(self._limits.watch_s)

    async def look(self) -> list[Fill]:
        """Look once, raise the alarms that are due, and return what was seen.

        :raises BusError: when the bus does not answer, or does not take an alarm; it is raised with the next look then.
        """
        fills = [*await self._streams(), *await self._account(), *self._look_at_disks()]
        for fill in fills:
            self._gauge.set(fill.ratio, {"place": fill.place})
        for fill in fills:
            await self._judge(fill)
        return fills

    async def _streams(self) -> list[Fill]:
        names = [stream.name for stream in topology.STREAMS]
        found = await asyncio.gather(*(jetstream.call(self._bus, f"STREAM.INFO.{name}") for name in names))
        return [
            Fill(name, answer["state"]["bytes"], answer["config"]["max_bytes"])
            for name, answer in zip(names, found, strict=True)
            # What makes room for itself is always full one day.
            if answer["config"].get("max_bytes", -1) > 0 and answer["config"].get("discard") == "new"
        ]

    async def _account(self) -> list[Fill]:
        answer = await jetstream.call(self._bus, "INFO")
        tiers: list[dict[str, Any]] = [answer, *(answer.get("tiers") or {}).values()]
        limited = [tier for tier in tiers if tier.get("limits", {}).get("max_storage", -1) > 0]
        return [Fill("account", tier["storage"], tier["limits"]["max_storage"]) for tier in limited]

    def _look_at_disks(self) -> list[Fill]:
        fills, seen = [], set()
        for place, path in self._disks.items():
            try:
                device, disk = path.stat().st_dev, os.statvfs(path)
            except OSError as error:
                if place != _BUS and isinstance(error, FileNotFoundError):
                    # A database may be made later, or lie on another machine.
                    continue
                _log.error("the disk of %s can not be looked at: %s", path, error.strerror)
                continue
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            # One alarm is enough about a disk with several of them.
            if total and device not in seen:
                fills.append(Fill(place, total - free, total))
            seen.add(device)
        return fills

    async def _judge(self, fill: Fill) -> None:
        before = self._levels.get(fill.place, 0)
        level = sum(fill.ratio >= mark for mark in self._marks)
        if level < before and fill.ratio >= self._marks[before - 1] - HYSTERESIS:
            return
        if level > before:
            await self._alarm(fill, level)
        elif level < before:
            _log.info("%s is %.0f %% full again", fill.place, 100 * fill.ratio)
        self._levels[fill.place] = level

    async def _alarm(self, fill: Fill, level: int) -> None:
        text = f"{fill.place} is {100 * fill.ratio:.0f} % full: {fill.used} of {fill.limit} bytes."
        # In the log first: the record may be what is full.
        _log.error("capacity: %s", text)
        now = self._clock()
        event = Event(
            # Replicas see the same: the record has it once.
            id=f"capacity:{fill.place}:{level}:{now // _MINUTE_MS}",
            kind=EventKind.CAPACITY,
            agent_id=fill.place,
            at=now,
            findings=[finding("capacity.critical" if level > 1 else "capacity.high", culprit=fill.place, message=text)],
        )
        subject = subjects.event(event.kind, event.agent_id)
        await self._bus.publish_durable(subject, event, message_id=event.id, sign=True)
