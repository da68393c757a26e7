"""The notifier's life: key, sinks, revoker, and a clean end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from attestream.bus import keyvalue
from attestream.bus.connection import Bus, connect
from attestream.bus.topology import prepare
from attestream.bus.trust import configured
from attestream.clock import unix_ms
from attestream.config import Config, LimitsConfig, NotifierConfig
from attestream.database import file_of
from attestream.errors import ConfigError
from attestream.lifetime import until_stopped
from attestream.signing import Signer, TrustedKeys
from schemas import topology
from services.notifier.capacity import Watch
from services.notifier.revoker import Revoker
from services.notifier.webhook import Sink

_log = logging.getLogger(__name__)


async def run(config: Config, stopped: asyncio.Event) -> None:
    """Sign and deliver until ``stopped`` is set.

    :raises ConfigError: when the signing key or a webhook can not be used.
    :raises BusError: when the bus can not be reached at the start, or has closed the connection for good.
    """
    signer = Signer.load(config.notifier.signing_key_file)
    # Revoking takes trust away: it goes on however long no registrar has vouched for the roster.
    trust = configured(msgspec.structs.replace(config.trust, roster_max_age_s=0), config.notifier.signing_key_file)
    bus = await connect(config.bus.settings("notifier"))
    try:
        await prepare(bus, sizes=config.limits.sizes(), ages=config.retention.ages())
        await trust.start(bus)
        async with notifying(bus, config.notifier, signer), watching(bus, config.limits, databases=_databases(config)):
            _log.info("ready; key %s, %d webhooks", signer.key_id, len(config.notifier.webhooks))
            await until_stopped(bus, stopped)
    finally:
        await bus.close()


@asynccontextmanager
async def notifying(
    bus: Bus, config: NotifierConfig, signer: Signer, *, clock: Callable[[], int] = unix_ms
) -> AsyncIterator[None]:
    """Sign and deliver while the block runs.

    :raises ConfigError: when a webhook can not be used.
    :raises BusError: when the bus does not answer.
    """
    names = [webhook.name for webhook in config.webhooks]
    if len(set(names)) != len(names):
        raise ConfigError("two webhooks have the same name")
    keys = TrustedKeys.from_pems([signer.public_pem, *(_read(path) for path in config.retired_keys)])
    sinks = [Sink(bus, webhook, keys, retry_base_s=config.retry_base_s) for webhook in config.webhooks]
    await publish_key(bus, signer)
    try:
        # Sinks first: a new one must exist on the server before the first revocation is signed.
        for sink in sinks:
            await sink.start()
        async with Revoker(bus, signer, clock).consumer:
            yield
    finally:
        await asyncio.gather(*(sink.stop() for sink in sinks))


@asynccontextmanager
async def watching(
    bus: Bus, limits: LimitsConfig, *, databases: Mapping[str, Path] | None = None, clock: Callable[[], int] = unix_ms
) -> AsyncIterator[None]:
    """Raise alarms about what fills up while the block runs; ``databases`` are files of services on this machine."""
    task = asyncio.create_task(Watch(bus, limits, clock, databases=databases).run())
    try:
        yield
    finally:
        task.cancel()


def _databases(config: Config) -> dict[str, Path]:
    """Return the databases of the same configuration that are files on this machine, by their services' names."""
    urls = {"registrar": config.registrar.database_url, "verifier": config.verifier.database_url}
    files = {service: file_of(url) for service, url in urls.items()}
    return {service: path for service, path in files.items() if path is not None}


async def publish_key(bus: Bus, signer: Signer) -> None:
    """Publish the public key, for those who can not be given it in another way.

    :raises BusError: when the bus does not answer.
    """
    key = f"{topology.KEY_NOTIFIER}.{signer.key_id}"
    value = signer.public_pem.encode()
    entry = await keyvalue.get(bus, topology.CLUSTER.name, key)
    if entry is None or entry.value != value:
        await keyvalue.put(bus, topology.CLUSTER.name, key, value, expected=None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the retired key {path} can not be read: {error.strerror}") from error
