"""Agents' identities on the bus, put together: what issues, what renews, and what makes void."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.bus.connection import Bus, connect
from attestream.config import RegistrarConfig
from attestream.credentials.nkey import Kind
from attestream.credentials.token import Token, read
from attestream.errors import AttestreamError, ConfigError, StorageError
from schemas import subjects
from schemas.enrolment import RenewRequest
from services.registrar.bus_account import BusAccount
from services.registrar.connections import Connections
from services.registrar.gate import RenewalGate
from services.registrar.issuing import Issuer
from services.registrar.key_files import KeyFile, text
from services.registrar.renewals import Renewals
from services.registrar.revocations import Revocations

SWEEP_S: Final = 60.0

_QUEUE: Final = "registrar"
_log = logging.getLogger(__name__)


class BusIdentities:
    """Serves renewals, and keeps the servers informed."""

    def __init__(self, bus: Bus, system: Bus, issuer: Issuer, renewals: Renewals, revocations: Revocations) -> None:
        self.issuer = issuer
        self.connections = Connections(system)
        self._bus = bus
        self._system = system
        self._renewals = renewals
        self._revocations = revocations

    @asynccontextmanager
    async def running(self, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Do so during the block, in ``tasks``: a registrar of which a part has ended unexpectedly must not go on as if it
        still cut anybody off. What is not told at the end is told by the next registrar.

        :raises BusError: the bus does not answer.
        :raises StorageError: the database does not answer.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._system.close)
            bounding = await self.connections.start()
            stack.push_async_callback(self.connections.stop)
            await self._revocations.start()
            stack.push_async_callback(self._revocations.stop)
            endpoint = await self._bus.serve(
                subjects.REGISTRAR_RENEWALS, _QUEUE, RenewRequest, self._renewals.renew, signed=True, gate=RenewalGate()
            )
            stack.push_async_callback(endpoint.stop)
            work = [self._revocations.run(), self._sweep(), *([self.connections.run()] if bounding else [])]
            background = [tasks.create_task(each) for each in work]
            try:
                yield
            finally:
                for task in background:
                    task.cancel()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._revocations.sweep()
            except StorageError as error:
                _log.warning("expired identities stay for now: %s", error.message)
            await asyncio.sleep(SWEEP_S)


async def open_identities(
    engine: AsyncEngine, bus: Bus, config: RegistrarConfig, clock: Callable[[], int]
) -> BusIdentities | None:
    """Return what issues identities as configured; None when the bus asks nobody who they are.

    :raises ConfigError: a setting is missing or names what can not be used.
    :raises BusError: the bus's own account can not be reached.
    """
    files = {
        "agent_issuer_file": config.agent_issuer_file,
        "operator_key_file": config.operator_key_file,
        "system_credentials": config.system_credentials,
        "agent_account_file": config.agent_account_file,
    }
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == len(files):
        return None
    if missing:
        raise ConfigError(
            f"[registrar] `{missing[0]}` is not set, but others that issue identities are",
            remedy=f"Set all of {', '.join(files)}, or none.",
        )
    assert config.agent_issuer_file and config.operator_key_file and config.agent_account_file  # noqa: PT018 - see above
    key = KeyFile(config.agent_issuer_file, Kind.ACCOUNT)
    operator = KeyFile(config.operator_key_file, Kind.OPERATOR)
    token = _account(config.agent_account_file)
    account = token.subject
    system = await connect(
        replace(bus.settings, name="registrar (identities)", credentials=config.system_credentials, identity=None)
    )
    lifetime_s = config.identity_lifetime_s
    issuer = Issuer(bus, key, account, lifetime_s=lifetime_s, clock=clock)
    bus_account = BusAccount(system, account, operator, clock, known=token)
    revocations = Revocations(engine, bus, bus_account, lifetime_s=lifetime_s, clock=clock)
    return BusIdentities(bus, system, issuer, Renewals(engine, issuer, clock), revocations)


def _account(path: Path) -> Token:
    try:
        token = read(text(path, secret=False))
    except AttestreamError as error:
        raise ConfigError(f"{path}: {error.message}") from error
    if token.kind != "account":
        raise ConfigError(f"{path} does not hold the token of an account")
    return token
