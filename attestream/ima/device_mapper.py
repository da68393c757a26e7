"""Events of the device mapper, which the kernel measures as ``ima-buf`` entries named after the event.

Source: Linux ``Documentation/admin-guide/device-mapper/dm-ima.rst`` (the grammar) and ``drivers/md/dm-ima.c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from attestream.errors import MalformedError

LOAD: Final = "dm_table_load"
RESUME: Final = "dm_device_resume"
REMOVE: Final = "dm_device_remove"
CLEAR: Final = "dm_table_clear"
RENAME: Final = "dm_device_rename"
UPDATE: Final = "dm_target_update"
EVENTS: Final = frozenset({LOAD, RESUME, REMOVE, CLEAR, RENAME, UPDATE})
"""Names of the measured buffers."""

MAX_TARGETS: Final = 1024

Value = str | int | None
"""Of an attribute; None for one that may be left out and was."""

_TEXT: Final = re.compile(r"[A-Za-z0-9\-:_.+@#]+")
_VERSION: Final = re.compile(r"[0-9]{1,10}\.[0-9]{1,10}\.[0-9]{1,10}")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_YES_NO: Final = re.compile(r"[yn]")
_ANY: Final = re.compile(r"(?:[A-Za-z0-9\-:_.+@#]+)?")
_KINDS: Final = {"text": _TEXT, "version": _VERSION, "number": _NUMBER, "flag": _YES_NO, "any": _ANY}

_DEVICE: Final = "name uuid:any major:number minor:number minor_count:number num_targets:number"
_TARGET: Final = "target_index:number target_begin:number target_len:number target_name target_version:version"
_ATTRIBUTES: Final = (
    (
        "hash_failed verity_version:number data_device_name hash_device_name verity_algorithm root_digest salt "
        "ignore_zero_blocks:flag check_at_most_once:flag root_hash_sig_key_desc? verity_mode?"
    ),
    (
        "metadata_mode cache_metadata_device cache_device cache_origin_device writethrough:flag writeback:flag "
        "passthrough:flag metadata2:flag no_discard_passdown:flag"
    ),
    (
        "allow_discards:flag same_cpu_crypt:flag submit_from_crypt_cpus:flag no_read_workqueue:flag no_write_workqueue:flag "
        "iv_large_sectors:flag integrity_tag_size:number? cipher_auth? sector_size:number? cipher_string? key_size:number "
        "key_parts:number key_extra_size:number key_mac_size:number"
    ),
    (
        "dev_name start:number tag_size:number mode meta_device? block_size? recalculate:flag allow_discards:flag "
        "fix_padding:flag fix_hmac:flag legacy_recalculate:flag journal_sectors:number interleave_sectors:number "
        "buffer_sectors:number"
    ),
    "device_name start",
    "snap_origin_name snap_cow_name snap_valid:flag snap_merge_failed:flag snapshot_overflowed:flag",
)
_MIRROR_END: Final = "handle_errors:flag keep_log:flag log_type_status:any"
_MIRRORS: Final = "nr_mirrors"

_Spec = tuple[tuple[str, str, bool], ...]


class Target(msgspec.Struct, frozen=True):
    """One target of a device's table."""

    fields: Mapping[str, Value]
    """``target_index``, ``target_begin``, ``target_len``, ``target_name``, ``target_version``."""
    attributes: Mapping[str, Value]
    """What this kind of target has besides."""


class DeviceEvent(msgspec.Struct, frozen=True):
    """A parsed event."""

    event: str
    device: Mapping[str, Value]
    """``name``, ``uuid``, and unless the kernel had none, ``major``, ``minor``, ``minor_count``, ``num_targets``."""
    targets: tuple[Target, ...] = ()
    table: str = ""
    """Digest of the active table as ``algorithm:hex``, in a resume."""
    new_name: str = ""
    new_uuid: str = ""


def parse_event(event: str, data: bytes) -> DeviceEvent:
    """Return the event in a measured buffer.

    :param event: name of the buffer, one of :data:`EVENTS`.
    :raises MalformedError: when it is not as documented.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError("a device mapper event is ASCII text") from error
    # Where there is no table the kernel leaves NULs between the parts.
    parts = [part.strip("\x00") for part in text.split(";")]
    if parts.pop() or len(parts) < 3:
        raise MalformedError("a device mapper event is parts that each end in a semicolon")
    _fields(parts[0], _spec("dm_version:version"))
    parse = {LOAD: _load, RESUME: _resume, REMOVE: _remove, CLEAR: _clear, RENAME: _rename, UPDATE: _update}.get(event)
    if parse is None:
        raise MalformedError(f"{event[:64]!r} is not a device mapper event")
    return parse(parts[1:])


def _load(parts: list[str]) -> DeviceEvent:
    if len(parts) > MAX_TARGETS + 1:
        raise MalformedError(f"a table has more than {MAX_TARGETS} targets")
    return DeviceEvent(LOAD, _fields(parts[0], _DEVICE_SPEC), tuple(_target(part) for part in parts[1:]))


def _update(parts: list[str]) -> DeviceEvent:
    _expect(parts, 2)
    return DeviceEvent(UPDATE, _fields(parts[0], _DEVICE_SPEC), (_target(parts[1]),))


def _resume(parts: list[str]) -> DeviceEvent:
    _expect(parts, 3)
    _capacity(parts[2])
    table = _fields(parts[1], _spec("active_table_hash"))["active_table_hash"]
    return DeviceEvent(RESUME, _fields(parts[0], _DEVICE_SPEC), table=str(table))


def _rename(parts: list[str]) -> DeviceEvent:
    _expect(parts, 3)
    _capacity(parts[2])
    new = _fields(parts[1], _spec("new_name new_uuid:any"))
    device = _fields(parts[0], _DEVICE_SPEC)
    return DeviceEvent(RENAME, device, new_name=str(new["new_name"]), new_uuid=str(new["new_uuid"]))


def _clear(parts: list[str]) -> DeviceEvent:
    _expect(parts, 3)
    _capacity(parts[2])
    if parts[1] == "table_clear=no_data":
        return DeviceEvent(CLEAR, _fields(parts[0], _spec("name uuid:any")))
    _fields(parts[1], _spec("inactive_table_hash"))
    return DeviceEvent(CLEAR, _fields(parts[0], _DEVICE_SPEC))


def _remove(parts: list[str]) -> DeviceEvent:
    """The device is described by its active table, its inactive one, or both in this order."""
    _capacity(parts.pop())
    tables = [name for name in ("active", "inactive") if parts and parts[0].startswith(f"device_{name}_metadata=")]
    if len(parts) == 4:
        tables = ["active", "inactive"]
    if not tables or len(parts) != 2 * len(tables):
        raise MalformedError("a removal names a device's active or inactive table, or both")
    devices = []
    for name, part in zip(tables, parts, strict=False):
        prefix = f"device_{name}_metadata="
        if not part.startswith(prefix):
            raise MalformedError(f"{prefix} is missing in a removal")
        devices.append(_fields(part.removeprefix(prefix), _DEVICE_SPEC))
    hashes = [f"{name}_table_hash" for name in tables]
    _fields(",".join(parts[len(tables) :]), _spec(" ".join((*hashes, "remove_all"))))
    return DeviceEvent(REMOVE, devices[0])


def _target(part: str) -> Target:
    fields = part.split(",")
    head, rest = ",".join(fields[:5]), fields[5:]
    first = rest[0].partition("=")[0].strip("\x00") if rest else ""
    if first == _MIRRORS:
        return Target(_fields(head, _TARGET_SPEC), _mirror(rest))
    spec = _BY_FIRST.get(first)
    if spec is None:
        raise MalformedError("a target has attributes of no known kind of target")
    return Target(_fields(head, _TARGET_SPEC), _fields(",".join(rest), spec))


def _mirror(fields: list[str]) -> Mapping[str, Value]:
    """A mirror lists its devices, each with its status, between its other attributes."""
    devices = fields[1:-3]
    if len(devices) < 2 or len(devices) % 2:
        raise MalformedError("a mirror target lists devices and their status")
    names = [name for number in range(len(devices) // 2) for name in _mirror_device(devices[2 * number], number)]
    return _fields(",".join(fields), _spec(" ".join(("nr_mirrors:number", *names, _MIRROR_END))))


def _mirror_device(field: str, number: int) -> tuple[str, str]:
    name = field.partition("=")[0].strip("\x00")
    if not re.fullmatch(r"mirror_device_[0-9]{1,10}", name):
        raise MalformedError(f"device {number} of a mirror target has no name")
    return name, f"{name}_status"


def _capacity(part: str) -> None:
    _fields(part, _spec("current_device_capacity:number"))


def _expect(parts: list[str], count: int) -> None:
    if len(parts) != count:
        raise MalformedError(f"a device mapper event has {len(parts)} parts where {count} belong")


def _fields(text: str, spec: _Spec) -> dict[str, Value]:
    """Return the values of ``key=value,key=value``, which must be those of ``spec`` in its order."""
    given = [field.strip("\x00").partition("=") for field in text.split(",")]
    made: dict[str, Value] = {}
    at = 0
    for name, kind, optional in spec:
        if at < len(given) and given[at][0] == name:
            value = given[at][2]
            if not _KINDS[kind].fullmatch(value):
                raise MalformedError(f"{name} of a device mapper event is not a {kind}")
            made[name] = int(value) if kind == "number" else value
            at += 1
        elif optional:
            made[name] = None
        else:
            raise MalformedError(f"{name} is missing in a device mapper event")
    if at != len(given):
        raise MalformedError(f"a device mapper event has {len(given) - at} fields too many")
    return made


def _spec(text: str) -> _Spec:
    """Return what ``name:kind?`` items say; the kind is text when it is not given, a question mark makes it optional."""
    items = []
    for item in text.split(" "):
        name, _, kind = item.rstrip("?").partition(":")
        items.append((name, kind or "text", item.endswith("?")))
    return tuple(items)


_DEVICE_SPEC: Final = _spec(_DEVICE)
_TARGET_SPEC: Final = _spec(_TARGET)
_BY_FIRST: Final = {spec[0][0]: spec for spec in map(_spec, _ATTRIBUTES)}
"""Kinds of targets by the name of their first attribute."""
