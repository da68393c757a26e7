"""Everything on one machine: the bus, the registrar, verifier workers and the notifier. What ``attestream up`` runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Final

from attestream.embedded.nats import NatsServer
from attestream.embedded.supervisor import BACKOFF_S, Child, Supervisor
from attestream.errors import BusError
from attestream.installation.places import Installation, locked

_POLL_S: Final = 0.1

_log = logging.getLogger(__name__)


async def run_stack(place: Installation, *, port: int, workers: int, environment: Mapping[str, str]) -> None:
    """Run the services of ``place`` until SIGTERM or SIGINT, then stop them and at last the bus.

    ``port`` is the bus's on the loopback interface, 0 for a free one. ``workers`` is the number of verifier workers.

    :raises ConfigError: when another process runs this installation, or a service can not use the configuration.
    :raises BusError: when the bus does not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with locked(place):
        server = NatsServer(place.bus, port=port)
        try:
            server.start()
            place.url_file.write_text(server.url + "\n", encoding="ascii")
            await _run_services(place, server, workers, environment, stopped)
        finally:
            place.url_file.unlink(missing_ok=True)
            server.stop()
            _log.info("the bus has stopped")


async def _run_services(
    place: Installation, server: NatsServer, workers: int, environment: Mapping[str, str], stopped: asyncio.Event
) -> None:
    supervisor = Supervisor(
        children(place, workers),
        {**environment, "ATTESTREAM_BUS_URLS": server.url, "PYTHONUNBUFFERED": "1"},
    )
    supervisor.start()
    waits: list[asyncio.Task[object]] = [
        asyncio.create_task(supervisor.wait()),
        asyncio.create_task(_keep_bus(server)),
        asyncio.create_task(stopped.wait()),
    ]
    try:
        _log.info("the bus is at %s; to see how things are: attestream --url %s status", server.url, server.url)
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        _log.info("stopping")
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await supervisor.stop()


def children(place: Installation, workers: int) -> list[Child]:
    """Return the services, in the order in which they are started."""
    names = ["registrar", *(f"verifier-{number}" for number in range(1, workers + 1)), "notifier"]
    return [Child(name, service_argv(name.partition("-")[0], str(place.config_file))) for name in names]


def service_argv(service: str, config_file: str) -> list[str]:
    """Return the command that runs one service."""
    return [sys.executable, "-m", f"services.{service}", "--config", config_file]


async def _keep_bus(server: NatsServer) -> None:
    wait_s = BACKOFF_S[0]
    while True:
        await asyncio.sleep(_POLL_S)
        if server.pid is not None:
            continue
        _log.warning("the bus has ended; it starts again (its log: %s)", server.log_path)
        try:
            server.start()
        except BusError as error:
            _log.error("%s; the next attempt is in %.1f s", error.message, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, BACKOFF_S[1])
        else:
            wait_s = BACKOFF_S[0]
