"""Policy for devices of the device mapper: which tables may be loaded, and what may be done to them afterwards.

The part ``runtime.device_mapper`` of a policy document::

    {"match_on": "name",
     "rules": {"root": {"required": true, "resume_required": true, "allow_clear": false, "allow_removal": false,
                        "rename": {"name": false, "uuid": false},
                        "load": {"allow_again": false, "name": "root", "uuid": "CRYPT-VERITY-.*", "major": 253, "minor": 0,
                                 "minor_count": 1, "num_targets": 1,
                                 "targets": [{"target_name": "verity", "root_digest": "<hex>"}]}}}}

A reference value is null (anything), a number, true or false, or an RE2 expression that must match the whole value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from attestream.appraisal.document import MAX_EXPRESSION, check_keys, check_object, choice, expression, shown, truth
from attestream.errors import PolicyError
from attestream.ima.device_mapper import MAX_TARGETS, Value

MAX_RULES: Final = 256
DEVICE_FIELDS: Final = ("name", "uuid", "major", "minor", "minor_count", "num_targets")

_WORDS: Final = {
    **dict.fromkeys(("y", "yes", "t", "true", "on", "1"), True),
    **dict.fromkeys(("n", "no", "f", "false", "off", "0"), False),
}
_INTEGER: Final = re.compile(r"[0-9]{1,20}")


class Reference(NamedTuple):
    """What an attribute must be."""

    wanted: int | bool | None
    """A number, true or false; None with no expression either: anything."""
    expression: Any = None
    """An RE2 expression for the whole value."""

    def allows(self, value: Value) -> bool:
        """Return whether ``value`` is allowed. An attribute that the event lacks is allowed only by "anything"."""
        if self.expression is not None:
            return value is not None and self.expression.fullmatch(str(value)) is not None
        if self.wanted is None:
            return True
        if isinstance(self.wanted, bool):
            known = _WORDS.get(value.lower()) if isinstance(value, str) else value
            return known is not None and known == self.wanted
        if isinstance(value, str):
            return _INTEGER.fullmatch(value) is not None and int(value) == self.wanted
        return value == self.wanted


class DeviceRule(NamedTuple):
    """What is allowed for the devices that it matches."""

    name: str
    required: bool
    """Whether such a device must be in use."""
    resume_required: bool
    """Whether a loaded device counts as in use only when it has been resumed."""
    allow_clear: bool
    allow_removal: bool
    allow_again: bool
    """Whether a table may be loaded again."""
    new_name: Reference
    new_uuid: Reference
    device: Mapping[str, Reference]
    targets: tuple[Mapping[str, Reference], ...]


class DevicePolicy(NamedTuple):
    """Rules, of which the first that matches a device's name or UUID counts."""

    match_on: str
    rules: Mapping[str, DeviceRule]


def compile_devices(value: Any, place: str) -> DevicePolicy:
    """Return the policy in ``value``.

    :raises PolicyError: when it is not valid; the message names the place.
    """
    check_keys(value, place, {"match_on", "rules"}, set())
    match_on = choice(value["match_on"], f"{place}.match_on", ("name", "uuid"))
    rules = check_object(value["rules"], f"{place}.rules")
    if not 1 <= len(rules) <= MAX_RULES:
        raise PolicyError(f"{place}.rules: must have 1 to {MAX_RULES} rules")
    made = {name: _rule(name, rule, f"{place}.rules[{shown(name)}]") for name, rule in rules.items()}
    for name, rule in made.items():
        if rule.device[match_on].expression is None:
            raise PolicyError(f"{place}.rules[{shown(name)}].load.{match_on}: must be an expression, to match devices with")
    return DevicePolicy(match_on, made)


def _rule(name: str, value: Any, place: str) -> DeviceRule:
    flags = ("required", "resume_required", "allow_clear", "allow_removal")
    check_keys(value, place, {*flags, "rename", "load"}, set())
    required, resume_required, allow_clear, allow_removal = (truth(value[flag], f"{place}.{flag}") for flag in flags)
    check_keys(value["rename"], f"{place}.rename", {"name", "uuid"}, set())
    load = value["load"]
    check_keys(load, f"{place}.load", {"allow_again", *DEVICE_FIELDS, "targets"}, set())
    targets = load["targets"]
    if not isinstance(targets, list) or len(targets) > MAX_TARGETS:
        raise PolicyError(f"{place}.load.targets: must be a list of at most {MAX_TARGETS} targets")
    return DeviceRule(
        name,
        required,
        resume_required,
        allow_clear,
        allow_removal,
        truth(load["allow_again"], f"{place}.load.allow_again"),
        _reference(value["rename"]["name"], f"{place}.rename.name"),
        _reference(value["rename"]["uuid"], f"{place}.rename.uuid"),
        {field: _reference(load[field], f"{place}.load.{field}") for field in DEVICE_FIELDS},
        tuple(_target(target, f"{place}.load.targets[{number}]") for number, target in enumerate(targets)),
    )


def _target(value: Any, place: str) -> Mapping[str, Reference]:
    return {key: _reference(item, f"{place}.{key}") for key, item in check_object(value, place).items()}


def _reference(value: Any, place: str) -> Reference:
    if value is None or isinstance(value, int):
        return Reference(value)
    if not isinstance(value, str) or len(value) > MAX_EXPRESSION:
        raise PolicyError(f"{place}: must be null, a number, true, false or an expression, not {shown(value)}")
    return Reference(None, expression(value, place))
