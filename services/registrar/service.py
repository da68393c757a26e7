"""The registrar's life: tables, endpoints, the outbox, and a clean end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from attestream.bus.connection import Bus, connect
from attestream.bus.serving import Endpoint
from attestream.bus.topology import ensure_topology
from attestream.config import Config, RegistrarConfig
from attestream.database import migrate, open_engine
from attestream.errors import ConfigError, StorageError
from attestream.lifetime import until_stopped
from schemas import subjects
from schemas.base import Decoder
from schemas.enrolment import ActivateRequest, AgentQuery, AgentsQuery, DeleteIdentity, EnrolChallenge, EnrolRequest
from services.registrar.admission import TrustStore
from services.registrar.enrolment import Registrar
from services.registrar.outbox import Publisher
from services.registrar.tables import MIGRATIONS

QUEUE: Final = "registrar"
SWEEP_S: Final = 30.0

_ENROL_REQUEST: Final = Decoder[EnrolRequest](EnrolRequest, 131_072)
_log = logging.getLogger(__name__)


def unix_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def run(config: Config, stopped: asyncio.Event) -> None:
    """Serve until ``stopped`` is set.

    :raises ConfigError: when the settings can not be used.
    :raises StorageError: when the database does not answer at the start.
    :raises BusError: when the bus can not be reached at the start, or has closed the connection for good.
    """
    bus = await connect(config.bus.settings("registrar"))
    try:
        await ensure_topology(bus)
        async with serving(bus, config.registrar):
            _log.info("ready; EK policy: %s", config.registrar.accept_ek)
            await until_stopped(bus, stopped)
    finally:
        await bus.close()


@asynccontextmanager
async def serving(bus: Bus, config: RegistrarConfig, *, clock: Callable[[], int] = unix_ms) -> AsyncIterator[Registrar]:
    """Serve the registrar's endpoints on ``bus`` while the block runs. Several replicas may serve one database.

    :raises ConfigError: when the settings can not be used.
    :raises StorageError: when the database does not answer.
    """
    store = _store(config)
    engine = open_engine(config.database_url)
    try:
        await migrate(engine, MIGRATIONS)
        publisher = Publisher(engine, bus)
        registrar = Registrar(
            engine,
            accept_ek=config.accept_ek,
            store=store,
            challenge_lifetime_ms=int(config.challenge_lifetime_s * 1000),
            clock=clock,
            recorded=publisher.wake,
        )
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(publisher.run()), tasks.create_task(_sweep(registrar))]
            endpoints = await _serve(bus, registrar)
            try:
                yield registrar
            finally:
                for endpoint in endpoints:
                    await endpoint.stop()
                for task in background:
                    task.cancel()
    finally:
        await engine.dispose()


def _store(config: RegistrarConfig) -> TrustStore:
    if config.ek_store is not None:
        return TrustStore.from_directory(config.ek_store)
    if config.accept_ek == "certificate":
        raise ConfigError(
            '[registrar] `accept_ek` is "certificate", but `ek_store` is not set',
            remedy='Name the directory of TPM makers\' CA certificates in `ek_store`, or set `accept_ek` to "any".',
        )
    return TrustStore([])


async def _serve(bus: Bus, registrar: Registrar) -> list[Endpoint]:
    async def enrol(raw: msgspec.Raw) -> EnrolChallenge:
        data = bytes(raw)
        return await registrar.enrol(_ENROL_REQUEST.decode(data), data)

    return [
        # Raw: the proof covers the request's bytes as they travelled, not what they decode to.
        await bus.serve(subjects.REGISTRAR_ENROL, QUEUE, msgspec.Raw, enrol),  # type: ignore[type-var]  # see above
        await bus.serve(subjects.REGISTRAR_ACTIVATE, QUEUE, ActivateRequest, registrar.activate),
        await bus.serve(subjects.QUERY_REGISTRAR_AGENT, QUEUE, AgentQuery, registrar.identity),
        await bus.serve(subjects.QUERY_REGISTRAR_AGENTS, QUEUE, AgentsQuery, registrar.identities),
        await bus.serve(subjects.REGISTRAR_DELETE, QUEUE, DeleteIdentity, registrar.delete),
    ]


async def _sweep(registrar: Registrar) -> None:
    while True:
        try:
            await registrar.sweep()
        except StorageError as error:
            _log.warning("expired challenges stay for now: %s", error.message)
        await asyncio.sleep(SWEEP_S)
