"""Appraisal of what an agent of the incumbent sent, against a policy of ours: a quote's text and logs, kept in files."""

from __future__ import annotations

from collections.abc import Mapping

from attestream.appraisal.boot import appraise_boot_log
from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import CompiledPolicy
from attestream.appraisal.runtime import Context, appraise_log
from attestream.appraisal.state import fresh
from attestream.errors import MalformedError
from attestream.ima.boot_aggregate import boot_aggregates
from attestream.ima.log import IMA_PCR
from attestream.interop.quotes import QuoteRefusedError, check_quote, parse_quote_text
from attestream.tpm.public import Public
from attestream.tpm.structures import parse_signature
from schemas.attestation import ImaDelta
from schemas.events import Finding


def appraise_quote_text(
    text: str, *, nonce: str, ak: Public, policy: CompiledPolicy, ima: ImaDelta | None = None, boot_log: bytes = b""
) -> tuple[Finding, ...]:
    """Return what a quote and the logs that came with it say; nothing when all is well. Bad evidence raises nothing.

    :param nonce: that the quote was asked for with.
    :param ima: the whole IMA log, from entry 0.
    """
    findings = Collector(policy.severities)
    try:
        parts = parse_quote_text(text)
        hash_name = parse_signature(parts.signature, trailing=True).hash
    except MalformedError as error:
        findings.add("quote.malformed", "", f"The quote is not acceptable: {error.message}.")
        return findings.all()
    if hash_name == "sha1" and not policy.allow_sha1:
        findings.add("quote.algorithm", "", "The quote is signed with SHA-1, which the policy does not allow.")
        return findings.all()
    try:
        checked = check_quote(ak, parts, nonce, policy.bank)
    except QuoteRefusedError as error:
        findings.add(error.finding.code, error.finding.culprit, error.finding.message)
        return findings.all()
    _appraise_values(checked.pcrs, policy, ima, boot_log, findings)
    return findings.all()


def _appraise_values(
    values: Mapping[int, bytes], policy: CompiledPolicy, ima: ImaDelta | None, boot_log: bytes, findings: Collector
) -> None:
    if missing := sorted(set(policy.selection[policy.bank]) - values.keys()):
        findings.add("quote.pcr-missing", f"PCR {missing[0]}", f"PCRs {missing} of bank {policy.bank} were not quoted.")
        return
    for pcr, allowed in policy.pcrs.items():
        if values[pcr] not in allowed:
            told = f"PCR {pcr} of bank {policy.bank} is {values[pcr].hex()}"
            findings.add("boot.pcr-value", f"PCR {pcr}", f"{told}, which is none of the {len(allowed)} allowed values.")
    aggregates: frozenset[bytes] = frozenset()
    if policy.boot is not None and appraise_boot_log(
        boot_log, values, bank=policy.bank, rules=policy.boot, findings=findings
    ):
        aggregates = boot_aggregates({policy.bank: values})
    if policy.runtime is not None:
        context = Context(policy.runtime, policy.bank, boot_aggregates=aggregates)
        appraise_log(ima, values[IMA_PCR], context, state=fresh(), rebooted=False, findings=findings)
