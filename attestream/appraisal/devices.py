"""Appraisal of device mapper events: each against the policy and against what was done to the device before."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from attestream.appraisal.device_policy import DevicePolicy, DeviceRule, Reference
from attestream.errors import MalformedError
from attestream.ima.device_mapper import CLEAR, LOAD, REMOVE, RENAME, RESUME, DeviceEvent, Target, Value, parse_event
from attestream.ima.digests import HASHLIB_NAMES, digest_text, split_digest

MAX_DEVICES: Final = 128
"""Devices of one attester."""


class Device(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A device whose table was loaded."""

    key: str
    """Its name or UUID, whichever the policy matches on."""
    rule: str
    table: str
    """Digest of the load event as ``algorithm:hex``; a resume names the table by it."""
    active: bool = False
    """Whether it was resumed."""
    valid: bool = False
    """Whether it is in use as its rule wants it."""


class Reason(enum.Enum):
    """In which way an event is not allowed; the value is the code of the finding."""

    MALFORMED = "runtime.device-event"
    ALTERED = "runtime.buffer-altered"
    LOADED_AGAIN = "runtime.device-loaded"
    NO_RULE = "runtime.device-unknown"
    DEVICE_FIELD = "runtime.device-field"
    TARGET_COUNT = "runtime.device-targets"
    TARGET_FIELD = "runtime.device-target"
    TARGET_FIELD_UNKNOWN = "runtime.device-target-unknown"
    TARGET_INVALID = "runtime.device-target-invalid"
    NOT_LOADED = "runtime.device-order"
    ALREADY_ACTIVE = "runtime.device-active"
    OTHER_TABLE = "runtime.device-table"
    CLEARED = "runtime.device-cleared"
    REMOVED = "runtime.device-removed"
    NEW_NAME = "runtime.device-name"
    NEW_UUID = "runtime.device-uuid"
    PENDING = "runtime.device-pending"
    REQUIRED = "runtime.device-required"


class Breach(NamedTuple):
    """An event, or a state, that the policy does not allow."""

    reason: Reason
    event: str
    """Name of the event; empty for a state."""
    culprit: str
    """Key of the device, or name of the rule that lacks one."""
    message: str

    @property
    def blamed(self) -> str:
        """The culprit of the finding: the event, then the device, for example ``dm_device_resume of root``."""
        if not self.event or not self.culprit or self.culprit == self.event:
            return self.culprit or self.event
        return f"{self.event} of {self.culprit}"


def appraise_event(
    event: str, digest: bytes, data: bytes, policy: DevicePolicy, devices: Mapping[str, Device]
) -> tuple[list[Breach], Mapping[str, Device]]:
    """Return what is wrong with an event, and the devices after it.

    :param event: name of the measured buffer.
    :param digest: of the buffer, as field ``d-ng``.
    """
    try:
        parsed = parse_event(event, data)
    except MalformedError as error:
        return [Breach(Reason.MALFORMED, event, event, f"The event can not be read: {error.message}.")], devices
    found: list[Breach] = []
    algorithm, value = split_digest(digest)
    name = HASHLIB_NAMES.get(algorithm)
    if name is None or hashlib.new(name, data, usedforsecurity=False).digest() != value:
        found.append(Breach(Reason.ALTERED, event, event, ""))
    after = dict(devices)
    found += _Judge(parsed, policy, after).run(digest_text(digest))
    return found, after


def appraise_devices(policy: DevicePolicy, devices: Mapping[str, Device]) -> list[Breach]:
    """Return what is wrong with the devices at the end of a log: not yet resumed, or required and not in use."""
    found = [
        Breach(Reason.PENDING, "", device.key, f"Device {device.key} was loaded by rule {device.rule} and is not in use.")
        for device in devices.values()
        if not device.valid
    ]
    used = {device.rule for device in devices.values() if device.valid}
    found += [
        Breach(Reason.REQUIRED, "", rule.name, f"No device is in use that rule {rule.name} requires.")
        for rule in policy.rules.values()
        if rule.required and rule.name not in used
    ]
    return found


class _Judge:
    """Judges one event; what it makes of the devices is written into ``devices``."""

    def __init__(self, event: DeviceEvent, policy: DevicePolicy, devices: dict[str, Device]) -> None:
        self._event = event
        self._policy = policy
        self._devices = devices
        self._key = str(event.device[policy.match_on])

    def run(self, digest: str) -> list[Breach]:
        kind = self._event.event
        if kind == LOAD:
            return list(self._load(digest))
        device = self._devices.get(self._key)
        if device is None:
            return [self._breach(Reason.NOT_LOADED, "its table was never loaded")]
        rule = self._policy.rules.get(device.rule)
        if rule is None:
            return [self._breach(Reason.NO_RULE, f"the policy has no rule {device.rule}")]
        judge = {RESUME: self._resume, REMOVE: self._remove, CLEAR: self._clear, RENAME: self._rename}.get(
            kind, self._update
        )
        return list(judge(device, rule))

    def _load(self, digest: str) -> Iterator[Breach]:
        known = self._devices.get(self._key)
        before = self._policy.rules.get(known.rule) if known is not None else None
        if known is not None and (before is None or not before.allow_again):
            yield self._breach(Reason.LOADED_AGAIN, "its table was loaded before")
            return
        match_on = self._policy.match_on
        rule = next((rule for rule in self._policy.rules.values() if rule.device[match_on].allows(self._key)), None)
        if rule is None or (known is None and len(self._devices) >= MAX_DEVICES):
            yield self._breach(Reason.NO_RULE, "no rule matches it" if rule is None else f"it is one of over {MAX_DEVICES}")
            return
        for field, reference in rule.device.items():
            if not reference.allows(self._event.device[field]):
                yield self._breach(Reason.DEVICE_FIELD, f"its {field} is {self._event.device[field]!r}")
                return
        count = len(self._event.targets)
        if self._event.device["num_targets"] != count or len(rule.targets) != count:
            yield self._breach(Reason.TARGET_COUNT, f"its table has {count} targets; {len(rule.targets)} are allowed")
            return
        for target, references in zip(self._event.targets, rule.targets, strict=True):
            yield from self._target(target, references)
        self._devices[self._key] = Device(self._key, rule.name, digest, valid=not rule.resume_required)

    def _resume(self, device: Device, rule: DeviceRule) -> Iterator[Breach]:  # noqa: ARG002  # called like the others
        if device.active:
            self._set(device, valid=False)
            yield self._breach(Reason.ALREADY_ACTIVE, "it was resumed before")
        elif device.table != self._event.table:
            self._set(device, valid=False)
            yield self._breach(Reason.OTHER_TABLE, f"it was resumed with table {self._event.table}, not {device.table}")
        else:
            self._set(device, active=True, valid=True)

    def _remove(self, device: Device, rule: DeviceRule) -> Iterator[Breach]:
        if rule.allow_removal:
            del self._devices[device.key]
        else:
            self._set(device, valid=False)
            yield self._breach(Reason.REMOVED, "it was removed")

    def _clear(self, device: Device, rule: DeviceRule) -> Iterator[Breach]:
        if not rule.allow_clear:
            self._set(device, valid=False)
            yield self._breach(Reason.CLEARED, "its table was cleared")

    def _rename(self, device: Device, rule: DeviceRule) -> Iterator[Breach]:
        event = self._event
        changes = (
            ("name", event.new_name, rule.new_name, Reason.NEW_NAME),
            ("uuid", event.new_uuid, rule.new_uuid, Reason.NEW_UUID),
        )
        for field, new, reference, reason in changes:
            if event.device[field] == new:
                continue
            if not reference.allows(new):
                device = self._set(device, valid=False)
                yield self._breach(reason, f"its {field} was changed to {new!r}")
            elif field == self._policy.match_on:
                del self._devices[device.key]
                device = msgspec.structs.replace(device, key=new)
                self._devices[new] = device

    def _update(self, device: Device, rule: DeviceRule) -> Iterator[Breach]:  # noqa: ARG002  # called like the others
        target = self._event.targets[0]
        index = target.fields["target_index"]
        if not isinstance(index, int) or index >= len(rule.targets):
            yield self._breach(Reason.TARGET_COUNT, f"target {index} was updated; its table has {len(rule.targets)}")
            return
        yield from self._target(target, rule.targets[index])

    def _target(self, target: Target, references: Mapping[str, Reference]) -> Iterator[Breach]:
        wrong = False
        for name, reference in references.items():
            values: Mapping[str, Value] = target.fields if name in target.fields else target.attributes
            if name not in values:
                yield self._breach(Reason.TARGET_FIELD_UNKNOWN, f"its target has no {name}")
            elif not reference.allows(values[name]):
                wrong = True
                yield self._breach(Reason.TARGET_FIELD, f"the {name} of its target is {values[name]!r}")
        if wrong:
            yield self._breach(Reason.TARGET_INVALID, "a target of its table is not the one that the policy has")

    def _set(self, device: Device, *, valid: bool, active: bool | None = None) -> Device:
        changed = msgspec.structs.replace(device, valid=valid, active=device.active if active is None else active)
        self._devices[device.key] = changed
        return changed

    def _breach(self, reason: Reason, why: str) -> Breach:
        return Breach(
            reason, self._event.event, self._key, f"Device {self._key or '(no name)'}, {self._event.event}: {why}."
        )
