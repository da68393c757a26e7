"""Making a backup of a running cluster, and making an empty cluster from it.

The order is what makes a backup of a running cluster whole. Databases come first, because rows may be behind the events
but never ahead of them; commands come before events, and events before revocations, so that whatever one stream hands to
the next is in one of the two copies. Results and evidence are left out: what a machine was said to be then says nothing of
now, and a restored cluster knows nobody as trusted until it has asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from attestream import __version__
from attestream.backup import contents, databases, keys, streams
from attestream.backup.contents import Entry, Manifest
from attestream.bus import jetstream, keyvalue
from attestream.bus.jetstream import ApiError
from attestream.errors import ConfigError
from attestream.signing import Signer
from schemas import topology

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

STREAMS: Final = (
    topology.COMMANDS.name,
    topology.EVENTS.name,
    topology.REVOCATIONS.name,
    topology.DEAD.name,
    f"KV_{topology.CLUSTER.name}",
    *(f"OBJ_{name}" for name in topology.OBJECT_BUCKETS),
    topology.ARCHIVE.name,
    topology.ARCHIVE_OBJECTS.name,
)
"""What is kept of the bus, in the order in which it is saved."""

FORGOTTEN: Final = (topology.RESULTS.name, topology.EVIDENCE.name)
"""What a restored cluster must not hold."""

KEYS: Final = "installation"

Tell = Callable[[Entry], None]


class Database(NamedTuple):
    """The database of a service."""

    service: str
    engine: AsyncEngine


async def create(
    bus: Bus,
    stores: Sequence[Database],
    directory: Path,
    *,
    now: int,
    key_files: list[keys.KeyFile],
    passphrase: str,
    signer: Signer | None,
    tell: Tell,
) -> Manifest:
    """Write a backup into the new ``directory``. The cluster goes on working meanwhile.

    ``key_files`` are encrypted under ``passphrase``; none: the backup holds no keys. ``signer`` has the registrar's key;
    without it nobody can tell whose backup it is. ``tell`` hears of each finished file.

    :raises ConfigError: the directory is not empty, or can not be written.
    :raises BusError: the bus does not answer.
    :raises StorageError: a database does not answer.
    """
    contents.start(directory)
    entries: list[Entry] = []

    def done(entry: Entry) -> None:
        entries.append(entry)
        tell(entry)

    if key_files:
        with contents.writing(directory / f"{KEYS}.keys") as file:
            file.write(keys.seal(key_files, passphrase))
        done(Entry(kind="keys", name=KEYS, size=file.size, sha256=file.sha256, items=len(key_files)))
    for store in stores:
        with contents.writing(directory / f"{store.service}.rows") as file:
            rows = await databases.save(store.engine, store.service, file)
        done(Entry(kind="rows", name=store.service, size=file.size, sha256=file.sha256, items=rows))
    for stream in STREAMS:
        with contents.writing(directory / f"{stream}.stream") as file:
            snapshot = await streams.save(bus, stream, file)
        about = {"config": snapshot.config, "state": snapshot.state}
        done(Entry(kind="stream", name=stream, size=file.size, sha256=file.sha256, items=snapshot.messages, about=about))
    manifest = Manifest(format=contents.FORMAT, version=__version__, at=now, entries=entries)
    contents.finish(directory, manifest, signer)
    return manifest


async def restore(
    bus: Bus, stores: Sequence[Database], directory: Path, manifest: Manifest, *, tell: Tell, replicas: int = 0
) -> None:
    """Make an empty cluster what the backup in ``directory`` was, which :func:`attestream.backup.contents.open_backup` has
    found whole. No service may be running.

    :raises ConfigError: the cluster is not empty, a worker is alive, or a part is missing from the backup.
    :raises MalformedError: a file has become another one, or holds what it can not.
    :raises BusError: the bus does not answer.
    :raises StorageError: a database does not answer.
    """
    rows = {entry.name: entry for entry in manifest.entries if entry.kind == "rows"}
    saved = {entry.name: entry for entry in manifest.entries if entry.kind == "stream"}
    missing = [name for name in STREAMS if name not in saved] + [s.service for s in stores if s.service not in rows]
    if missing:
        raise ConfigError(f"the backup in {directory} lacks {', '.join(missing)}")
    await _check_empty(bus)
    for store in stores:
        entry = rows[store.service]
        await databases.load(store.engine, store.service, contents.reading(directory, entry))
        tell(entry)
    for stream in (*STREAMS, *FORGOTTEN):
        await _remove(bus, stream)
    for stream in STREAMS:
        entry = saved[stream]
        snapshot = streams.Snapshot(config=entry.about["config"], state=entry.about["state"])
        # The server makes the stream when it has everything, which it does not get when the file turns out to be another.
        await streams.load(bus, stream, snapshot, contents.blocks(directory, entry), replicas=replicas)
        tell(entry)


async def _check_empty(bus: Bus) -> None:
    heartbeats = await _information(bus, f"KV_{topology.WORKERS.name}")
    alive = await keyvalue.entries(bus, topology.WORKERS.name) if heartbeats else {}
    if alive:
        raise ConfigError(
            f"verifier workers are alive: {', '.join(sorted(alive))}", remedy="Stop every service before a restore."
        )
    for stream in (topology.COMMANDS, topology.EVENTS, topology.REVOCATIONS):
        found = await _information(bus, stream.name)
        if found and found["state"]["last_seq"]:
            raise ConfigError(
                f"the cluster is not empty: {stream.name} has held messages",
                remedy="Restore into a cluster that was just initialised; nothing is overwritten.",
            )


async def _information(bus: Bus, stream: str) -> dict[str, Any]:
    """Return what the server tells of ``stream``; nothing when there is none."""
    try:
        return await jetstream.call(bus, f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.err_code != jetstream.STREAM_NOT_FOUND:
            raise
        return {}


async def _remove(bus: Bus, stream: str) -> None:
    try:
        await jetstream.call(bus, f"STREAM.DELETE.{stream}")
    except ApiError as error:
        if error.err_code != jetstream.STREAM_NOT_FOUND:
            raise
