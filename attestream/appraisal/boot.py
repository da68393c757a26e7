"""The boot log: its form in a policy document, and its appraisal.

In a policy document::

    "boot": {"policy": "example", "reference_states": [{...}, {...}], "pcrs": [11], "secure_boot": true, ...}

``policy`` is the name of a boot policy (:mod:`attestream.uefi.policy.policies`). A log is good when it is good by any of the
``reference_states``: so the boot of today and the one after the next update are both allowed. ``pcrs`` are PCRs that must
replay besides those that the policy judges; a policy that judges none has PCRs 0-7, the firmware's, unless they are named.
What else a boot must be like needs no boot policy, see :mod:`attestream.appraisal.boot_expectations`: then ``policy`` is
``accept-all`` unless it is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

from attestream.appraisal.boot_expectations import SETTINGS, STUB_PCR, Expectations, compile_expectations
from attestream.appraisal.boot_judgement import before_phases, judge_expectations
from attestream.appraisal.collector import Collector
from attestream.appraisal.document import check_keys, shown
from attestream.appraisal.text import printable
from attestream.errors import MalformedError, PolicyError
from attestream.uefi.claims import BootClaims, draw_claims
from attestream.uefi.dictionary import FORM_VERSION, check_describable, describe_event, describe_header
from attestream.uefi.forms import NO_FORMS, Forms, prepared_forms
from attestream.uefi.frozen import frozen
from attestream.uefi.kinds import NO_ACTION
from attestream.uefi.log import PCR_COUNT, Event, EventLog
from attestream.uefi.memo import EventMemo, Known
from attestream.uefi.parser import parse_log
from attestream.uefi.policy.logic import Test
from attestream.uefi.policy.policies import BUILT_IN, AcceptAllPolicy, BootPolicy, Judgement, judge
from attestream.uefi.replay import BANK_IDS

IMA_PCR: Final = 10
FIRMWARE_PCRS: Final = frozenset(range(8))
MAX_REFERENCE_STATES: Final = 64
MAX_REASON: Final = 400
"""Characters of a policy's reason that a finding has."""


@dataclass(frozen=True, slots=True)
class BootRules:
    """What a policy document says about the boot log, compiled."""

    name: str
    """Of the boot policy."""
    pcrs: tuple[int, ...]
    """PCRs that must be quoted and be what the log replays to, ascending."""
    judges: bool
    """Whether the policy looks at events; otherwise the log needs only to be right."""
    tests: tuple[Test, ...]
    """One for each reference state."""
    expected: Expectations | None = None
    """What must hold besides."""
    signatures: Forms = NO_FORMS
    """Forms of the signatures in the reference states."""


def compile_boot(value: Any, policies: Mapping[str, BootPolicy] = BUILT_IN, bank: str = "sha256") -> BootRules:
    """Return the rules in the ``boot`` of a policy document.

    :param policies: boot policies by name.
    :param bank: PCR bank of the policy.
    :raises PolicyError: naming the place that is not valid.
    """
    expects = isinstance(value, dict) and bool(value.keys() & SETTINGS)
    optional = {"reference_states", "pcrs", *SETTINGS}
    check_keys(value, "boot", set() if expects else {"policy"}, optional | {"policy"})
    expected = compile_expectations(value, bank)
    name = value.get("policy", AcceptAllPolicy.name)
    policy = policies.get(name) if isinstance(name, str) else None
    if policy is None:
        raise PolicyError(f"boot.policy: must be one of {', '.join(sorted(policies))}, not {shown(name)}")
    states = value.get("reference_states", [])
    if not isinstance(states, list) or len(states) > MAX_REFERENCE_STATES:
        raise PolicyError(f"boot.reference_states: must be a list of at most {MAX_REFERENCE_STATES} reference states")
    if policy.needs_reference and not states:
        raise PolicyError(f"boot.reference_states: the policy {name} needs at least one")
    pcrs = (policy.pcrs or (frozenset() if "pcrs" in value else FIRMWARE_PCRS)) | _pcrs(value.get("pcrs", []))
    pcrs |= expected.pcrs if expected is not None else frozenset()
    if not pcrs:
        raise PolicyError("boot.pcrs: needs at least one PCR; a log that no PCR proves says nothing")
    return BootRules(
        name=policy.name,
        pcrs=tuple(sorted(pcrs)),
        judges=bool(policy.pcrs),
        tests=tuple(_test(policy, state, number) for number, state in enumerate(states or [{}])),
        expected=expected,
        signatures=prepared_forms(variable for state in states for variable in policy.signatures(state)),
    )


def _test(policy: BootPolicy, state: Any, number: int) -> Test:
    try:
        return policy.test_for(state)
    except PolicyError as error:
        raise PolicyError(f"boot.reference_states[{number}]: {printable(error.message, MAX_REASON)}") from error


def _pcrs(value: Any) -> set[int]:
    if not isinstance(value, list) or len(value) > PCR_COUNT:
        raise PolicyError(f"boot.pcrs: must be a list of PCRs from 0 to {PCR_COUNT - 1}")
    for pcr in value:
        if type(pcr) is not int or not 0 <= pcr < PCR_COUNT or pcr == IMA_PCR:
            raise PolicyError(
                f"boot.pcrs: {shown(pcr)} is no PCR of the boot; they are 0 to {PCR_COUNT - 1} without {IMA_PCR}"
            )
    return set(value)


def boot_digest(rules: BootRules, quoted: Mapping[int, bytes]) -> bytes:
    """Return the SHA-256 of the PCR values that the boot log must explain: while they stay, the log need not be sent again.

    :raises KeyError: when one is not in ``quoted``.
    """
    return hashlib.sha256(b"".join(len(quoted[pcr]).to_bytes(1, "big") + quoted[pcr] for pcr in rules.pcrs)).digest()


def appraise_boot_log(
    log: bytes,
    quoted: Mapping[int, bytes],
    *,
    bank: str,
    rules: BootRules,
    findings: Collector,
    memo: EventMemo | None = None,
) -> bool:
    """Add to ``findings`` what is wrong with the boot that ``log`` tells of; return whether nothing is.

    The log is replayed first: what it says is read only when the quote proves it, and only as far as it is proven.

    :param quoted: PCR -> value in ``bank``, from a quote that has been checked; all of ``rules.pcrs`` are among them.
    :param memo: what events of other logs, of all the fleet, said; it only saves time.
    """
    if not log:
        findings.add("boot.log-missing", f"PCR {rules.pcrs[0]}")
        return False
    try:
        parsed = parse_log(log)
        proven = {pcr: quoted[pcr] for pcr in rules.pcrs}
        if rules.expected is not None and rules.expected.phases:
            proven[STUB_PCR] = before_phases(parsed, bank, proven[STUB_PCR], rules.expected.phases)
        known = () if memo is None else memo.recall(parsed.events, bank)
        claims = _proven_claims(parsed, proven, bank, rules, findings, known)
        if claims is None:
            return False
        good = rules.expected is None or judge_expectations(rules.expected, parsed, claims, findings)
        dictionary = proven_dictionary(parsed, bank, proven, known, rules.signatures)
        return _is_good(dictionary, rules, findings) and good
    except MalformedError as error:
        findings.add("boot.log-malformed", "", printable(f"The boot log can not be read: {error.message}."))
        return False


def _proven_claims(
    log: EventLog,
    quoted: Mapping[int, bytes],
    bank: str,
    rules: BootRules,
    findings: Collector,
    known: Sequence[Known | None],
) -> BootClaims | None:
    """Return what the log says that the quote proves; None when it does not prove what the rules judge."""
    if BANK_IDS.get(bank) not in log.algorithms:
        findings.add("boot.log-bank", "", f"The boot log has no digests for the bank {bank}.")
        return None
    claims = draw_claims(log, bank, quoted, known=known)
    for pcr in claims.differing:
        found = f"PCR {pcr} of bank {bank} is {quoted[pcr].hex()}; the boot log replays to another value."
        findings.add("boot.pcr-mismatch", f"PCR {pcr}", found)
    if claims.differing:
        return None
    if not claims.rejected:
        return claims
    judged = set(rules.pcrs) if rules.judges else rules.expected.pcrs if rules.expected is not None else set()
    places = {event.number: event.pcr for event in log.events}
    wrong = [rejected for rejected in claims.rejected if places[rejected.event] in judged]
    for rejected in wrong:
        reason = f"{rejected.reason[:1].upper()}{rejected.reason[1:]}."
        findings.add("boot.event-unproven", f"event {rejected.event}", printable(reason))
    return None if wrong else claims


def proven_dictionary(
    log: EventLog,
    bank: str,
    proven: Mapping[int, bytes],
    known: Sequence[Known | None] = (),
    forms: Forms = NO_FORMS,
) -> dict[str, Any]:
    """Return the dictionary form of ``log`` with nothing in it that a quote leaves open.

    Events of other PCRs are left out, as are digests and PCR values of other banks, and EV_NO_ACTION events but for the
    header: no PCR ever shows them.

    :param proven: quoted PCR -> value in ``bank``, to which the log replays.
    :param known: what a memo knows of the events in that bank; the parts that come from there can not be changed.
    :param forms: of signatures; these can not be changed either.
    :raises TooLargeError: over 8,192 events.
    :raises MalformedError: when an event can not be decoded.
    """
    check_describable(log)
    events = [] if log.header is None else [describe_header(log, log.header)]
    algorithm = BANK_IDS[bank]
    pcrs: set[int] = set()
    for event, before in zip(log.events, known or repeat(None, len(log.events)), strict=True):
        pcr = event.pcr
        if pcr in proven and event.kind != NO_ACTION:
            found = describe_event(event, algorithm, forms) if before is None else _recalled(event, algorithm, before)
            events.append(found)
            pcrs.add(pcr)
    values = {pcr: int.from_bytes(proven[pcr], "big") for pcr in sorted(pcrs)}
    return {"version": FORM_VERSION, "events": events, "pcrs": {bank: values} if values else None}


def _recalled(event: Event, algorithm: int, known: Known) -> dict[str, Any]:
    if known.described is None:
        known.described = frozen(describe_event(event, algorithm))
    return {**known.described, "EventNum": event.number}


def _is_good(dictionary: Mapping[str, Any], rules: BootRules, findings: Collector) -> bool:
    refused: list[Judgement] = []
    for test in rules.tests:
        judgement = judge(test, dictionary)
        if not judgement.reason:
            return True
        refused.append(judgement)
    reasons = dict.fromkeys((judgement.event_reason or judgement.reason).strip() for judgement in refused)
    told = printable("; or ".join(reasons), MAX_REASON)
    findings.add(
        "boot.policy",
        _culprit(max(refused, key=attrgetter("came_to"))),
        f"The boot policy {rules.name} refuses the log: {told}.",
    )
    return False


def _culprit(judgement: Judgement) -> str:
    """Return the event that is to blame, what of it, or what there is no event of."""
    event = judgement.event
    if not isinstance(event, dict):
        return printable(judgement.field)
    place = f"event {event.get('EventNum')} (PCR {event.get('PCRIndex')}, {event.get('EventType')})"
    return printable(f"{place}: {judgement.field}" if judgement.field else place)
