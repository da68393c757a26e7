"""Puts the agent together and keeps it running."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.clock import unix_ms
from attestream.config import AgentConfig, TrustConfig
from attestream.credentials.nkey import NKey
from attestream.errors import AttestreamError, BusError, ForbiddenError, MalformedError, RefusedError
from schemas import subjects
from schemas.events import Revocation
from services.agent import bus_key
from services.agent import identity as identities
from services.agent.answering import Answerer
from services.agent.belief import Belief
from services.agent.device_keys import DeviceKeys
from services.agent.enrolment import enrol
from services.agent.evidence import Attester, EvidenceMaker
from services.agent.hook import run_hook
from services.agent.identity import Identity
from services.agent.ima_log import ImaLog
from services.agent.presence import Presence
from services.agent.renewal import BusIdentity
from services.agent.revocations import Revocations
from services.agent.tpm_device import TpmDevice
from services.agent.watch import Watch

_log = logging.getLogger(__name__)

_CONNECT_PAUSE_S: Final = 2.0
_SESSION_PAUSE_S: Final = (1.0, 60.0)
_REFUSED: Final = re.compile("revoked|authorization violation", re.IGNORECASE)
"""How the server says that an identity is void: on the connection that it ends, or to whoever comes with it."""
_LASTING_S: Final = 60.0
"""Seconds after which an identity's end is no sign of trouble with getting one."""


class Agent:
    """The agent of one machine.

    :param settings: how the bus is reached; the agent waits for a bus that is not there yet.
    :param trust: whom the agent believes; by default nobody but ``config.revocation_keys``.
    :raises ConfigError: when the configuration can not be used.
    """

    def __init__(self, config: AgentConfig, settings: BusSettings, trust: TrustConfig | None = None) -> None:
        self._config = config
        self._belief = Belief(config, trust or TrustConfig())
        self._settings = settings
        self._ima = _ima_log(config)
        self._tpm = TpmDevice(config.tcti, config.data_dir, ek=config.ek, ak=config.ak, ak_scheme=config.ak_scheme)
        self._device = DeviceKeys(self._tpm, config)
        self._executor = ThreadPoolExecutor(1, "tpm")

    async def run(self) -> None:
        """Enrol where that is needed, then attest until cancelled.

        :raises ConfigError: when the configuration or the data directory can not be used.
        :raises TpmError: when the TPM can not be used, or does not hold the AK any more.
        :raises BusError: when a bus that asks nobody who they are has closed the connection for good.
        """
        identity = identities.load(self._config.data_dir, self._config.id)
        try:
            if self._config.enrolment_credentials is None:
                await self._without_credentials(identity)
            else:
                await self._with_credentials(identity, self._config.enrolment_credentials)
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _without_credentials(self, identity: Identity) -> None:
        bus = await _connect(self._settings)
        async with _life(bus) as tasks:
            await self._belief.start(bus)
            # Revocations of others count also for a machine that is not enrolled yet.
            self._hear_revocations(bus, tasks)
            enrolled, _ = await enrol(bus, self._tpm, identity, self._executor, device=self._device)
            identities.store(self._config.data_dir, enrolled)
            await self._attest(bus, enrolled, tasks)

    async def _with_credentials(self, identity: Identity, enrolment: Path) -> None:
        """Have an identity issued, live with it until it ends, and begin again."""
        loop = asyncio.get_running_loop()
        key = await loop.run_in_executor(
            self._executor, bus_key.load, self._config.data_dir, self._config.identity_key, self._tpm
        )
        pause = _SESSION_PAUSE_S[0]
        while True:
            began = loop.time()
            try:
                identity, held = await self._enrolled(identity, key, enrolment)
                await self._session(identity, held)
            except (BusError, RefusedError, MalformedError) as error:
                _log.warning("agent %s is not on the bus: %s (%s)", identity.agent_id, error.message, error.hint)
            if loop.time() - began > _LASTING_S:
                pause = _SESSION_PAUSE_S[0]
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, _SESSION_PAUSE_S[1])

    async def _enrolled(self, identity: Identity, key: NKey, credentials: Path) -> tuple[Identity, BusIdentity]:
        bus = await _connect(replace(self._settings, credentials=credentials, identity=None))
        try:
            await self._belief.start(bus)
            enrolled, token = await enrol(bus, self._tpm, identity, self._executor, key, self._device)
        finally:
            await bus.close()
        identities.store(self._config.data_dir, enrolled)
        return enrolled, BusIdentity(enrolled.agent_id, key, token, unix_ms)

    async def _session(self, identity: Identity, held: BusIdentity) -> None:
        bus = await _connect(replace(self._settings, credentials=None, identity=held.credentials))
        async with _life(bus) as tasks:
            await self._belief.start(bus)
            self._hear_revocations(bus, tasks)
            tasks.create_task(held.renew(bus))
            await self._attest(bus, identity, tasks)

    def _hear_revocations(self, bus: Bus, tasks: asyncio.TaskGroup) -> None:
        if (judge := self._belief.revocations) is not None:
            tasks.create_task(Revocations(bus, judge, self._config.data_dir, self._act).run())

    async def _attest(self, bus: Bus, identity: Identity, tasks: asyncio.TaskGroup) -> None:
        attester = Attester(
            agent_id=identity.agent_id, enrolment=identity.enrolment, transport_key=identity.transport_digest
        )
        maker = EvidenceMaker(attester, self._tpm, ima=self._ima, boot_log=self._config.boot_log)
        answerer = Answerer(bus, identity.agent_id, maker, self._executor)
        tasks.create_task(answerer.run())
        await bus.subscribe(subjects.challenge(identity.agent_id), answerer.hear)
        # The server must know of the subscription before anyone is told that challenges are heard.
        await bus.nc.flush()
        if self._ima is not None:
            watch = Watch(bus, identity.agent_id, self._ima, poll_s=self._config.poll_ms / 1000, now=unix_ms)
            await watch.begin()
            tasks.create_task(watch.run())
        tasks.create_task(Presence(bus, identity.agent_id, identity.enrolment, now=unix_ms).run())
        _log.info("agent %s is ready", identity.agent_id)

    async def _act(self, revocation: Revocation) -> None:
        if self._config.revocation_hook:
            await run_hook(self._config.revocation_hook, revocation)


async def run(config: AgentConfig, settings: BusSettings, trust: TrustConfig) -> None:
    """Run an agent until SIGTERM or SIGINT.

    :raises AttestreamError: as :meth:`Agent.run`.
    """
    task = asyncio.create_task(Agent(config, settings, trust).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        _log.info("stopped")


async def _connect(settings: BusSettings) -> Bus:
    while True:
        try:
            return await connect(settings)
        except BusError as error:
            _log.warning("waiting for the bus: %s", error)
            await asyncio.sleep(_CONNECT_PAUSE_S)


@asynccontextmanager
async def _life(bus: Bus) -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks until one fails or the bus has closed the connection for good; raise the first of our errors."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_until_closed(bus))
            yield tasks
    except BaseExceptionGroup as group:
        known, others = group.split(AttestreamError)
        if known is None or others is not None:
            raise
        raise _first(known) from group
    finally:
        await bus.close()


async def _until_closed(bus: Bus) -> None:
    closed = asyncio.Event()

    async def notice() -> None:
        closed.set()

    bus.on_closed(notice)
    await closed.wait()
    if _REFUSED.search(str(bus.nc.last_error)):
        raise ForbiddenError(
            "its identity on the bus was revoked, as when it has failed attestation or was deleted",
            remedy="Find out why; then an operator re-admits it: `attestream agents start`, `update` or `add`.",
        )
    raise BusError("the bus has closed the connection for good")


def _first(group: BaseExceptionGroup[AttestreamError]) -> AttestreamError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AttestreamError)
    return error


def _ima_log(config: AgentConfig) -> ImaLog | None:
    return ImaLog(config.ima_log, ascii_form=config.ima_log_format == "ascii") if config.ima_log else None
