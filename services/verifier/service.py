"""A verifier worker as a process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

import msgspec

from attestream.bus.connection import connect
from attestream.bus.topology import prepare
from attestream.bus.trust import configured
from attestream.clock import unix_ms
from attestream.config import Config
from attestream.database import migrate, open_engine, report_size
from attestream.lifetime import until_stopped
from services.verifier.cluster_secret import SecretFile
from services.verifier.queries import Queries
from services.verifier.store import Store
from services.verifier.worker import Worker

log = logging.getLogger(__name__)

GATHER_S = 0.02
"""Seconds that answers may gather: dealing with twenty at a time takes a third less CPU for each than with four; forty take
no less."""

SWITCH_S = 0.0005
"""How long a thread that appraises a large log may keep the interpreter from everything else: the default is ten times as
long, and each message of another agent waits for that several times."""


async def run(config: Config, stopped: asyncio.Event) -> None:
    """Run one worker until ``stopped`` is set.

    :raises ConfigError: when the settings can not be used.
    :raises StorageError: when the database does not answer at the start.
    :raises BusError: when the bus can not be reached at the start, or has closed the connection for good.
    """
    sys.setswitchinterval(SWITCH_S)
    secret = SecretFile(config.verifier.cluster_secret_file)
    trust = configured(config.trust, config.verifier.signing_key_file)
    engine = open_engine(
        config.verifier.database_url,
        password_file=config.verifier.database_password_file,
        connections=config.verifier.database_connections,
        timeout_s=config.verifier.database_timeout_s,
    )
    try:
        await migrate(engine, "services.verifier.migrations")
        bus = await connect(msgspec.structs.replace(config.bus.settings("verifier"), gather_s=GATHER_S))
        try:
            await prepare(bus, sizes=config.limits.sizes(), ages=config.retention.ages())
            await trust.start(bus)
            store = Store(engine)
            worker = Worker(bus, store, config.verifier, secret, unix_ms, config.limits)
            await Queries(bus, store, worker).serve()
            following = asyncio.create_task(secret.follow())
            measuring = asyncio.create_task(report_size(engine, "verifier"))
            try:
                await _work(worker, until_stopped(bus, stopped))
            finally:
                following.cancel()
                measuring.cancel()
        finally:
            await bus.close()
    finally:
        await engine.dispose()


async def _work(worker: Worker, end: Coroutine[Any, Any, None]) -> None:
    working = asyncio.create_task(worker.run())
    ending = asyncio.create_task(end)
    log.info("worker %s is ready", worker.name)
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, ending):
            if task.done():
                await task
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.wait({working, ending})
        log.info("worker %s hands over and stops", worker.name)
        await worker.stop()
