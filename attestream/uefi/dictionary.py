"""The dictionary form of an event log: what ``tpm2_eventlog --eventlog-version=2`` of tpm2-tools 5.4 prints as YAML.

Boot policies and reference states of the field are written against this form. Names, types of numbers and the decoding
of events are the tool's; two things are added that its users add: device paths of image loads as text, and strings
without the tool's escapes. Where the tool warns and goes on with half a decoded event, this refuses.
"""

from __future__ import annotations

from typing import Any, Final

from attestream.errors import TooLargeError
from attestream.uefi.contents import event_contents
from attestream.uefi.forms import NO_FORMS, Forms
from attestream.uefi.kinds import NAMES
from attestream.uefi.log import Event, EventLog
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay_as_printed

FORM_VERSION: Final = 2
MAX_DESCRIBED: Final = 8192
_ALGORITHM_NAMES: Final = {
    0x0004: "sha1",
    0x000B: "sha256",
    0x000C: "sha384",
    0x000D: "sha512",
    0x0012: "sm3_256",
    0x0027: "sha3_256",
    0x0028: "sha3_384",
    0x0029: "sha3_512",
}
_KIND_NAMES: Final = {kind: NAMES[kind] for kind in (*range(0x13), *range(0x80000001, 0x8000000D), 0x800000E0)}
"""Event type -> name, of those that the tool knows."""
_UNKNOWN_ALGORITHM: Final = "(null)"
_UNKNOWN_KIND: Final = "Unknown event type"


def to_dictionary(log: bytes) -> dict[str, Any]:
    """Return the dictionary form of ``log``: ``version``, ``events`` and ``pcrs``.

    ``pcrs`` maps bank -> PCR index -> value as a number, computed as the tool does: every event is extended, from zero.
    It equals :func:`attestream.uefi.replay.replay` unless the log has EV_NO_ACTION events or a startup locality.

    :raises TooLargeError: when the log is over the bounds of :func:`attestream.uefi.parser.parse_log` or 8,192 events.
    :raises MalformedError: when the log, or an event that the form decodes, is malformed. Padding is not known here:
        zeros behind the last event are events without digests, and 0xFF are an error.
    """
    return describe(parse_log(log, padded=False))


def describe(parsed: EventLog) -> dict[str, Any]:
    """Return the dictionary form of a parsed log.

    :raises TooLargeError: over 8,192 events: in this form an event takes a kilobyte or more.
    :raises MalformedError: when an event that the form decodes is malformed.
    """
    check_describable(parsed)
    events = [] if parsed.header is None else [describe_header(parsed, parsed.header)]
    events += map(describe_event, parsed.events)
    pcrs = {
        bank: {pcr: int.from_bytes(value, "big") for pcr, value in sorted(values.items())}
        for bank, values in replay_as_printed(parsed).items()
        if values
    }
    return {"version": FORM_VERSION, "events": events, "pcrs": pcrs or None}


def check_describable(parsed: EventLog) -> None:
    """Check that a log is not too large for its dictionary form.

    :raises TooLargeError: when it is.
    """
    if len(parsed.events) > MAX_DESCRIBED:
        raise TooLargeError(f"the event log has {len(parsed.events)} events; at most {MAX_DESCRIBED} can be described")


def describe_header(parsed: EventLog, event: Event) -> dict[str, Any]:
    """Return the dictionary form of ``event``, the header of the crypto-agile log ``parsed``."""
    spec_id = parsed.spec_id
    described: dict[str, Any] = {
        "EventNum": 0,
        "PCRIndex": event.pcr,
        "EventType": _kind(event.kind),
        "Digest": event.digests[0][1].hex(),
        "EventSize": len(event.data),
    }
    if spec_id is not None:
        fields: dict[str, Any] = {
            "Signature": spec_id.signature,
            "platformClass": spec_id.platform_class,
            "specVersionMinor": spec_id.version_minor,
            "specVersionMajor": spec_id.version_major,
            "specErrata": spec_id.errata,
            "uintnSize": spec_id.uintn_size,
            "numberOfAlgorithms": len(spec_id.algorithms),
            "Algorithms": [
                {f"Algorithm[{place}]": None, "algorithmId": _algorithm(algorithm), "digestSize": size}
                for place, (algorithm, size) in enumerate(spec_id.algorithms)
            ],
            "vendorInfoSize": len(spec_id.vendor_info),
        }
        if spec_id.vendor_info:
            fields["vendorInfo"] = spec_id.vendor_info.hex()
        described["SpecID"] = [fields]
    return described


def describe_event(event: Event, only: int | None = None, forms: Forms = NO_FORMS) -> dict[str, Any]:
    """Return the dictionary form of ``event``.

    :param only: TPM_ALG_ID of the bank whose digests are shown; all are without it.
    :param forms: of signatures, of :func:`attestream.uefi.forms.prepared_forms`; they only save time.
    :raises MalformedError: when its data is not what the event type says.
    """
    shown = []
    for algorithm, value in event.digests:
        if only is None or algorithm == only:
            shown.append({"AlgorithmId": _ALGORITHM_NAMES.get(algorithm, _UNKNOWN_ALGORITHM), "Digest": value.hex()})
    described: dict[str, Any] = {
        "EventNum": event.number,
        "PCRIndex": event.pcr,
        "EventType": _KIND_NAMES.get(event.kind, _UNKNOWN_KIND),
        "DigestCount": len(shown),
        "Digests": shown or None,
        "EventSize": len(event.data),
    }
    if event.data:
        described["Event"] = event_contents(event, forms)
    return described


def _kind(kind: int) -> str:
    return _KIND_NAMES.get(kind, _UNKNOWN_KIND)


def _algorithm(algorithm: int) -> str:
    return _ALGORITHM_NAMES.get(algorithm, _UNKNOWN_ALGORITHM)
