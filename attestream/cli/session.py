"""What every command needs: where the bus is, a client on it, and a coroutine run to its end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from attestream.errors import ConfigError

if TYPE_CHECKING:
    from attestream.client.connection import Client
    from attestream.signing import TrustedKeys

URL_VARIABLE: Final = "ATTESTREAM_URL"
CONNECT_S: Final = 2.0
"""Seconds after which the bus counts as unreachable, unless ``--timeout`` is shorter."""
DATA_DIR_VARIABLE: Final = "ATTESTREAM_DATA_DIR"

T = TypeVar("T")


class Session(NamedTuple):
    """The global options."""

    url: str
    config: Path | None
    data_dir: Path | None
    timeout_s: float
    environment: Mapping[str, str]

    def directory(self, given: Path | None = None) -> Path:
        """Return the data directory: ``given``, ``--data-dir``, ``ATTESTREAM_DATA_DIR``, or the default one."""
        if given is not None:
            return given
        if self.data_dir is not None:
            return self.data_dir
        if named := self.environment.get(DATA_DIR_VARIABLE):
            return Path(named)
        if os.geteuid() == 0:
            return Path("/var/lib/attestream")
        base = self.environment.get("XDG_DATA_HOME")
        return (Path(base) if base else Path.home() / ".local" / "share") / "attestream"

    def urls(self) -> list[str]:
        """Return where the bus is.

        :raises ConfigError: when a configuration is named and can not be used.
        """
        from attestream import config
        from attestream.installation.places import Installation

        if url := self.url or self.environment.get(URL_VARIABLE, ""):
            return [part.strip() for part in url.split(",")]
        named = self.config or config.path_from(self.environment)
        if named is not None:
            return config.load(named, self.environment).bus.urls
        place = Installation(self.directory())
        try:
            return [place.url_file.read_text(encoding="ascii").strip()]
        except OSError:
            return config.load(place.config_file if place.exists else None, self.environment).bus.urls

    @asynccontextmanager
    async def client(self, keys: TrustedKeys | None = None) -> AsyncIterator[Client]:
        """Connect to the bus for the block.

        :raises ConfigError: when its URL can not be found out.
        :raises BusError: when it does not answer.
        """
        from attestream.client.connection import connect

        urls = self.urls()
        for url in urls:
            if not url.startswith(("nats://", "tls://", "ws://", "wss://")):
                raise ConfigError(f"{url!r} is not the URL of a bus", remedy="Write for example nats://127.0.0.1:4222.")
        async with connect(urls, keys=keys, name="attestream-cli", timeout_s=min(self.timeout_s, CONNECT_S)) as client:
            yield client


pass_session = click.make_pass_decorator(Session)

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for machines.")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end. The logs of the library stay silent: a command says itself what went wrong."""
    import asyncio
    import logging

    logging.getLogger().addHandler(logging.NullHandler())
    return asyncio.run(work)
