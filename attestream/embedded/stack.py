"""Everything on one machine: the bus, the registrar, verifier workers and the notifier. What ``attestream up`` runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Final

from attestream.embedded.nats import NatsServer
from attestream.embedded.supervisor import BACKOFF_S, Child, Supervisor
from attestream.errors import BusError, ConfigError, SupersededError
from attestream.installation.configuration import INSECURE
from attestream.installation.places import IDENTIFIED, Installation, locked
from schemas.roles import Role

LOOPBACK: Final = "127.0.0.1"

_POLL_S: Final = 0.1

_log = logging.getLogger(__name__)


async def run_stack(
    place: Installation,
    *,
    port: int,
    workers: int,
    environment: Mapping[str, str],
    listen: str = LOOPBACK,
    websocket_port: int = 0,
    insecure: bool = False,
) -> None:
    """Run the services of ``place`` until SIGTERM or SIGINT, then stop them and at last the bus.

    ``port`` is the bus's, 0 for a free one. ``workers`` is the number of verifier workers. ``listen`` is the address of the
    interface on which the bus is reached; beyond the loopback interface it speaks TLS alone. ``websocket_port`` lets clients
    in over WebSocket too, 0: not. ``insecure``: the bus asks nobody who they are and nothing is signed, only for tests.

    :raises ConfigError: when another process runs this installation, or a service can not use the configuration.
    :raises BusError: when the bus does not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with locked(place):
        if not insecure:
            await _refresh(place)
        server = bus_server(place, port=port, listen=listen, websocket_port=websocket_port, insecure=insecure)
        settings = dict(environment) | bus_environment(place, server, insecure=insecure)
        try:
            server.start()
            if not insecure:
                await provision(place, settings)
            note = "" if insecure else f" {IDENTIFIED}"
            place.url_file.write_text(f"{server.local_url}{note}\n", encoding="ascii")
            await _run_services(place, server, workers, settings, stopped)
        finally:
            place.url_file.unlink(missing_ok=True)
            server.stop()
            _log.info("the bus has stopped")


async def _refresh(place: Installation) -> None:
    """Let the accounts have what this version grants, before the bus starts."""
    from attestream.installation.refreshing import refresh_stopped

    try:
        changed = await refresh_stopped(place)
    except ConfigError as error:
        # The operator's key may be kept away: what the roles could do before the upgrade still holds.
        _log.warning("the accounts of the bus may be those of another version: %s (%s)", error.message, error.hint)
        return
    if changed:
        _log.info("the accounts %s have the permissions of this version now", ", ".join(changed))


def bus_server(
    place: Installation, *, port: int, listen: str = LOOPBACK, websocket_port: int = 0, insecure: bool = False
) -> NatsServer:
    """Return the bus of ``place``, not started; the arguments are those of :func:`run_stack`.

    :raises ConfigError: a token of the installation can not be read, or it would be open to a network.
    """
    encrypted = not _is_loopback(listen)
    if insecure:
        if encrypted or websocket_port:
            raise ConfigError("a bus that asks nobody who they are is for the loopback interface alone")
        return NatsServer(place.bus, port=port)
    from attestream.installation.authority import Authority
    from attestream.installation.bus_server import encryption, identities, websocket

    pair = Authority(place.tls).server
    parts = [encryption(pair, place.ca_file)] if encrypted else []
    if websocket_port:
        parts.append(websocket(pair, place.ca_file, listen, websocket_port))
    parts.append(identities(place, place.bus / "accounts"))
    return NatsServer(place.bus, host=listen, port=port, extra="\n".join(parts), encrypted=encrypted)


def bus_environment(place: Installation, server: NatsServer, *, insecure: bool = False) -> dict[str, str]:
    """Return the settings with which services on this machine reach the bus. None of them is a secret."""
    settings = {"ATTESTREAM_BUS_URLS": server.local_url}
    if insecure:
        return settings | INSECURE
    if server.encrypted:
        settings["ATTESTREAM_BUS_CA_FILE"] = str(place.ca_file)
    return settings


async def provision(place: Installation, environment: Mapping[str, str]) -> None:
    """Make the streams of the running bus, and put the roster there, as the provisioner.

    :raises ConfigError: the configuration or the provisioner's credentials can not be used.
    :raises BusError: the bus refuses, or does not answer.
    """
    from attestream import config
    from attestream.bus import topology
    from attestream.installation.live import publish_roster

    loaded = config.load(place.config_file, environment)
    await topology.provision(
        loaded.bus.settings(str(Role.PROVISIONER)), sizes=loaded.limits.sizes(), ages=loaded.retention.ages()
    )
    try:
        await publish_roster(place, loaded.bus.urls)
    except SupersededError as error:
        # Every service reads the bus's own, and the installation's file becomes that.
        _log.warning("the installation's roster is not published: %s", error.message)


def _is_loopback(listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError as error:
        raise ConfigError(f"{listen[:80]!r} is not the address of an interface") from error


async def _run_services(
    place: Installation, server: NatsServer, workers: int, environment: Mapping[str, str], stopped: asyncio.Event
) -> None:
    supervisor = Supervisor(
        children(place, workers),
        {**environment, "PYTHONUNBUFFERED": "1"},
    )
    supervisor.start()
    waits: list[asyncio.Task[object]] = [
        asyncio.create_task(supervisor.wait()),
        asyncio.create_task(_keep_bus(server)),
        asyncio.create_task(stopped.wait()),
    ]
    try:
        _log.info("the bus is at %s; to see how things are: attestream --data-dir %s status", server.url, place.directory)
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
