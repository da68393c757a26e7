"""The command ``backup``: a copy of a cluster, and a cluster from a copy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from attestream.cli import output
from attestream.cli.keys import installed
from attestream.cli.session import URL_VARIABLE, Session, complete, json_option, pass_session
from attestream.errors import ConfigError, MalformedError
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.backup.contents import Entry, Manifest
    from attestream.backup.procedure import Database
    from attestream.bus.connection import Bus
    from attestream.config import Config
    from attestream.installation.places import Installation
    from schemas.trust import Roster

SERVICES: Final = ("registrar", "verifier")
"""Those that have a database."""

KEPT: Final = [
    "attestream.toml",
    "keys",
    "bus-keys",
    "credentials",
    "operators",
    "tls",
    "trusted",
    "ek-store",
    "iak-store",
    "servers",
]
"""What a back-up with keys holds of the data directory."""

IDENTITY_S: Final = 86_400
"""Life of the identity that a back-up or restore makes for itself, in seconds."""

_MAX_PASSPHRASE: Final = 1024

_directory = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
_unsigned = click.option(
    "--unsigned", is_flag=True, help="Ask for nobody's signature: whoever could write the back-up is believed."
)
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File whose first line encrypts the keys; default: ask.",
)


@click.group()
def backup() -> None:
    """Copy a cluster while it works, and make an empty one from a copy."""


@backup.command()
@_directory
@click.option("--keys", "with_keys", is_flag=True, help="Copy the keys and the configuration too, encrypted.")
@_passphrase
@click.option("--unsigned", is_flag=True, help="Do not sign it: the registrar's key is not here.")
@json_option
@pass_session
def create(
    session: Session, directory: Path, with_keys: bool, passphrase_file: Path | None, unsigned: bool, as_json: bool
) -> None:
    """Write a back-up into the new directory DIRECTORY, signed with the registrar's key."""
    from attestream.backup.keys import collect
    from attestream.signing import Signer

    place = installed(session)
    signer = None if unsigned else Signer.load(place.service_key(Role.REGISTRAR))
    files = collect(place.directory, KEPT) if with_keys else []
    passphrase = _read_passphrase(passphrase_file, confirm=True) if with_keys else ""

    async def work() -> Manifest:
        from attestream.backup import procedure

        async with _parts(session, place, Role.BACKUP) as (bus, stores):
            return await procedure.create(
                bus,
                stores,
                directory,
                now=time.time_ns() // 1_000_000,
                key_files=files,
                passphrase=passphrase,
                signer=signer,
                tell=_teller(as_json),
            )

    manifest = complete(work())
    if as_json:
        output.write_json(_told(manifest))


@backup.command()
@_directory
@_unsigned
@json_option
@pass_session
def check(session: Session, directory: Path, unsigned: bool, as_json: bool) -> None:
    """See whether the back-up in DIRECTORY is whole, and whether a registrar of the installation has signed it."""
    from attestream.backup.contents import open_backup

    manifest = open_backup(directory, None if unsigned else _roster(installed(session)))
    if as_json:
        output.write_json(_told(manifest))
        return
    for entry in manifest.entries:
        _teller(as_json)(entry)
    click.echo(f"made at {_moment(manifest)}{'; nobody was asked who made it' if unsigned else ', and signed'}")


@backup.command()
@_directory
@_passphrase
@json_option
@pass_session
def keys(session: Session, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Put the keys and the configuration of the back-up in DIRECTORY into the data directory."""
    from attestream.backup import contents
    from attestream.backup import keys as sealed

    # Whose keys these are is what the passphrase shows; the roster that vouches for the rest is among them.
    manifest = contents.open_backup(directory, None)
    entry = next((entry for entry in manifest.entries if entry.kind == "keys"), None)
    if entry is None:
        raise ConfigError(f"the back-up in {directory} holds no keys")
    target = session.directory()
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty, and nothing is overwritten", remedy="Choose another --data-dir.")
    if entry.size > sealed.MAX_FILE_BYTES:
        raise MalformedError(f"{directory / entry.file} is larger than keys can be")
    with contents.reading(directory, entry) as part:
        data = part.read()
    files = sealed.unseal(data, _read_passphrase(passphrase_file, confirm=False))
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = sealed.put_back(files, target)
    if as_json:
        output.write_json({"made": [str(path) for path in made]})
        return
    click.echo(f"put {len(made)} files back into {target}")


@backup.command()
@_directory
@click.option(
    "--replicas", type=click.IntRange(0, 5), default=0, help="Servers that keep each stream; default: as many as before."
)
@_unsigned
@json_option
@pass_session
def restore(session: Session, directory: Path, replicas: int, unsigned: bool, as_json: bool) -> None:
    """Make an empty cluster what the back-up in DIRECTORY was. Every service must be stopped.

    A registrar of the installation must have signed the back-up.
    """
    from attestream.backup.contents import open_backup

    place = installed(session)
    manifest = open_backup(directory, None if unsigned else _roster(place))

    async def work() -> None:
        from attestream.backup import procedure
        from attestream.database import migrate

        async with _parts(session, place, Role.RESTORER) as (bus, stores):
            for store in stores:
                await migrate(store.engine, f"services.{store.service}.migrations")
            await procedure.restore(bus, stores, directory, manifest, replicas=replicas, tell=_teller(as_json))

    complete(work())
    if as_json:
        output.write_json(_told(manifest))
    else:
        click.echo(f"restored what there was at {_moment(manifest)}; start the services now")


def _roster(place: Installation) -> Roster:
    from attestream.installation.roster import load_roster

    return load_roster(place)


@asynccontextmanager
async def _parts(session: Session, place: Installation, role: Role) -> AsyncIterator[tuple[Bus, list[Database]]]:
    """Yield a connection as ``role`` and the databases; the installation's own bus is started when it does not run."""
    from attestream import config
    from attestream.backup.procedure import Database
    from attestream.database import open_engine

    loaded = config.load(place.config_file, session.environment)
    async with AsyncExitStack() as stack:
        urls = await _running_bus(session, place, loaded, stack)
        stores = []
        for service in SERVICES:
            settings = getattr(loaded, service)
            engine = open_engine(settings.database_url, password_file=settings.database_password_file)
            stack.push_async_callback(engine.dispose)
            stores.append(Database(service, engine))
        bus = await _connect(place, loaded, urls, role, stack)
        yield bus, stores


async def _running_bus(session: Session, place: Installation, loaded: Config, stack: AsyncExitStack) -> list[str]:
    named = session.url or session.environment.get(URL_VARIABLE, "")
    from attestream.installation.places import locked, running_bus

    if named or running_bus(place) is not None or not _is_own(loaded.bus.urls):
        return session.urls()
    from attestream.embedded.stack import bus_server

    stack.enter_context(locked(place))
    server = bus_server(place, port=0, insecure=loaded.trust.unsigned)
    server.start()
    stack.callback(server.stop)
    return [server.local_url]


def _is_own(urls: list[str]) -> bool:
    """Tell whether these are what an installation begins with: one server on this machine."""
    from urllib.parse import urlsplit

    return len(urls) == 1 and urlsplit(urls[0]).hostname in ("127.0.0.1", "localhost", "::1")


async def _connect(place: Installation, loaded: Config, urls: list[str], role: Role, stack: AsyncExitStack) -> Bus:
    from attestream.bus.connection import BusSettings, connect
    from attestream.bus.encryption import Encryption

    credentials = None
    if not loaded.trust.unsigned:
        from attestream.installation.bus_keys import issue, write_credentials

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attestream-")))
        credentials = folder / f"{role}.creds"
        now = int(time.time())
        write_credentials(issue(place, role, str(role), now=now, expires_at=now + IDENTITY_S), credentials)
    settings = BusSettings(
        urls=urls,
        name=str(role),
        credentials=credentials,
        encryption=Encryption(ca_file=loaded.bus.ca_file),
    )
    bus = await connect(settings)
    stack.push_async_callback(bus.close)
    return bus


def _read_passphrase(path: Path | None, *, confirm: bool) -> str:
    if path is None:
        return str(click.prompt("Passphrase for the keys", hide_input=True, confirmation_prompt=confirm))
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_MAX_PASSPHRASE).partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the passphrase file {path} can not be read: {error}") from error


def _moment(manifest: Manifest) -> str:
    return datetime.fromtimestamp(manifest.at / 1000, UTC).isoformat(timespec="seconds")


def _teller(as_json: bool) -> Any:
    def tell(entry: Entry) -> None:
        if not as_json:
            click.echo(f"{entry.file:<28} {entry.items:>10} {_UNITS[entry.kind]}, {entry.size:,} bytes")

    return tell


_UNITS: Final = {"stream": "messages", "rows": "rows", "keys": "files"}


def _told(manifest: Manifest) -> dict[str, Any]:
    entries = [
        {"kind": entry.kind, "name": entry.name, "items": entry.items, "size": entry.size} for entry in manifest.entries
    ]
    return {"at": manifest.at, "version": manifest.version, "entries": entries}
