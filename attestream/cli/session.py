"""What every command needs: where the bus is, a client on it, and a coroutine run to its end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import click

from attestream.errors import ConfigError

if TYPE_CHECKING:
    from attestream.bus.trust import Trust
    from attestream.client.connection import Client
    from attestream.config import BusConfig, Config
    from attestream.installation.places import Installation
    from attestream.signing import TrustedKeys

URL_VARIABLE: Final = "ATTESTREAM_URL"
CREDENTIALS_VARIABLE: Final = "ATTESTREAM_CREDENTIALS"
CA_VARIABLE: Final = "ATTESTREAM_CA"
CONNECT_S: Final = 2.0
"""Seconds after which the bus counts as unreachable, unless ``--timeout`` is shorter."""
INTERRUPT_S: Final = 2.0
"""Seconds after which Ctrl-C is repeated to a command that has not ended."""
DATA_DIR_VARIABLE: Final = "ATTESTREAM_DATA_DIR"
SIGNING_KEY_VARIABLE: Final = "ATTESTREAM_SIGNING_KEY"
"""Environment variable with the PEM file of the private key that signs one's commands."""

T = TypeVar("T")


class Session(NamedTuple):
    """The global options."""

    url: str
    config: Path | None
    data_dir: Path | None
    timeout_s: float
    environment: Mapping[str, str]
    credentials: Path | None = None
    ca: Path | None = None

    def directory(self, given: Path | None = None) -> Path:
        """Return the data directory: ``given``, ``--data-dir``, the one whose configuration is named,
        ``ATTESTREAM_DATA_DIR``, or the default one."""
        if given is not None:
            return given
        if self.data_dir is not None:
            return self.data_dir
        if (place := self._configured_place()) is not None:
            return place.directory
        if named := self.environment.get(DATA_DIR_VARIABLE):
            return Path(named)
        if os.geteuid() == 0:
            return Path("/var/lib/attestream")
        base = self.environment.get("XDG_DATA_HOME")
        return (Path(base) if base else Path.home() / ".local" / "share") / "attestream"

    def config_file(self) -> Path | None:
        """Return the configuration file that ``--config`` or ``ATTESTREAM_CONFIG`` names, itself or by its directory."""
        from attestream import config

        named = self.config or config.path_from(self.environment)
        return named / config.FILE_NAME if named is not None and named.is_dir() else named

    def _configured_place(self) -> Installation | None:
        """Return the installation whose configuration is named; ``None`` when it is none's."""
        from attestream.installation.places import Installation

        if (named := self.config_file()) is None:
            return None
        place = Installation(named.absolute().parent)
        return place if named.name == place.config_file.name and place.operator_token.exists() else None

    def bus(self) -> BusConfig:
        """Return where the bus is, and with which credentials it is reached.

        :raises ConfigError: when a configuration is named and can not be used.
        """
        import msgspec

        found = self._found().bus
        changes: dict[str, Any] = {}
        if url := self.url or self.environment.get(URL_VARIABLE, ""):
            changes["urls"] = [part.strip() for part in url.split(",")]
        for setting, given, variable in (
            ("credentials", self.credentials, CREDENTIALS_VARIABLE),
            ("ca_file", self.ca, CA_VARIABLE),
        ):
            if given is not None:
                changes[setting] = given
            elif self.environment.get(variable):
                changes[setting] = Path(self.environment[variable])
        if (own := self._person()) is not None:
            from attestream.installation.people import CREDENTIALS

            changes["credentials"] = own / CREDENTIALS
        return msgspec.structs.replace(found, **changes)

    def _person(self) -> Path | None:
        """Return the directory of the person whose credentials are named, if it is one and not a file in it."""
        from attestream.installation.people import CREDENTIALS

        given = self.credentials or self.environment.get(CREDENTIALS_VARIABLE)
        directory = Path(given) if given else None
        return directory if directory is not None and (directory / CREDENTIALS).exists() else None

    def urls(self) -> list[str]:
        """Return where the bus is.

        :raises ConfigError: when a configuration is named and can not be used.
        """
        return self.bus().urls

    def _found(self) -> Config:
        """Return what a configuration or a data directory says."""
        from attestream import config
        from attestream.installation.places import Installation

        if (configured := self._configured_place()) is not None:
            return self._of_installation(configured)
        if (named := self.config_file()) is not None:
            return config.load(named, self.environment)
        person, chosen = self._person(), self.data_dir is not None or DATA_DIR_VARIABLE in self.environment
        if person is not None and not chosen and (person / config.FILE_NAME).exists():
            return config.load(person / config.FILE_NAME, self.environment)
        elsewhere = self.url or self.environment.get(URL_VARIABLE, "")
        if elsewhere and not chosen:
            # Another bus than that of the default data directory asks for other credentials.
            return config.load(None, self.environment)
        return self._of_installation(Installation(self.directory()))

    def _of_installation(self, place: Installation) -> Config:
        """Return what the configuration of ``place`` says, with what the installation itself knows."""
        import msgspec

        from attestream import config

        loaded = config.load(place.config_file if place.exists else None, self.environment)
        changes: dict[str, Any] = {"bus": _installed(place, loaded.bus)}
        if _runs_insecurely(place):
            changes["trust"] = config.TrustConfig(unsigned=True)
        return msgspec.structs.replace(loaded, **changes)

    @asynccontextmanager
    async def client(self, keys: TrustedKeys | None = None) -> AsyncIterator[Client]:
        """Connect to the bus for the block.

        :raises ConfigError: when its URL can not be found out, or the credentials can not be used.
        :raises ForbiddenError: when the bus refuses the credentials.
        :raises BusError: when it does not answer.
        """
        from attestream.client.connection import connect
        from attestream.installation.places import Installation

        bus = self.bus()
        for url in bus.urls:
            if not url.startswith(("nats://", "tls://", "ws://", "wss://")):
                raise ConfigError(f"{url!r} is not the URL of a bus", remedy="Write for example nats://127.0.0.1:4222.")
        timeout_s = min(self.timeout_s, CONNECT_S)
        try:
            trust = self.trust()
        except ConfigError:
            if self.data_dir is not None and not (place := Installation(self.data_dir.absolute())).exists:
                raise no_installation(place) from None
            # Whom to believe is the second question: the first is whether anybody is there.
            await _look_for(bus, timeout_s)
            raise
        async with connect(
            bus.urls,
            trust=trust,
            keys=keys,
            name="attestream-cli",
            timeout_s=timeout_s,
            credentials=bus.credentials,
            ca_file=bus.ca_file,
            client_cert=bus.client_cert,
            client_key=bus.client_key,
        ) as client:
            yield client

    def trust(self) -> Trust:
        """Return whom to believe, and with which key to sign: as the configuration in use says.

        :raises ConfigError: when that says neither, or can not be used.
        """
        from attestream.bus.trust import configured

        return configured(self._found().trust, self.signing_key(), signs=False)

    def root_keys(self) -> list[Path]:
        """Return the files with the root keys that vouch for everything: as the configuration in use says.

        :raises ConfigError: when that can not be used.
        """
        return self._found().trust.root_keys

    def signing_key(self) -> Path | None:
        """Return one's own private key: that in ``ATTESTREAM_SIGNING_KEY``, or the one beside the credentials in use."""
        if named := self.environment.get(SIGNING_KEY_VARIABLE):
            return Path(named)
        credentials = self.bus().credentials
        beside = credentials.parent / "signing.pem" if credentials is not None else None
        return beside if beside is not None and beside.exists() else None


def no_installation(place: Installation) -> ConfigError:
    """Return the error of a command whose data directory is none."""
    return ConfigError(
        f"{place.directory} holds no installation",
        remedy="Name its directory with --data-dir, or make one with `attestream init`.",
    )


async def _look_for(bus: BusConfig, timeout_s: float) -> None:
    """Return when there is a bus, whether or not it lets anybody in.

    :raises BusError: nobody answers.
    """
    import contextlib

    import msgspec

    from attestream.bus.connection import connect
    from attestream.errors import RefusedError

    settings = msgspec.structs.replace(bus.settings("attestream-cli"), connect_timeout_s=timeout_s, credentials=None)
    with contextlib.suppress(RefusedError):
        await (await connect(settings)).close()


def _installed(place: Installation, loaded: BusConfig) -> BusConfig:
    """Return ``loaded`` with what the installation at ``place`` knows of its own bus: where it runs now, and the credentials
    of the person who made it."""
    import msgspec

    from attestream.installation.people import own_credentials
    from attestream.installation.places import running_bus

    changes: dict[str, Any] = {}
    # A directory of credentials is for services; a bus that `attestream up` does not run here asks everybody who they are.
    identified = loaded.credentials is None or loaded.credentials.is_dir()
    if (running := running_bus(place)) is not None:
        url, identified = running
        changes["urls"] = [url]
    if not identified:
        changes["credentials"] = None
    elif (own := own_credentials(place)) is not None:
        changes["credentials"] = own
    urls = changes.get("urls", loaded.urls)
    if loaded.ca_file is None and place.ca_file.exists() and any(url.startswith(("tls://", "wss://")) for url in urls):
        changes["ca_file"] = place.ca_file
    return msgspec.structs.replace(loaded, **changes)


def _runs_insecurely(place: Installation) -> bool:
    """Return whether its `attestream up` runs a bus that asks nobody who is there; nothing is signed on that."""
    from attestream.installation.places import running_bus

    running = running_bus(place)
    return running is not None and not running[1]


pass_session = click.make_pass_decorator(Session)

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for machines.")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end. The logs of the library stay silent: a command says itself what went wrong."""
    import asyncio
    import logging

    logging.getLogger().addHandler(logging.NullHandler())
    done, result = asyncio.run(_interruptible(work))
    if not done:
        raise KeyboardInterrupt
    return cast("T", result)


async def _interruptible(work: Coroutine[Any, Any, T]) -> tuple[bool, T | None]:
    """Return whether ``work`` came to its end, which Ctrl-C keeps it from, and what it returned."""
    import asyncio
    import contextlib
    import signal

    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        if not task.done():
            task.cancel()
            # Where a wait ends at that very moment, Python 3.11 may lose the cancellation.
            loop.call_later(INTERRUPT_S, interrupt)

    with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # a thread other than the first has no signals
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return True, await task
    except asyncio.CancelledError:
        if not interrupted.is_set():
            raise
        return False, None
