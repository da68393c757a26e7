"""A verifier worker as a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from attestream.bus.connection import connect
from attestream.bus.topology import ensure_topology
from attestream.config import Config
from attestream.database import migrate, open_engine
from attestream.errors import ConfigError
from services.verifier.queries import Queries
from services.verifier.store import Store
from services.verifier.worker import Worker

log = logging.getLogger(__name__)

MIN_SECRET_BYTES = 32


def read_secret(path: Path) -> bytes:
    """Return the cluster secret.

    :raises ConfigError: when the file can not be read or holds too little.
    """
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the cluster secret {path} can not be read: {error.strerror}", remedy="Make it with `attestream init`."
        ) from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"the cluster secret {path} has fewer than {MIN_SECRET_BYTES} bytes")
    return secret


def unix_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def run(config: Config, stopped: asyncio.Event) -> None:
    """Run one worker until ``stopped`` is set."""
    secret = read_secret(config.verifier.cluster_secret_file)
    engine = open_engine(config.verifier.database_url)
    try:
        await migrate(engine, "services.verifier.migrations")
        bus = await connect(config.bus.settings("verifier"))
        bus.on_closed(_end(stopped))
        try:
            await ensure_topology(bus)
            store = Store(engine)
            worker = Worker(bus, store, config.verifier, secret, unix_ms)
            await Queries(bus, store, worker).serve()
            await _work(worker, stopped)
        finally:
            await bus.close()
    finally:
        await engine.dispose()


async def _work(worker: Worker, stopped: asyncio.Event) -> None:
    working = asyncio.create_task(worker.run())
    asking = asyncio.create_task(stopped.wait())
    log.info("worker %s is ready", worker.name)
    await asyncio.wait({working, asking}, return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    if working.done():
        await working
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    log.info("worker %s hands over and stops", worker.name)
    await worker.stop()


def _end(stopped: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def end() -> None:
        log.error("the bus has closed the connection for good")
        stopped.set()

    return end
