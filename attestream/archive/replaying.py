"""Appraising kept evidence once more. Pure: by the function that the verifier calls, from what was kept alone."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from attestream.appraisal.appraise import Appraisal, appraise_whole
from attestream.appraisal.policy import CompiledPolicy
from attestream.appraisal.state import AttesterState, decode_state, fresh
from attestream.archive.packing import MAX_BYTES
from attestream.errors import MalformedError
from attestream.tpm.public import parse_public
from schemas.archive import ArchivedAppraisal
from schemas.attestation import Evidence, ImaDelta
from schemas.base import Decoder, SchemaError
from schemas.events import Finding

_APPRAISAL: Final = Decoder[ArchivedAppraisal](ArchivedAppraisal, MAX_BYTES)
_EVIDENCE: Final = Decoder[Evidence](Evidence, MAX_BYTES)


class Replayed(NamedTuple):
    """What came out this time."""

    verdict: str
    findings: tuple[Finding, ...]
    state: AttesterState
    identical: bool
    """Whether verdict, findings and state are, bit for bit, those that were kept."""


def decode_appraisal(data: bytes) -> ArchivedAppraisal:
    """Return the appraisal in an unpacked object.

    :raises MalformedError: when there is none.
    """
    try:
        return _APPRAISAL.decode(data)
    except SchemaError as error:
        raise MalformedError(f"what was kept is not an appraisal: {error}") from error


def evidence_of(kept: ArchivedAppraisal) -> Evidence:
    """Return the evidence that was appraised.

    :raises MalformedError: when it can not be read.
    """
    try:
        return _EVIDENCE.decode(kept.evidence)
    except SchemaError as error:
        raise MalformedError(f"the kept evidence can not be read: {error}") from error


def replay(kept: ArchivedAppraisal, policy: CompiledPolicy) -> Replayed:
    """Appraise ``kept`` once more by the policy that was in use.

    :raises MalformedError: when ``policy`` is another one, or what was kept can not be read.
    """
    if policy.digest != kept.policy_digest:
        raise MalformedError(
            f"{kept.policy} had the digest {kept.policy_digest[:64]}; this policy has {policy.digest}",
            remedy="Take the document and the layers of that version; --policy asks what another would say.",
        )
    return _replayed(kept, policy, evidence_of(kept), decode_state(kept.state))


def ask(kept: ArchivedAppraisal, policy: CompiledPolicy, log: ImaDelta | None = None) -> Replayed:
    """Return what another ``policy`` would have said of ``kept``, to an agent of which nothing was known before.

    ``log`` has the entries before those of the evidence, from the first one on; without it, evidence that does not carry the
    whole log of its boot is incomplete.

    :raises MalformedError: when what was kept can not be read.
    """
    evidence = evidence_of(kept)
    if log is not None:
        evidence = with_earlier(evidence, log)
    before = decode_state(kept.state)
    # The TPM's time is known whatever the policy.
    state = msgspec.structs.replace(
        fresh(), reset_count=before.reset_count, restart_count=before.restart_count, clock=before.clock
    )
    return _replayed(kept, policy, evidence, state)


def with_earlier(evidence: Evidence, log: ImaDelta) -> Evidence:
    """Return ``evidence`` with the entries of ``log`` put before its own.

    :raises MalformedError: when they do not fit together.
    """
    own = evidence.ima
    if own is None or log.ima_first or log.count != own.ima_first or (own.count and log.ascii != own.ascii):
        raise MalformedError("the kept log does not end where the evidence's begins")
    whole = ImaDelta(ima_first=0, count=log.count + own.count, data=log.data + own.data, ascii=log.ascii, more=own.more)
    return msgspec.structs.replace(evidence, ima=whole)


def _replayed(kept: ArchivedAppraisal, policy: CompiledPolicy, evidence: Evidence, state: AttesterState) -> Replayed:
    appraisal = appraise_whole(
        evidence,
        agent_id=kept.agent_id,
        ak=parse_public(kept.ak_public),
        transport=kept.transport,
        policy=policy,
        state=state,
        now=kept.received_at,
    )
    return Replayed(str(appraisal.verdict), appraisal.findings, appraisal.state, _bits(appraisal) == _kept_bits(kept))


def _bits(appraisal: Appraisal) -> bytes:
    return msgspec.msgpack.encode((str(appraisal.verdict), list(appraisal.findings), appraisal.state.encode()))


def _kept_bits(kept: ArchivedAppraisal) -> bytes:
    return msgspec.msgpack.encode((kept.verdict, kept.findings, kept.state_after))
