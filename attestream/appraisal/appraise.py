"""The appraisal of one evidence: from the signature outwards, each step only over what the one before has proven."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Mapping

import msgspec

from attestream.appraisal.boot import appraise_boot_log, boot_digest
from attestream.appraisal.clock import note_boot, restarted, went_back
from attestream.appraisal.collector import Collector
from attestream.appraisal.entries import Trace
from attestream.appraisal.findings import finding
from attestream.appraisal.policy import CompiledPolicy
from attestream.appraisal.runtime import Context, appraise_log
from attestream.appraisal.state import AttesterState
from attestream.errors import MalformedError, SignatureError, UnsupportedError
from attestream.ima.boot_aggregate import boot_aggregates as aggregates_of
from attestream.ima.log import IMA_PCR
from attestream.ima.memo import Memo
from attestream.tpm.public import Public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from attestream.tpm.structures import Quote, parse_signature
from schemas.attestation import Evidence, qualifying_data
from schemas.events import Finding


class Verdict(enum.StrEnum):
    """What an appraisal says."""

    PASS = "pass"  # noqa: S105  # not a password
    FAIL = "fail"
    AGAIN = "again"
    """Authentic but incomplete: the agent is challenged again. It renews nothing: who stays incomplete lapses."""


class Appraisal(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an appraisal."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    state: AttesterState


def appraise(
    evidence: Evidence,
    *,
    agent_id: str,
    ak: Public,
    policy: CompiledPolicy,
    state: AttesterState,
    now: int,  # noqa: ARG001  # part of the contract: certificates and signatures have lifetimes, quotes have not
    memo: Memo | None = None,
    boot_aggregates: frozenset[bytes] = frozenset(),
    trace: Trace | None = None,
) -> Appraisal:
    """Return what ``evidence`` says about agent ``agent_id``. Bad evidence raises nothing: everything becomes a finding.

    The caller has made sure that the evidence is fresh (:mod:`attestream.appraisal.freshness`) and that its parts are put
    together.

    :param ak: the enrolled attestation key.
    :param state: of the last appraisal, or :func:`attestream.appraisal.state.fresh`.
    :param now: reference time, Unix time in milliseconds.
    :param memo: log entries, signatures and events of boot logs that were read before, of all the fleet; only saves time.
    :param boot_aggregates: allowed as the log's first entry besides the policy's digests: what follows from the boot log,
        see :func:`attestream.ima.boot_aggregate.boot_aggregates`. With a boot policy they follow from the quoted PCRs.
    :param trace: called with each log entry and the decision about it, with the rule that made it. It makes this slow.
    """
    findings = Collector(policy.severities)
    quote = _authenticate(evidence, agent_id, ak, policy, state, findings)
    if quote is None:
        return Appraisal(Verdict.FAIL, findings.all(), _started_over(state))
    if _is_known(evidence, quote, policy, state):
        return Appraisal(Verdict.PASS, (), _with_clock(state, quote))
    note_boot(quote.clock, quote.firmware, state, findings)
    if findings.failed:  # only where the policy makes a failure of it
        return Appraisal(Verdict.FAIL, findings.all(), _started_over(_with_clock(state, quote)))
    context = None
    if policy.runtime is not None:
        context = Context(policy.runtime, policy.bank, policy.digest, boot_aggregates, memo, trace)
    return _appraise_claims(evidence, quote, policy, state, findings, context, memo)


def appraise_whole(
    evidence: Evidence,
    *,
    agent_id: str,
    ak: Public,
    transport: bytes,
    policy: CompiledPolicy,
    state: AttesterState,
    now: int,
    memo: Memo | None = None,
) -> Appraisal:
    """Return what a verifier makes of ``evidence``: :func:`appraise`, and a look at the agent's transport key.

    :param transport: SHA-256 of the enrolled transport key.
    """
    appraisal = appraise(evidence, agent_id=agent_id, ak=ak, policy=policy, state=state, now=now, memo=memo)
    if hmac.compare_digest(evidence.transport_key, transport):
        return appraisal
    other = finding("identity.transport-key")
    return msgspec.structs.replace(appraisal, verdict=Verdict.FAIL, findings=(*appraisal.findings, other))


def needs_boot_log(policy: CompiledPolicy, state: AttesterState) -> bool:
    """Return whether the next challenge must ask for the boot log: the policy has rules for it, and no good one is known."""
    return policy.boot is not None and not (state.boot and state.policy == policy.digest)


def _authenticate(
    evidence: Evidence, agent_id: str, ak: Public, policy: CompiledPolicy, state: AttesterState, findings: Collector
) -> Quote | None:
    if evidence.agent_id != agent_id:
        findings.add("identity.agent-mismatch")
        return None
    try:
        quote = verify_quote_signature(ak, evidence.quote, evidence.signature, allow_sha1=policy.allow_sha1)
    except SignatureError as error:
        findings.add("quote.signature-invalid", "", f"The enrolled attestation key did not sign the quote: {error.message}.")
        return None
    except MalformedError as error:
        code = "quote.algorithm" if isinstance(error, UnsupportedError) else "quote.malformed"
        findings.add(code, "", f"The quote is not acceptable: {error.message}.")
        return None
    wanted = qualifying_data(evidence.nonce, agent_id, evidence.transport_key)
    if not hmac.compare_digest(quote.extra_data, wanted):
        findings.add("quote.qualifying-data")
        return None
    if code := went_back(quote.clock, state):
        findings.add(code, "", _clock_message(quote, state))
        return None
    return quote


def _clock_message(quote: Quote, state: AttesterState) -> str:
    now = quote.clock
    return (
        f"The TPM's time went back: reset, restart and clock are {now.reset_count}, {now.restart_count} and {now.clock} ms; "
        f"they were {state.reset_count}, {state.restart_count} and {state.clock} ms."
    )


def _is_known(evidence: Evidence, quote: Quote, policy: CompiledPolicy, state: AttesterState) -> bool:
    """Return whether the quote signs the very PCR values of the last good one, and nothing new comes with it.

    The selection must be the policy's own: a digest alone does not tell PCR 10 from a resettable PCR with the same value.
    """
    return (
        quote.pcr_digest == state.pcr_digest != b""
        and quote.selection == policy.signed_selection
        and state.policy == policy.digest
        and not state.tail
        and not restarted(quote.clock, state)
        and quote.firmware == state.firmware
        and not evidence.pcr_values
        and (evidence.ima is None or not (evidence.ima.count or evidence.ima.data))
    )


def _appraise_claims(
    evidence: Evidence,
    quote: Quote,
    policy: CompiledPolicy,
    state: AttesterState,
    findings: Collector,
    context: Context | None,
    memo: Memo | None,
) -> Appraisal:
    # A challenge that was issued under another policy asked for other things: that is not the agent's fault.
    other_policy = state.policy != policy.digest
    start_over = other_policy or restarted(quote.clock, state)
    base = _with_clock(_started_over(state, policy) if start_over else state, quote)
    signed = _signed_pcrs(quote)
    if missing := sorted(set(policy.selection[policy.bank]) - signed.get(policy.bank, set())):
        if other_policy:
            return Appraisal(Verdict.AGAIN, findings.all(), base)
        findings.add("quote.pcr-missing", f"PCR {missing[0]}", f"PCRs {missing} of bank {policy.bank} were not quoted.")
        return Appraisal(Verdict.FAIL, findings.all(), _started_over(base))
    if not evidence.pcr_values:
        if not start_over:
            findings.add("quote.values-missing")
        return Appraisal(Verdict.AGAIN, findings.all(), base)
    complete = True
    if _check_values(evidence, quote, signed, findings):
        base, complete = _appraise_values(evidence, policy, base, start_over, findings, context, memo)
    if findings.failed:
        return Appraisal(Verdict.FAIL, findings.all(), _started_over(base))
    if not complete:
        return Appraisal(Verdict.AGAIN, findings.all(), base)
    # What a policy lets pass with a warning is said each time: such PCR values never become the known ones.
    known = quote.pcr_digest if quote.selection == policy.signed_selection and not findings.of_layer("boot") else b""
    return Appraisal(Verdict.PASS, findings.all(), msgspec.structs.replace(base, pcr_digest=known))


def _appraise_values(
    evidence: Evidence,
    policy: CompiledPolicy,
    state: AttesterState,
    start_over: bool,
    findings: Collector,
    context: Context | None,
    memo: Memo | None,
) -> tuple[AttesterState, bool]:
    """Appraise checked PCR values and the log; return the state after them, and whether the log is whole."""
    values = evidence.pcr_values[policy.bank]
    for pcr, allowed in policy.pcrs.items():
        if values[pcr] not in allowed:
            found = f"PCR {pcr} of bank {policy.bank} is {values[pcr].hex()}"
            findings.add("boot.pcr-value", f"PCR {pcr}", f"{found}, which is none of the {len(allowed)} allowed values.")
    if policy.boot is not None:
        state, complete = _appraise_boot(evidence.boot_log, values, policy, state, start_over, findings, memo)
        if not complete:
            return state, False
    if context is None:
        return state, True
    if state.boot:
        context = context._replace(boot_aggregates=context.boot_aggregates | aggregates_of({policy.bank: values}))
    log = appraise_log(evidence.ima, values[IMA_PCR], context, state=state, rebooted=start_over, findings=findings)
    if not log.entries and not log.complete:
        return state, False
    return msgspec.structs.replace(
        state,
        ima_entries=log.entries,
        ima_pcr=log.value,
        tail=log.tail,
        pcr_digest=b"",
        ima_padded=log.padded,
        ima_keys=log.keys,
        devices=tuple(log.devices.values()),
    ), log.complete


def _appraise_boot(
    log: bytes,
    values: Mapping[int, bytes],
    policy: CompiledPolicy,
    state: AttesterState,
    start_over: bool,
    findings: Collector,
    memo: Memo | None,
) -> tuple[AttesterState, bool]:
    """Appraise the boot log unless a good one explained these PCR values before; return also whether none is lacking."""
    rules = policy.boot
    if rules is None or boot_digest(rules, values) == state.boot:
        return state, True
    if not log and (start_over or state.boot):
        # It was not asked for: the machine has booted, or a PCR of the boot has moved since.
        return msgspec.structs.replace(state, boot=b"", pcr_digest=b""), False
    # What the policy lets pass with a warning is not good: it is said each time.
    events = memo.boot if memo is not None else None
    good = appraise_boot_log(log, values, bank=policy.bank, rules=rules, findings=findings, memo=events)
    return msgspec.structs.replace(state, boot=boot_digest(rules, values) if good else b""), True


def _signed_pcrs(quote: Quote) -> dict[str, set[int]]:
    signed: dict[str, set[int]] = {}
    for bank, pcrs in quote.selection:
        if pcrs:
            signed.setdefault(bank, set()).update(pcrs)
    return signed


def _check_values(evidence: Evidence, quote: Quote, signed: Mapping[str, set[int]], findings: Collector) -> bool:
    """Return whether all claimed PCR values are what the quote signs."""
    claimed = {bank: set(values) for bank, values in evidence.pcr_values.items() if values}
    if signed != claimed:
        findings.add("quote.selection", _difference(signed, claimed))
        return False
    try:
        digest = pcr_digest(parse_signature(evidence.signature).hash, quote.selection, evidence.pcr_values)
    except MalformedError as error:
        findings.add("quote.pcr-digest", "", f"The claimed PCR values can not be right: {error.message}.")
        return False
    if digest != quote.pcr_digest:
        findings.add("quote.pcr-digest")
        return False
    return True


def _difference(signed: Mapping[str, set[int]], claimed: Mapping[str, set[int]]) -> str:
    """Return the first PCR that only one side has; none for a bank that is only claimed: its name is the agent's text."""
    for bank, pcrs in signed.items():
        if odd := sorted(pcrs ^ claimed.get(bank, set())):
            return f"PCR {odd[0]} ({bank})"
    return ""


def _with_clock(state: AttesterState, quote: Quote) -> AttesterState:
    clock = quote.clock
    return AttesterState(
        state.policy,
        clock.reset_count,
        clock.restart_count,
        clock.clock,
        quote.firmware,
        state.ima_entries,
        state.ima_pcr,
        state.tail,
        state.pcr_digest,
        state.ima_padded,
        state.ima_keys,
        state.devices,
        state.boot,
    )


def _started_over(state: AttesterState, policy: CompiledPolicy | None = None) -> AttesterState:
    """Return ``state`` without what it knew of PCRs and log: the next evidence must prove everything again."""
    return AttesterState(
        policy=state.policy if policy is None else policy.digest,
        reset_count=state.reset_count,
        restart_count=state.restart_count,
        clock=state.clock,
        firmware=state.firmware,
    )
