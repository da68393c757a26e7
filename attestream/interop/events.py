"""Event ids: what each of our findings is called there, and which of their events have no finding of ours.

An event id is ``component[.part...].event``; some end with the number of a PCR or the name of a policy. One table maps every
finding code; a test holds it complete in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attestream.appraisal.devices import Reason
from attestream.appraisal.findings import FAILURE, FINDINGS
from attestream.interop.device_events import blamed_event, device_event_id
from schemas.events import Finding

IRRECOVERABLE: Final = ("qoute_validation", "internal", "default", "tee_attestation")
"""Components (their spelling) after whose events nothing else was checked: no severity rule lowers them."""

PCR: Final = "<n>"
POLICY: Final = "<name>"

_QUOTE: Final = "qoute_validation.quote_validation"

EVENTS: Final = {
    # Keys and certificates are judged at registration, where there are no events: these would end trust afterwards.
    **{code: "qoute_validation.invalid_data" for code, kind in FINDINGS.items() if kind.layer == "identity"},
    "identity.transport-key": f"pcr_validation.invalid_pcr_{PCR}",
    "identity.binding-missing": f"pcr_validation.missing_pcr_{PCR}",
    "identity.binding-mismatch": f"pcr_validation.invalid_pcr_{PCR}",
    "freshness.unanswered": "internal.verifier.not_reachable",
    "freshness.nonce-invalid": _QUOTE,
    "freshness.stale": _QUOTE,
    "freshness.future": _QUOTE,
    "freshness.replayed": _QUOTE,
    "capacity.high": "internal.verifier.not_reachable",
    "capacity.critical": "internal.verifier.not_reachable",
    "limits.evidence": _QUOTE,
    "limits.warnings": _QUOTE,
    "quote.signature-invalid": _QUOTE,
    "quote.malformed": _QUOTE,
    "quote.algorithm": _QUOTE,
    "quote.qualifying-data": _QUOTE,
    "quote.reset-count": _QUOTE,
    "quote.restart-count": _QUOTE,
    "quote.clock": _QUOTE,
    "quote.clock-unsafe": _QUOTE,
    "quote.rebooted": _QUOTE,
    "quote.firmware": _QUOTE,
    "quote.selection": _QUOTE,
    "quote.pcr-missing": "pcr_validation.missing_pcrs",
    "quote.values-missing": _QUOTE,
    "quote.pcr-digest": _QUOTE,
    "boot.pcr-value": f"pcr_validation.invalid_pcr_{PCR}",
    "boot.log-missing": f"pcr_validation.unused_pcr_{PCR}",
    "boot.log-malformed": "measured_boot.parser.tpm2_eventlog.error",
    "boot.log-bank": "measured_boot.parser.invalid_pcrs_hashes",
    "boot.pcr-mismatch": f"measured_boot.invalid_pcr_{PCR}",
    "boot.pcr-uncovered": "measured_boot.missing_pcrs",
    "boot.event-unproven": f"measured_boot.policy_{POLICY}",
    "boot.policy": f"measured_boot.policy_{POLICY}",
    "boot.secure-boot": f"measured_boot.policy_{POLICY}",
    "boot.key-unknown": f"measured_boot.policy_{POLICY}",
    "boot.not-forbidden": f"measured_boot.policy_{POLICY}",
    "boot.application": f"measured_boot.policy_{POLICY}",
    "boot.section": f"measured_boot.policy_{POLICY}",
    "boot.command-line": f"measured_boot.policy_{POLICY}",
    "boot.file": f"measured_boot.policy_{POLICY}",
    "boot.reference-invalid": "pcr_validation.invalid_mb_policy",
    "runtime.log-missing": "pcr_validation.unused_pcr_10",
    "runtime.log-offset": "qoute_validation.invalid_ima_entry_nb",
    "runtime.log-empty": "ima.pcr_mismatch",
    "runtime.log-count": "qoute_validation.invalid_ima_entry_nb",
    "runtime.log-too-long": "ima.parser.entry",
    "runtime.log-mismatch": "ima.pcr_mismatch",
    "runtime.no-progress": "ima.quote_progress",
    "runtime.entry-malformed": "ima.parser.entry",
    "runtime.entry-digest": "ima.validation.ima_hash",
    "runtime.entry-pcr": "ima.validation.ima_pcr",
    "runtime.template-unknown": "ima.parser.entry",
    "runtime.digest-unknown": "ima.validation.ima-ng.runtime_policy_hash",
    "runtime.path-unknown": "ima.validation.ima-ng.not_in_allowlist",
    "runtime.violation": "ima.validation.tomtou",
    "runtime.violation-refused": "ima.validation.tomtou",
    "runtime.denied": "ima.validation.ima-ng.runtime_policy_hash",
    "runtime.signature-missing": "ima.validator.ima-sig.invalid_signature",
    "runtime.evm-signature": "ima.validator.ima-sig.invalid_signature",
    "runtime.padded": "ima.pcr_mismatch",
    "runtime.keyring-unknown": "ima.validation.ima-ng.not_in_allowlist",
    "runtime.key-unknown": "ima.validation.ima-ng.runtime_policy_hash",
    "runtime.key-unsupported": "ima.invalid_key",
    "runtime.buffer-unknown": "ima.validation.ima-ng.not_in_allowlist",
    "runtime.buffer-content": "ima.validation.ima-ng.runtime_policy_hash",
    "runtime.buffer-altered": "ima.validation.dm.invalid_data",
    "runtime.device-event": "ima.validation.dm.parsing_failed",
    "runtime.device-unknown": "ima.validation.dm.dm_table_load.no_matching_policy",
    "runtime.device-loaded": "ima.validation.dm.dm_table_load.multiple_table_loads",
    "runtime.device-field": "ima.validation.dm.dm_table_load.invalid_entry",
    "runtime.device-targets": "ima.validation.dm.dm_table_load.num_targets_mismatch",
    "runtime.device-target": "ima.validation.dm.dm_table_load.target_data_mismatch",
    "runtime.device-target-unknown": "ima.validation.dm.dm_table_load.target_attribute_not_found",
    "runtime.device-target-invalid": "ima.validation.dm.dm_table_load.target_data_invalid",
    "runtime.device-order": "ima.validation.dm.dm_device_resume.resume_before_table_load",
    "runtime.device-active": "ima.validation.dm.dm_device_resume.already_active",
    "runtime.device-table": "ima.validation.dm.dm_device_resume.active_table_mismatch",
    "runtime.device-cleared": "ima.validation.dm.dm_table_clear.table_cleared",
    "runtime.device-removed": "ima.validation.dm.dm_device_remove.device_removed",
    "runtime.device-name": "ima.validation.dm.dm_device_rename.new_name_invalid",
    "runtime.device-uuid": "ima.validation.dm.dm_device_rename.new_uuid_invalid",
    "runtime.device-required": "ima.validation.dm.required_policy_not_in_use",
    "runtime.device-pending": "ima.validation.dm.device_invalid_state",
    "runtime.more-findings": "internal.verifier.exception",
}
"""Finding code -> event id; of a device, for the event at which it is met most.

``<n>`` stands for the PCR in the finding's culprit, ``<name>`` for the boot policy's name.
"""

_REQUEST: Final = "A request that can not be understood is refused before any appraisal; it is an answer and no finding."
_AGREED: Final = "Algorithms are agreed on by policy; a quote with another one is the finding quote.algorithm."
_CONFIGURED: Final = "A setting or policy that is not valid is refused when it is loaded, not when a quote comes."
_PARSER: Final = "Our own parser reads the log: there is no other program and no intermediate text that could fail."
_PAYLOAD: Final = "There is no second key share (V) to deliver: payloads are not part of attestation."
_TEE: Final = "Evidence of confidential computing is another kind of evidence; it has no TPM quote."

NOT_APPLICABLE: Final = {
    "qoute_validation.no_pubkey": "The transport key is bound by the quote and known from enrolment: it can not be absent.",
    "qoute_validation.invalid_hash_alg": _AGREED,
    "qoute_validation.invalid_enc_alg": _AGREED,
    "qoute_validation.invalid_sign_alg": _AGREED,
    "qoute_validation.invalid_quote": "An error in a quote is a finding with its reason, never an unnamed one.",
    "pcr_validation.invalid_measured_boot_evaluate": _CONFIGURED,
    "measured_boot.parser.invalid_pcrs": _PARSER,
    "measured_boot.parser.invalid_boot_aggregates": _PARSER,
    "measured_boot.parser.log.base64decode": _PARSER,
    "measured_boot.parser.yaml": _PARSER,
    "measured_boot.parser.bootlog_enrich": _PARSER,
    "internal.verifier.not_reachable_v": _PAYLOAD,
    "internal.verifier.no_v": _PAYLOAD,
    "internal.verifier.no_quote": "Evidence without a quote does not decode: it is refused as malformed.",
    "internal.verifier.version_not_supported": "A message of a version that is not known is refused as malformed.",
    "default.missing_param": _REQUEST,
    "default.missing_policy": _REQUEST,
    "ima.validation.no_validator": "Each template that can be parsed is judged.",
    "ima.validation.dm.invalid_event_type": "An event of an unknown name can not be read: ima.validation.dm.parsing_failed.",
    "tee_attestation.missing_param": _TEE,
    "tee_attestation.invalid.tee": _TEE,
    "tee_attestation.invalid_input": _TEE,
    "tee_attestation.vcek_fetch": _TEE,
    "tee_attestation.invalid_public_key": _TEE,
    "tee_attestation.invalid_signature": _TEE,
    "tee_attestation.freshness_hash_failed": _TEE,
}
"""Event id -> why nothing of ours becomes it."""

_DEVICE_REASONS: Final = {reason.value: reason for reason in Reason}
_NUMBER: Final = re.compile(r"\d+")


def event_id(found: Finding, *, policy_name: str = "") -> str:
    """Return the event id of a finding.

    :param policy_name: name of the boot policy that was applied.
    :raises KeyError: when the code is not in the registry of findings.
    """
    if (reason := _DEVICE_REASONS.get(found.code)) is not None and (event := blamed_event(found.culprit)):
        return device_event_id(reason, event)
    template = EVENTS[found.code]
    if PCR in template:
        number = _NUMBER.search(found.culprit)
        # A finding that names no PCR is about the one that binds the agent's key.
        return template.replace(PCR, number.group() if number else "16")
    return template.replace(POLICY, policy_name)


def event_ids(findings: Iterable[Finding], *, policy_name: str = "") -> list[str]:
    """Return the event ids of the findings that end trust, in their order: an event of theirs always does."""
    return [event_id(found, policy_name=policy_name) for found in findings if found.severity == FAILURE]


def is_recoverable(event: str) -> bool:
    """Return whether what follows an event was still checked."""
    return event.split(".", 1)[0] not in IRRECOVERABLE
