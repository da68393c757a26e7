import itertools

import pytest

from attestream.appraisal.devices import Breach, Reason
from attestream.appraisal.findings import FINDINGS, finding
from attestream.interop.device_events import device_event_id
from attestream.interop.events import EVENTS, NOT_APPLICABLE, event_id, event_ids, is_recoverable

THEIRS = """
qoute_validation: invalid_data no_pubkey invalid_hash_alg invalid_enc_alg invalid_sign_alg invalid_ima_entry_nb
qoute_validation: quote_validation invalid_quote
pcr_validation: invalid_pcr_<n> missing_pcr_<n> unused_pcr_10 unused_pcr_<n> missing_pcrs invalid_mb_policy
pcr_validation: invalid_measured_boot_evaluate
measured_boot: invalid_pcr_<n> missing_pcrs policy_<name>
measured_boot.parser: invalid_pcrs invalid_pcrs_hashes invalid_boot_aggregates log.base64decode tpm2_eventlog.error yaml
measured_boot.parser: bootlog_enrich
ima: pcr_mismatch quote_progress parser.entry invalid_key
ima.validation: ima_pcr tomtou ima_hash no_validator
ima.validation.ima-ng: not_in_allowlist runtime_policy_hash
ima.validator.ima-sig: invalid_signature
ima.validation.dm: invalid_data invalid_event_type parsing_failed device_invalid_state required_policy_not_in_use
ima.validation.dm.dm_table_load: multiple_table_loads no_matching_policy invalid_entry num_targets_mismatch
ima.validation.dm.dm_table_load: target_data_mismatch target_attribute_not_found target_data_invalid
ima.validation.dm.dm_table_clear: clear_before_table_load table_cleared
ima.validation.dm.dm_target_update: update_before_table_load
ima.validation.dm.dm_device_remove: remove_before_table_load device_removed
ima.validation.dm.dm_device_resume: resume_before_table_load already_active active_table_mismatch
ima.validation.dm.dm_device_rename: rename_before_table_load new_name_invalid new_uuid_invalid
internal.verifier: not_reachable not_reachable_v no_quote no_v version_not_supported exception
default: missing_param missing_policy
tee_attestation: missing_param invalid.tee invalid_input vcek_fetch invalid_public_key invalid_signature
tee_attestation: freshness_hash_failed
"""
"""Every event id of Keylime 7.14, from its failure taxonomy."""

ROWS = [line.partition(": ") for line in THEIRS.split("\n") if line]
ALL = {f"{component}.{event}" for component, _, events in ROWS for event in events.split()}
DEVICE_EVENTS = ("dm_device_resume", "dm_device_remove", "dm_table_clear", "dm_device_rename", "dm_target_update")


def reachable():
    of_devices = {device_event_id(Reason.NOT_LOADED, event) for event in DEVICE_EVENTS}
    return {*EVENTS.values(), *of_devices}


def test_every_finding_is_an_event_of_theirs():
    assert EVENTS.keys() == FINDINGS.keys()
    assert set(EVENTS.values()) <= ALL


def test_every_event_of_theirs_is_reachable_or_has_a_reason_why_not():
    assert reachable() | NOT_APPLICABLE.keys() == ALL
    assert reachable() & NOT_APPLICABLE.keys() == set()
    assert all(reason.endswith(".") for reason in NOT_APPLICABLE.values())


def test_a_device_event_is_the_same_by_either_way():
    for reason, event in itertools.product(Reason, DEVICE_EVENTS):
        if reason is not Reason.NOT_LOADED and EVENTS[reason.value].split(".")[-2] in (event, "dm"):
            assert device_event_id(reason, event) == EVENTS[reason.value]


def test_the_event_of_a_device_is_told_by_the_culprit():
    for reason, event in itertools.product(Reason, DEVICE_EVENTS):
        breach = Breach(reason, event, "dm_table_load of (root)", "")
        assert event_id(finding(reason.value, breach.blamed)) == device_event_id(reason, event)
    assert event_id(finding("runtime.device-order", "dm_device_rename of a")) == (
        "ima.validation.dm.dm_device_rename.rename_before_table_load"
    )
    # A state has no event, and a device is not taken for one.
    assert event_id(finding("runtime.device-required", Breach(Reason.REQUIRED, "", "rule", "").blamed)).endswith("_in_use")
    assert event_id(finding("runtime.device-pending", "dm_crypt-0")) == "ima.validation.dm.device_invalid_state"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finding("boot.pcr-value", "PCR 7"), "pcr_validation.invalid_pcr_7"),
        (finding("identity.binding-missing", "PCR 16"), "pcr_validation.missing_pcr_16"),
        (finding("identity.transport-key"), "pcr_validation.invalid_pcr_16"),
        (finding("boot.policy", "EV_EFI_BOOT"), "measured_boot.policy_example"),
        (finding("runtime.path-unknown", "/bin/7"), "ima.validation.ima-ng.not_in_allowlist"),
    ],
)
def test_an_event_names_its_pcr_or_policy(found, expected):
    assert event_id(found, policy_name="example") == expected


def test_what_does_not_end_trust_is_no_event():
    found = [finding("quote.rebooted"), finding("runtime.violation", "/x"), finding("quote.clock")]
    assert event_ids(found) == ["qoute_validation.quote_validation"]


def test_only_what_stopped_the_checks_is_irrecoverable():
    irrecoverable = {event for event in ALL if not is_recoverable(event)}
    assert {event.split(".")[0] for event in irrecoverable} == {"qoute_validation", "internal", "default", "tee_attestation"}
    assert is_recoverable("measured_boot.policy_x")
