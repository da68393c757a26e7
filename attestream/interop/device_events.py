"""Event ids of the device mapper, which are made of the event and of what is wrong with it."""

from __future__ import annotations

from typing import Final

from attestream.appraisal.devices import Breach, Reason

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


def device_event_id(breach: Breach) -> str:
    """Return the event id of ``breach``."""
    if breach.reason in _WHOLE:
        return f"{PREFIX}.{_WHOLE[breach.reason]}"
    if breach.reason is Reason.NOT_LOADED:
        return f"{PREFIX}.{breach.event}.{_VERBS[breach.event]}_before_table_load"
    return f"{PREFIX}.{breach.event}.{_BY_EVENT[breach.reason]}"
