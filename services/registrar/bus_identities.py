"""Agents' identities on the bus, put together: what issues, what renews, and what makes void."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.bus.connection import Bus, connect
from attestream.bus.serving import Endpoint
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
    """Serves renewals, and keeps the servers informed, from entering to leaving it."""

    def __init__(self, bus: Bus, system: Bus, issuer: Issuer, renewals: Renewals, revocations: Revocations) -> None:
        self.issuer = issuer
        self.connections = Connections(system)
        self._bus = bus
        self._system = system
        self._renewals = renewals
        self._revocations = revocations
        self._endpoint: Endpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start.

        :raises BusError: the bus does not answer.
        :raises StorageError: the database does not answer.
        """
        try:
            bounding = await self.connections.start()
            await self._revocations.start()
            self._endpoint = await self._bus.serve(
                subjects.REGISTRAR_RENEWALS, _QUEUE, RenewRequest, self._renewals.renew, signed=True, gate=RenewalGate()
            )
        except BaseException:
            await self._system.close()
            raise
        self._tasks = [asyncio.create_task(self._revocations.run()), asyncio.create_task(self._sweep())]
        if bounding:
            self._tasks.append(asyncio.create_task(self.connections.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop. What is not told yet is told by the next registrar."""
        if self._endpoint is not None:
            await self._endpoint.stop()
        await self._revocations.stop()
        await self.connections.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._system.close()

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
