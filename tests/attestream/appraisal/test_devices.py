"""Device mapper events against policies; the events are of the kernel's documentation (dm-ima.rst)."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.device_policy import Reference, compile_devices
from attestream.appraisal.devices import MAX_DEVICES, Reason, appraise_devices, appraise_event
from attestream.errors import AttestreamError, MalformedError, PolicyError
from attestream.ima.device_mapper import EVENTS, parse_event
from attestream.ima.digests import digest_field, digest_text

DEVICE = "name=root,uuid=CRYPT-VERITY-1,major=253,minor=0,minor_count=1,num_targets=1;"
LINEAR = "target_index=0,target_begin=0,target_len=8,target_name=linear,target_version=1.4.0,device_name=7:0,start=0;"
LOAD = f"dm_version=4.45.0;{DEVICE}{LINEAR}"
END = "current_device_capacity=8;"


def rule(**changes):
    load = {
        "allow_again": False,
        "name": "root.*",
        "uuid": "CRYPT-VERITY-.*",
        "major": 253,
        "minor": 0,
        "minor_count": 1,
        "num_targets": 1,
        "targets": [{"target_name": "linear", "target_len": 8, "start": "0", "device_name": None}],
    }
    made = {
        "required": True,
        "resume_required": True,
        "allow_clear": False,
        "allow_removal": False,
        "rename": {"name": "root2", "uuid": False},
        "load": {**load, **changes.pop("load", {})},
    }
    return {**made, **changes}


def policy(match_on="name", **changes):
    return compile_devices({"match_on": match_on, "rules": {"root": rule(**changes)}}, "devices")


def digest(data):
    return digest_field("sha256", hashlib.sha256(data).digest())


def resume(load=LOAD):
    return f"dm_version=4.45.0;{DEVICE}active_table_hash={digest_text(digest(load.encode()))};{END}"


def judged(compiled, *events):
    """Return the reasons that the events give in order, and the devices after them."""
    devices = {}
    found = []
    for name, text in events:
        data = text.encode()
        breaches, devices = appraise_event(name, digest(data), data, compiled, devices)
        found += [breach.reason for breach in breaches]
    return found, devices


LOADED = ("dm_table_load", LOAD)
RESUMED = ("dm_device_resume", resume())


def test_device_that_is_set_up_as_its_rule_wants():
    compiled = policy()
    found, devices = judged(compiled, LOADED)
    assert (found, [breach.reason for breach in appraise_devices(compiled, devices)]) == (
        [],
        [Reason.PENDING, Reason.REQUIRED],
    )

    found, devices = judged(compiled, LOADED, RESUMED)
    assert (found, appraise_devices(compiled, devices)) == ([], [])


def test_required_device_that_never_came():
    assert [breach.reason for breach in appraise_devices(policy(), {})] == [Reason.REQUIRED]
    assert appraise_devices(policy(required=False), {}) == []


REMOVE = f"dm_version=4.45.0;device_active_metadata={DEVICE}active_table_hash=sha256:00,remove_all=n;{END}"
CLEAR = f"dm_version=4.45.0;{DEVICE}inactive_table_hash=sha256:00;{END}"
CLEAR_EMPTY = f"dm_version=4.45.0;name=root,uuid=CRYPT-VERITY-1;table_clear=no_data;{END}"
RENAME = f"dm_version=4.45.0;{DEVICE}new_name=%s,new_uuid=%s;{END}"


@pytest.mark.parametrize(
    ("changes", "events", "expected"),
    [
        ({}, [LOADED, LOADED], [Reason.LOADED_AGAIN]),
        ({"load": {"allow_again": True}}, [LOADED, LOADED, RESUMED], []),
        ({}, [RESUMED], [Reason.NOT_LOADED]),
        ({}, [LOADED, RESUMED, RESUMED], [Reason.ALREADY_ACTIVE]),
        ({}, [LOADED, ("dm_device_resume", resume("other"))], [Reason.OTHER_TABLE]),
        ({"load": {"name": "home"}}, [LOADED], [Reason.NO_RULE]),
        ({"load": {"major": 254}}, [LOADED], [Reason.DEVICE_FIELD]),
        ({"load": {"targets": []}}, [LOADED], [Reason.TARGET_COUNT]),
        ({"load": {"targets": [{"start": "9"}]}}, [LOADED], [Reason.TARGET_FIELD, Reason.TARGET_INVALID]),
        ({"load": {"targets": [{"root_digest": "x"}]}}, [LOADED], [Reason.TARGET_FIELD_UNKNOWN]),
        ({}, [LOADED, ("dm_device_remove", REMOVE)], [Reason.REMOVED]),
        ({"allow_removal": True}, [LOADED, ("dm_device_remove", REMOVE), RESUMED], [Reason.NOT_LOADED]),
        ({}, [LOADED, ("dm_table_clear", CLEAR)], [Reason.CLEARED]),
        ({"allow_clear": True}, [LOADED, ("dm_table_clear", CLEAR_EMPTY), RESUMED], []),
        ({}, [LOADED, ("dm_device_rename", RENAME % ("root3", "CRYPT-VERITY-1"))], [Reason.NEW_NAME]),
        ({}, [LOADED, ("dm_device_rename", RENAME % ("root", "other"))], [Reason.NEW_UUID]),
        ({}, [LOADED, ("dm_device_rename", RENAME % ("root2", "CRYPT-VERITY-1")), RESUMED], [Reason.NOT_LOADED]),
        ({}, [LOADED, ("dm_target_update", LOAD)], []),
        (
            {},
            [LOADED, ("dm_target_update", LOAD.replace("start=0", "start=1"))],
            [Reason.TARGET_FIELD, Reason.TARGET_INVALID],
        ),
        ({}, [LOADED, ("dm_target_update", LOAD.replace("target_index=0", "target_index=7"))], [Reason.TARGET_COUNT]),
        ({}, [("dm_table_load", "dm_version=4.45.0;")], [Reason.MALFORMED]),
    ],
)
def test_what_is_done_to_a_device(changes, events, expected):
    assert judged(policy(**changes), *events)[0] == expected


def test_renamed_device_is_known_by_its_new_uuid():
    """Matched by UUID, a device must not be found under its new name."""
    compiled = policy("uuid", rename={"name": True, "uuid": "CRYPT-VERITY-2"}, allow_removal=True)

    found, devices = judged(compiled, LOADED, ("dm_device_rename", RENAME % ("root", "CRYPT-VERITY-2")))

    assert (found, list(devices)) == ([], ["CRYPT-VERITY-2"])


def test_event_whose_bytes_do_not_have_its_digest():
    breaches, _ = appraise_event("dm_table_load", digest(b"other"), LOAD.encode(), policy(), {})

    assert [breach.reason for breach in breaches] == [Reason.ALTERED]


def test_devices_are_bounded():
    compiled = policy(load={"name": ".*"})
    events = [("dm_table_load", LOAD.replace("name=root,", f"name=root{n},")) for n in range(MAX_DEVICES + 1)]

    found, devices = judged(compiled, *events)

    assert (found, len(devices)) == ([Reason.NO_RULE], MAX_DEVICES)


TARGETS = [
    (
        "hash_failed=V,verity_version=1,data_device_name=253:1,hash_device_name=253:0,verity_algorithm=sha256,root_digest=29cb,"
        "salt=5bbc,ignore_zero_blocks=n,check_at_most_once=n"
    ),
    (
        "hash_failed=C,verity_version=1,data_device_name=253:1,hash_device_name=253:0,verity_algorithm=sha256,root_digest=29cb,"
        "salt=5bbc,ignore_zero_blocks=n,check_at_most_once=y,root_hash_sig_key_desc=x,verity_mode=panic_on_corruption"
    ),
    (
        "metadata_mode=rw,cache_metadata_device=253:4,cache_device=253:3,cache_origin_device=253:5,writethrough=y,writeback=n,"
        "passthrough=n,metadata2=y,no_discard_passdown=n"
    ),
    (
        "allow_discards=y,same_cpu_crypt=n,submit_from_crypt_cpus=n,no_read_workqueue=n,no_write_workqueue=n,"
        "iv_large_sectors=n,cipher_string=aes-xts-plain64,key_size=32,key_parts=1,key_extra_size=0,key_mac_size=0"
    ),
    (
        "dev_name=253:1,start=0,tag_size=32,mode=J,recalculate=n,allow_discards=n,fix_padding=n,fix_hmac=n,"
        "legacy_recalculate=n,journal_sectors=88,interleave_sectors=32768,buffer_sectors=128"
    ),
    "device_name=7:2,start=0",
    "snap_origin_name=253:2,snap_cow_name=253:4,snap_valid=y,snap_merge_failed=n,snapshot_overflowed=n",
    (
        "nr_mirrors=2,mirror_device_0=253:16,mirror_device_0_status=A,mirror_device_1=253:17,mirror_device_1_status=A,"
        "handle_errors=y,keep_log=n,log_type_status="
    ),
]


@pytest.mark.parametrize("attributes", TARGETS)
def test_targets_of_the_kernels_documentation(attributes):
    head = "target_index=0,target_begin=0,target_len=1953792,target_name=t,target_version=1.8.0"
    event = parse_event("dm_table_load", f"dm_version=4.45.0;{DEVICE}{head},{attributes};".encode())
    given_values = dict(field.split("=") for field in attributes.split(","))

    assert {name: str(value) for name, value in event.targets[0].attributes.items() if value is not None} == given_values


@pytest.mark.parametrize(
    "text",
    [
        LOAD[:-1],
        LOAD + "x",
        LOAD.replace("uuid=", "uuid=a,uuid="),
        LOAD.replace("major=253", "major=x"),
        LOAD.replace("major=253,", ""),
        LOAD.replace("name=root", "name="),
        LOAD.replace("name=root", "name=ro ot"),
        LOAD.replace("name=root", "name=ro\x00ot"),
        LOAD.replace("device_name=7:0,", ""),
        LOAD.replace("1.4.0", "1.4"),
        LOAD.replace("dm_version=4.45.0;", ""),
        LOAD.replace("start=0", "start=0,more=1"),
        "é" + LOAD,
    ],
)
def test_malformed_events(text):
    with pytest.raises(MalformedError):
        parse_event("dm_table_load", text.encode())


def test_zeros_between_parts_are_the_kernels_padding():
    assert parse_event("dm_table_load", LOAD.replace(";", "\x00\x00;").encode()) == parse_event(
        "dm_table_load", LOAD.encode()
    )


@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_changed_events_are_read_or_refused(event, data):
    text = data.draw(st.sampled_from([LOAD, resume(), REMOVE, CLEAR, RENAME % ("a", "")]))
    at = data.draw(st.integers(0, len(text)))
    changed = (
        text[:at] + data.draw(st.sampled_from(["", ";", ",", "=", "\x00", "x"])) + text[at + data.draw(st.integers(0, 3)) :]
    )
    try:
        parse_event(event, changed.encode())
    except AttestreamError:
        return


@pytest.mark.parametrize(
    ("wanted", "value", "allowed"),
    [
        (None, "x", True),
        (None, None, True),
        (7, 7, True),
        (7, "7", True),
        (7, "7x", False),
        (7, None, False),
        (True, "y", True),
        (True, "n", False),
        (False, "n", True),
        (True, "maybe", False),
        (True, 1, True),
    ],
)
def test_reference_values(wanted, value, allowed):
    assert Reference(wanted).allows(value) is allowed


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda doc: doc.update(match_on="size"), "devices.match_on"),
        (lambda doc: doc.update(rules={}), "devices.rules"),
        (lambda doc: doc["rules"]["r"].update(required=1), "devices.rules['r'].required"),
        (lambda doc: doc["rules"]["r"].pop("load"), "devices.rules['r']"),
        (lambda doc: doc["rules"]["r"]["load"].update(name=None), "devices.rules['r'].load.name"),
        (lambda doc: doc["rules"]["r"]["load"].update(name="("), "devices.rules['r'].load.name"),
        (lambda doc: doc["rules"]["r"]["load"].update(targets={}), "devices.rules['r'].load.targets"),
        (lambda doc: doc["rules"]["r"]["load"]["targets"][0].update(start=1.5), "devices.rules['r'].load.targets[0].start"),
        (lambda doc: doc["rules"]["r"]["rename"].update(uuid=[]), "devices.rules['r'].rename.uuid"),
    ],
)
def test_what_is_not_valid_is_named(change, place):
    document = {"match_on": "name", "rules": {"r": json.loads(json.dumps(rule()))}}
    change(document)

    with pytest.raises(PolicyError) as caught:
        compile_devices(document, "devices")

    assert caught.value.message.startswith(place)
