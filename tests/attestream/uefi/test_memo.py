"""What events say is remembered across machines: it makes no difference but to the time, and it is bounded."""

import json

import pytest

from attestream.appraisal.boot import proven_dictionary
from attestream.uefi import kinds
from attestream.uefi.claims import draw_claims
from attestream.uefi.guid import GLOBAL_VARIABLE
from attestream.uefi.memo import MAX_EVENT_BYTES, EventMemo
from attestream.uefi.parser import parse_log
from devtools.boot_log import BootLog, variable
from devtools.grub_boot import grub_boot


def quoted(log):
    return {pcr: log.pcrs["sha256"].get(pcr, bytes(32)) for pcr in range(16)}


def fleet():
    """Logs of machines that have much in common, but not the place of each event."""
    return [
        grub_boot(),
        grub_boot(commands=("insmod gzio", "insmod part_gpt")),
        grub_boot(command_line="(hd0,gpt2)/vmlinuz root=UUID=2"),
        grub_boot(),
    ]


def test_claims_and_form_are_the_same_whoever_was_seen_before():
    memo = EventMemo()
    for log in fleet() * 2:
        parsed, values = parse_log(bytes(log)), quoted(log)
        assert draw_claims(parsed, "sha256", values, known=memo.recall(parsed.events, "sha256")) == draw_claims(
            parsed, "sha256", values
        )
        form = proven_dictionary(parsed, "sha256", values, memo.recall(parsed.events, "sha256"))
        assert json.dumps(form) == json.dumps(proven_dictionary(parsed, "sha256", values))
        assert repr(form) == repr(proven_dictionary(parsed, "sha256", values))


def test_an_event_that_was_proven_in_one_log_is_not_believed_in_another():
    memo = EventMemo()
    good = BootLog()
    good.add(1, kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0"))
    bad = BootLog()
    bad.add(1, kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0"), measured=b"something else")
    for log in (good, good, bad):
        parsed = parse_log(bytes(log))
        claims = draw_claims(parsed, "sha256", quoted(log), known=memo.recall(parsed.events, "sha256"))
    assert (claims.claims, [rejected.event for rejected in claims.rejected]) == ((), [1])


def test_events_of_the_same_digest_and_other_data_are_told_apart():
    memo = EventMemo()
    for name in "aabbaaab":
        log = BootLog()
        log.add(9, kinds.IPL, f"file {name}".encode(), measured=b"content")
        parsed, values = parse_log(bytes(log)), quoted(log)
        known = memo.recall(parsed.events, "sha256")
        assert draw_claims(parsed, "sha256", values, known=known).claims[0].name == f"file {name}"
        form = proven_dictionary(parsed, "sha256", values, known)
        assert form["events"][-1]["Event"] == {"String": f"file {name}"}
    assert len(memo) == 1


def test_a_second_value_of_a_variable_is_refused_however_often_it_was_seen():
    memo = EventMemo()
    log = BootLog()
    for _ in range(2):
        log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    for _ in range(3):
        parsed = parse_log(bytes(log))
        claims = draw_claims(parsed, "sha256", quoted(log), known=memo.recall(parsed.events, "sha256"))
        assert [rejected.event for rejected in claims.rejected] == [2]


def test_what_is_shared_can_not_be_changed():
    memo = EventMemo()
    parsed, values = parse_log(bytes(grub_boot())), quoted(grub_boot())
    for _ in range(3):
        form = proven_dictionary(parsed, "sha256", values, memo.recall(parsed.events, "sha256"))
    configuration = (event for event in form["events"] if event["EventType"] == "EV_EFI_VARIABLE_DRIVER_CONFIG")
    event = next(event for event in configuration if event["Event"]["UnicodeName"] == "dbx")
    for change in (
        lambda: event["Event"].update(UnicodeName="db"),
        lambda: event["Event"].pop("UnicodeName"),
        lambda: event["Digests"].append({}),
        lambda: event["Digests"].sort(),
        lambda: event["Digests"][0].clear(),
        lambda: event["Event"]["VariableData"][0]["Keys"].append({}),
        lambda: event["Event"]["VariableData"][0]["Keys"][0].clear(),
    ):
        with pytest.raises(TypeError, match="can not be changed"):
            change()


def test_the_memo_is_bounded_and_leaves_out_what_is_large():
    memo = EventMemo(limit=10_000)
    log = BootLog()
    for number in range(500):
        log.add(9, kinds.IPL, f"file {number}\0".encode(), measured=b"content")
    log.add(9, kinds.IPL, b"x" * MAX_EVENT_BYTES, measured=b"content")
    parsed, values = parse_log(bytes(log)), quoted(log)
    for _ in range(3):
        assert len(draw_claims(parsed, "sha256", values, known=memo.recall(parsed.events, "sha256")).claims) == 501
        assert len(proven_dictionary(parsed, "sha256", values, memo.recall(parsed.events, "sha256"))["events"]) == 502
    assert 0 < len(memo) <= 100
