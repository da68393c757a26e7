"""Bringing the streams and buckets of :mod:`schemas.topology` into being, and into line, and waiting until they are.

With credentials, only the provisioner may make streams; services see to it that they find what they were written for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attestream.bus import jetstream, keyvalue
from attestream.bus.jetstream import ApiError, nanoseconds
from attestream.bus.settings import BusSettings
from attestream.errors import BusError, ConfigError, FencedError
from schemas import subjects, topology
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

READY_S: Final = 30.0
"""How long a service waits for the provisioner, in seconds."""

_LOG: Final = logging.getLogger(__name__)
_BUCKET_DUPLICATES_S: Final = 30
_LOOK_S: Final = 0.2


async def prepare(
    bus: Bus, *, sizes: Mapping[str, int] | None = None, ages: Mapping[str, int] | None = None, timeout_s: float = READY_S
) -> None:
    """See to it that a service finds its streams: on an insecure bus make them, else wait for those of the provisioner.

    :raises ConfigError: the cluster is of another version or number of partitions.
    :raises BusError: the bus refuses or does not answer, or the streams are still missing after ``timeout_s`` seconds.
    """
    if bus.holder is None or bus.holder.role is Role.PROVISIONER:
        await ensure_topology(bus, sizes=sizes, ages=ages)
    else:
        await topology_ready(bus, timeout_s=timeout_s)


async def provision(
    settings: BusSettings,
    *,
    replicas: int = 1,
    sizes: Mapping[str, int] | None = None,
    ages: Mapping[str, int] | None = None,
) -> None:
    """Connect with the provisioner's credentials in ``settings``, and make the streams or bring them into line.

    :raises ConfigError: the credentials are those of another role, or as :func:`ensure_topology` says.
    :raises BusError: the bus can not be reached, refuses, or does not answer.
    """
    from attestream.bus.connection import connect  # which imports what imports this module's neighbours

    bus = await connect(settings)
    try:
        if bus.holder is not None and bus.holder.role is not Role.PROVISIONER:
            raise ConfigError(
                f"these are the credentials of {bus.holder.role} {bus.holder.name}, who may not make streams",
                remedy="Name those of the provisioner: DIR/credentials/provisioner.creds.",
            )
        await ensure_topology(bus, replicas=replicas, sizes=sizes, ages=ages)
    finally:
        await bus.close()


async def topology_ready(bus: Bus, *, timeout_s: float = READY_S) -> None:
    """Wait until the provisioner has made every stream and bucket.

    :raises ConfigError: the cluster is of a newer version, or has another number of partitions.
    :raises BusError: something is missing, or of an older version, after ``timeout_s`` seconds.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    told = False
    while True:
        missing = await _missing(bus)
        if not missing:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise BusError(
                f"the bus is not provisioned: {missing}",
                remedy="Run `attestream provision`; `attestream up` does it itself.",
            )
        if not told:
            _LOG.warning("waiting for the bus to be provisioned: %s", missing)
            told = True
        await asyncio.sleep(_LOOK_S)


async def _missing(bus: Bus) -> str:
    """Return what is missing or of an older version; empty when nothing is."""
    names = [stream.name for stream in topology.STREAMS]
    names += [f"KV_{bucket.name}" for bucket in topology.BUCKETS]
    names += [f"OBJ_{name}" for name in topology.OBJECT_BUCKETS]
    for name in names:
        try:
            answer = await jetstream.call(bus, f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.err_code != jetstream.STREAM_NOT_FOUND:
                raise
            return f"there is no {name}"
        noted = (answer["config"].get("metadata") or {}).get(topology.NOTE_VERSION, "")
        version = int(noted) if noted.isdigit() else 0
        if version > topology.VERSION:
            raise ConfigError(
                f"{name} was made by a newer version of Attestream (topology {version}, here {topology.VERSION})",
                remedy="Upgrade this service.",
            )
        if version < topology.VERSION:
            return f"{name} is of an older version"
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_PARTITIONS)
    if entry is None:
        return "its number of partitions is not set"
    _check_partitions(entry.value)
    return ""


async def ensure_topology(
    bus: Bus, *, replicas: int = 1, sizes: Mapping[str, int] | None = None, ages: Mapping[str, int] | None = None
) -> None:
    """Create what is missing, and change what differs from its declaration. Any number of services may do so at once.

    ``replicas`` is for what is created; more than a stream has raises its number, fewer leaves it as it is. ``sizes`` are
    bytes by stream, from ``[limits]``, and ``ages`` seconds by stream, from ``[retention]``, 0 for ever; without them
    streams that exist keep what they have.

    :raises ConfigError: the cluster was initialised with another number of partitions, or the server has no room for streams
        of these sizes.
    :raises BusError: the server refuses, or does not answer.
    """
    configs = [
        stream_config(stream, (sizes or {}).get(stream.name, 0), (ages or {}).get(stream.name))
        for stream in topology.STREAMS
    ]
    configs += [bucket_config(bucket) for bucket in topology.BUCKETS]
    configs += [object_config(name) for name in topology.OBJECT_BUCKETS]
    # What nobody has chosen stays as it is where there is a stream.
    kept = [name for name, chosen in (("max_bytes", sizes), ("max_age", ages)) if chosen is None]
    try:
        await asyncio.gather(*(_ensure(bus, config, replicas, kept) for config in configs))
    except ApiError as error:
        if error.err_code not in jetstream.NO_ROOM:
            raise
        total = sum(config.get("max_bytes", 0) for config in configs)
        raise ConfigError(
            f"the bus has no room for its streams, which may hold {total >> 20} MiB together: {error.message}",
            remedy="Make the streams smaller in `[limits]`, or raise the storage limit of the account or of nats-server.",
        ) from error
    await _ensure_partitions(bus)


def stream_config(stream: topology.Stream, max_bytes: int = 0, max_age_s: int | None = None) -> dict[str, Any]:
    """Return a stream's configuration as the JetStream API writes it; ``max_bytes`` 0 is its declared size, ``max_age_s``
    ``None`` its declared age.
    """
    config = _base(stream.name, stream.doc, stream.subjects)
    config["retention"] = "workqueue" if stream.work_queue else "limits"
    config["max_age"] = nanoseconds(stream.max_age_s if max_age_s is None else max_age_s)
    config["max_bytes"] = max_bytes or stream.max_bytes or -1
    config["max_msg_size"] = stream.max_message_bytes or -1
    config["max_msgs_per_subject"] = 1 if stream.last_per_subject else stream.max_per_subject or -1
    config["discard"] = "new" if stream.refuses_when_full else "old"
    if stream.refuses_when_full and stream.max_per_subject:
        config["discard_new_per_subject"] = True
    config["duplicate_window"] = nanoseconds(stream.duplicate_window_s)
    config["deny_delete"] = stream.deny_delete
    if stream.transform is not None:
        config["subject_transform"] = {"src": stream.transform.source, "dest": stream.transform.target}
    if stream.republish is not None:
        config["republish"] = {"src": stream.republish.source, "dest": stream.republish.target}
    return config | _lifetimes(message_ttl=stream.message_ttl, marker_ttl_s=stream.marker_ttl_s)


def bucket_config(bucket: topology.Bucket) -> dict[str, Any]:
    """Return the configuration of the stream behind a key-value bucket, such that any NATS client can read the bucket."""
    config = _base(f"KV_{bucket.name}", bucket.doc, [f"$KV.{bucket.name}.>"])
    config |= {
        "retention": "limits",
        "storage": "memory" if bucket.in_memory else "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "duplicate_window": nanoseconds(_BUCKET_DUPLICATES_S),
        # A roll-up of one key may name the whole bucket: whoever may write one key could remove all.
        "allow_rollup_hdrs": False,
        "deny_delete": True,
    }
    return config | _lifetimes(message_ttl=bucket.message_ttl, marker_ttl_s=bucket.marker_ttl_s)


def object_config(name: str) -> dict[str, Any]:
    """Return the configuration of the stream behind an object bucket."""
    config = _base(f"OBJ_{name}", "Objects, each named by its SHA-256.", [f"$O.{name}.C.>", f"$O.{name}.M.>"])
    return config | {"retention": "limits", "discard": "new", "allow_rollup_hdrs": False}


def _base(name: str, doc: str, subjects_: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "description": doc,
        "subjects": subjects_,
        "storage": "file",
        "allow_direct": True,
        "metadata": {topology.NOTE_VERSION: str(topology.VERSION)},
    }


def _lifetimes(*, message_ttl: bool, marker_ttl_s: int) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if message_ttl:
        config["allow_msg_ttl"] = True
    if marker_ttl_s:
        # The server sets this one itself with delete markers; declaring it keeps the comparison true.
        config |= {"subject_delete_marker_ttl": nanoseconds(marker_ttl_s), "allow_rollup_hdrs": True}
    return config


async def _ensure(bus: Bus, config: dict[str, Any], replicas: int, kept: Sequence[str]) -> None:
    name = config["name"]
    try:
        answer = await jetstream.call(bus, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != jetstream.STREAM_NOT_FOUND:
            raise
        try:
            await jetstream.call(bus, f"STREAM.CREATE.{name}", config | {"num_replicas": replicas})
        except ApiError as refusal:
            # Another service of another version may have been quicker.
            if refusal.err_code != jetstream.STREAM_EXISTS:
                raise
            answer = await jetstream.call(bus, f"STREAM.INFO.{name}")
        else:
            return
    existing: dict[str, Any] = answer["config"]
    config = config | {name: existing[name] for name in kept if name in config and name in existing}
    wanted = existing | config | {"num_replicas": max(replicas, existing.get("num_replicas", 1))}
    # The server notes things of its own there; and where a stream is stored can not be changed.
    wanted |= {"metadata": (existing.get("metadata") or {}) | config["metadata"], "storage": existing["storage"]}
    if wanted != existing:
        await jetstream.call(bus, f"STREAM.UPDATE.{name}", wanted)


async def _ensure_partitions(bus: Bus) -> None:
    wanted = str(subjects.PARTITIONS)
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_PARTITIONS)
    if entry is None:
        try:
            await keyvalue.put(bus, topology.CLUSTER.name, topology.KEY_PARTITIONS, wanted.encode(), expected=0)
        except FencedError:
            entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_PARTITIONS)
    if entry is not None:
        _check_partitions(entry.value)


def _check_partitions(value: bytes) -> None:
    if value != str(subjects.PARTITIONS).encode():
        raise ConfigError(
            f"this cluster has {value[:20].decode('ascii', 'replace')} partitions and this version of Attestream works "
            f"with {subjects.PARTITIONS}",
            remedy="Run the version that the cluster was initialised with, or start with a fresh bus.",
        )
