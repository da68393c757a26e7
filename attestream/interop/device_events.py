"""Event ids of the device mapper, which are made of the event and of what is wrong with it."""

from __future__ import annotations

from typing import Final

from attestream.appraisal.devices import Reason
from attestream.ima.device_mapper import EVENTS

PREFIX: Final = "ima.validation.dm"

_VERBS: Final = {
    "dm_device_resume": "resume",
    "dm_device_remove": "remove",
    "dm_table_clear": "clear",
    "dm_device_rename": "rename",
    "dm_target_update": "update",
}
_WHOLE: Final = {
    Reason.MALFORMED: "parsing_failed",
    Reason.ALTERED: "invalid_data",
    Reason.PENDING: "device_invalid_state",
    Reason.REQUIRED: "required_policy_not_in_use",
}
_BY_EVENT: Final = {
    Reason.LOADED_AGAIN: "multiple_table_loads",
    Reason.NO_RULE: "no_matching_policy",
    Reason.DEVICE_FIELD: "invalid_entry",
    Reason.TARGET_COUNT: "num_targets_mismatch",
    Reason.TARGET_FIELD: "target_data_mismatch",
    Reason.TARGET_FIELD_UNKNOWN: "target_attribute_not_found",
    Reason.TARGET_INVALID: "target_data_invalid",
    Reason.ALREADY_ACTIVE: "already_active",
    Reason.OTHER_TABLE: "active_table_mismatch",
    Reason.CLEARED: "table_cleared",
    Reason.REMOVED: "device_removed",
    Reason.NEW_NAME: "new_name_invalid",
    Reason.NEW_UUID: "new_uuid_invalid",
}


def device_event_id(reason: Reason, event: str) -> str:
    """Return the event id of what was done to a device by the device mapper event ``event``; of a state it is empty."""
    if reason in _WHOLE:
        return f"{PREFIX}.{_WHOLE[reason]}"
    if reason is Reason.NOT_LOADED:
        return f"{PREFIX}.{event}.{_VERBS[event]}_before_table_load"
    return f"{PREFIX}.{event}.{_BY_EVENT[reason]}"


def blamed_event(culprit: str) -> str:
    """Return the event that the culprit of a finding about a device names; empty when it names none."""
    # The event stands first: whatever a device is called, it can not pose as another event.
    event = culprit.partition(" ")[0]
    return event if event in EVENTS else ""
