"""The registrar's life: tables, endpoints, the outbox, and a clean end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Final

import msgspec

from attestream.bus.connection import Bus, connect
from attestream.bus.serving import Endpoint
from attestream.bus.topology import prepare
from attestream.bus.trust import configured
from attestream.clock import unix_ms
from attestream.config import Config, LimitsConfig, RegistrarConfig
from attestream.database import migrate, open_engine, report_size
from attestream.errors import ConfigError, StorageError
from attestream.lifetime import until_stopped
from attestream.pki.profile import PROFILES
from attestream.trust.authority import DELETE_IDENTITY
from schemas import subjects
from schemas.base import Decoder
from schemas.enrolment import ActivateRequest, AgentQuery, AgentsQuery, DeleteIdentity, EnrolChallenge, EnrolRequest
from services.registrar.admission import Rules
from services.registrar.bus_identities import open_identities
from services.registrar.enrolment import Registrar
from services.registrar.gate import Gate, ProofGate
from services.registrar.hook import Hook
from services.registrar.outbox import Publisher
from services.registrar.roster import RosterKeeper
from services.registrar.tables import MIGRATIONS
from services.registrar.trust import endorsement_store, read_store

QUEUE: Final = "registrar"
SWEEP_S: Final = 30.0

_ENROL_REQUEST: Final = Decoder[EnrolRequest](EnrolRequest, 131_072)
_log = logging.getLogger(__name__)


async def run(config: Config, stopped: asyncio.Event) -> None:
    """Serve until ``stopped`` is set.

    :raises ConfigError: when the settings can not be used.
    :raises StorageError: when the database does not answer at the start.
    :raises BusError: when the bus can not be reached at the start, or has closed the connection for good.
    """
    # It says itself which roster is the newest.
    trust = configured(msgspec.structs.replace(config.trust, roster_max_age_s=0), config.registrar.signing_key_file)
    bus = await connect(config.bus.settings("registrar"))
    try:
        await prepare(bus, sizes=config.limits.sizes(), ages=config.retention.ages())
        await trust.start(bus)
        async with serving(bus, config.registrar, limits=config.limits):
            _log.info("ready; EK policy: %s", config.registrar.accept_ek)
            await until_stopped(bus, stopped)
    finally:
        await bus.close()


@asynccontextmanager
async def serving(
    bus: Bus, config: RegistrarConfig, *, limits: LimitsConfig | None = None, clock: Callable[[], int] = unix_ms
) -> AsyncIterator[Registrar]:
    """Serve the registrar's endpoints on ``bus`` while the block runs. Several replicas may serve one database.

    :raises ConfigError: when the settings can not be used.
    :raises StorageError: when the database does not answer.
    """
    rules, hook = _rules(config), _hook(config)
    engine = open_engine(
        config.database_url,
        password_file=config.database_password_file,
        connections=config.database_connections,
        timeout_s=config.database_timeout_s,
    )
    try:
        await migrate(engine, MIGRATIONS)
        publisher = Publisher(engine, bus)
        identities = await open_identities(engine, bus, config, clock)
        registrar = Registrar(
            engine,
            rules=rules,
            hook=hook,
            challenge_lifetime_ms=int(config.challenge_lifetime_s * 1000),
            clock=clock,
            recorded=publisher.wake,
            issuer=identities.issuer if identities is not None else None,
        )
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(publisher.run()),
                tasks.create_task(_sweep(registrar)),
                tasks.create_task(report_size(engine, "registrar")),
            ]
            endpoints = await _serve(bus, registrar, limits or LimitsConfig())
            if bus.trust.checked:
                keeper = RosterKeeper(bus, engine, clock, publisher.wake)
                background.append(tasks.create_task(keeper.run()))
                endpoints.append(await keeper.serve(QUEUE))
            try:
                async with identities.running(tasks) if identities is not None else nullcontext():
                    yield registrar
            finally:
                for endpoint in endpoints:
                    await endpoint.stop()
                for task in background:
                    task.cancel()
    finally:
        await engine.dispose()


def _rules(config: RegistrarConfig) -> Rules:
    none = config.ek_store is None and not config.ek_manufacturers and config.iak_store is None
    if config.accept_ek == "certificate" and none:
        raise ConfigError(
            '[registrar] `accept_ek` is "certificate", but neither `ek_store` nor `ek_manufacturers` is set',
            remedy="Name TPM makers in `ek_manufacturers`, or the directory of their CA certificates in `ek_store`, or set "
            '`accept_ek` to "any".',
        )
    profile = PROFILES[config.ek_profile]
    if config.malformed_certificate == "warn":
        profile = msgspec.structs.replace(profile, malformed="warn")
    if config.iak_policy == "warn":
        profile = msgspec.structs.replace(profile, unrestricted="warn")
    return Rules(
        accept_ek=config.accept_ek,
        store=endorsement_store(config),
        devices=read_store(config.iak_store) if config.iak_store is not None else None,
        profile=profile,
    )


def _hook(config: RegistrarConfig) -> Hook | None:
    if config.accept_ek == "hook" and not config.ek_hook:
        raise ConfigError('[registrar] `accept_ek` is "hook", but `ek_hook` is not set')
    return Hook(config.ek_hook, timeout_s=config.ek_hook_timeout_s) if config.ek_hook else None


async def _serve(bus: Bus, registrar: Registrar, limits: LimitsConfig) -> list[Endpoint]:
    async def enrol(raw: msgspec.Raw) -> EnrolChallenge:
        data = bytes(raw)
        request = _ENROL_REQUEST.decode(data)
        return await registrar.enrol(request, data)

    told = bus.holder is not None
    return [
        await bus.serve(
            subjects.REGISTRAR_ENROL,
            QUEUE,
            # Raw: the proof covers the request's bytes as they travelled, not what they decode to.
            msgspec.Raw,  # type: ignore[type-var]  # see above
            enrol,
            waiting=limits.enrolments_waiting,
            gate=Gate(limits, told=told),
        ),
        await bus.serve(
            subjects.REGISTRAR_ACTIVATE,
            QUEUE,
            ActivateRequest,
            registrar.activate,
            waiting=limits.enrolments_waiting,
            signed=True,
            gate=ProofGate(limits, told=told),
        ),
        await bus.serve(subjects.QUERY_REGISTRAR_AGENT, QUEUE, AgentQuery, registrar.identity, signed=True),
        await bus.serve(subjects.QUERY_REGISTRAR_AGENTS, QUEUE, AgentsQuery, registrar.identities, signed=True),
        await bus.serve(
            subjects.REGISTRAR_DELETE, QUEUE, DeleteIdentity, registrar.delete, signed=True, authorise=DELETE_IDENTITY
        ),
    ]


async def _sweep(registrar: Registrar) -> None:
    while True:
        try:
            await registrar.sweep()
        except StorageError as error:
            _log.warning("expired challenges stay for now: %s", error.message)
        await asyncio.sleep(SWEEP_S)
