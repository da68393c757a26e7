"""The one registry of findings. Codes are stable: policies, dashboards and the documentation refer to them.

An ``info`` or ``warning`` never ends trust; a ``failure`` always does.
"""

from __future__ import annotations

from typing import Final

from attestream.appraisal.boot_findings import BOOT
from attestream.appraisal.identity_findings import IDENTITY
from attestream.appraisal.kinds import FAILURE as FAILURE
from attestream.appraisal.kinds import INFO as INFO
from attestream.appraisal.kinds import WARNING as WARNING
from attestream.appraisal.kinds import Kind as Kind
from attestream.appraisal.measured_kinds import MEASURED_KINDS
from schemas.events import Finding

_LOOK: Final = (
    "Treat the machine as compromised until it is explained; then mend the machine or the policy and start the agent again."
)
_RETRY: Final = "Nothing: it is challenged again. If it lasts, check the agent's log."
_AGENT: Final = "Check that the agent runs a compatible version and that nobody alters its messages."
_CLOCKS: Final = "Check that the clocks of the verifier hosts agree; otherwise somebody replays old evidence."
_RE_ENROL: Final = (
    "If the TPM was cleared on purpose, delete the enrolment and enrol the agent again; otherwise treat it as an attack."
)

_KINDS: Final = (
    Kind("identity.agent-mismatch", "identity", FAILURE, "The evidence names another agent.", _AGENT),
    Kind(
        "identity.transport-key",
        "identity",
        FAILURE,
        "The quote binds another transport key than the enrolled one.",
        _RE_ENROL,
    ),
    Kind(
        "identity.binding-missing",
        "identity",
        FAILURE,
        "The PCR that binds the agent's transport key was not quoted.",
        _AGENT,
    ),
    Kind(
        "identity.binding-mismatch",
        "identity",
        FAILURE,
        "The PCR that binds the agent's transport key has another value.",
        _LOOK,
    ),
    *(Kind(f"identity.{name}", "identity", severity, summary, remedy) for name, severity, summary, remedy in IDENTITY),
    Kind(
        "freshness.unanswered",
        "quote",
        WARNING,
        "Challenges stay without an answer.",
        "Check that the machine is up and that its agent reaches the bus.",
    ),
    Kind(
        "freshness.nonce-invalid",
        "quote",
        WARNING,
        "The nonce is not one that this cluster issued for the challenge.",
        _AGENT,
    ),
    Kind("freshness.stale", "quote", WARNING, "The evidence answers a challenge that is too old.", _RETRY),
    Kind("freshness.future", "quote", WARNING, "The evidence answers a challenge from the future.", _CLOCKS),
    Kind("freshness.replayed", "quote", WARNING, "Evidence for this or a later challenge was judged already.", _RETRY),
    Kind(
        "capacity.high",
        "limits",
        WARNING,
        "A stream, the account's storage or a disk fills up.",
        "Make room or raise the limit in good time: docs/limits.md says how.",
    ),
    Kind(
        "capacity.critical",
        "limits",
        WARNING,
        "A stream, the account's storage or a disk is about to refuse what is new.",
        "Make room or raise the limit now: docs/limits.md says how.",
    ),
    Kind(
        "limits.evidence",
        "limits",
        WARNING,
        "The agent sends more messages than it may: they are thrown away unseen.",
        "Look into the agent: an honest one sends a few in a minute.",
    ),
    Kind(
        "limits.warnings",
        "limits",
        WARNING,
        "The agent gives cause for more warnings than are put on the record.",
        "Look into the agent; its result has the newest findings.",
    ),
    Kind("quote.signature-invalid", "quote", FAILURE, "The enrolled attestation key did not sign the quote.", _LOOK),
    Kind("quote.malformed", "quote", FAILURE, "What was signed is not a well-formed quote of a TPM.", _AGENT),
    Kind(
        "quote.algorithm",
        "quote",
        FAILURE,
        "The quote uses an algorithm that is not accepted.",
        "Use SHA-256 or better in the agent.",
    ),
    Kind(
        "quote.qualifying-data",
        "quote",
        FAILURE,
        "The quote was not made for this challenge, agent and transport key.",
        _LOOK,
    ),
    Kind("quote.reset-count", "quote", FAILURE, "The TPM's reset count went back.", _RE_ENROL),
    Kind("quote.restart-count", "quote", FAILURE, "The TPM's restart count went back without a reset.", _RE_ENROL),
    Kind("quote.clock", "quote", FAILURE, "The TPM's clock went back without a reset.", _RE_ENROL),
    Kind("quote.clock-unsafe", "quote", INFO, "The TPM was not shut down cleanly before its reset.", "Nothing."),
    Kind(
        "quote.rebooted",
        "quote",
        INFO,
        "The TPM was reset or restarted since the last evidence.",
        "Nothing: the log is replayed from its start.",
    ),
    Kind(
        "quote.firmware",
        "quote",
        WARNING,
        "The TPM's firmware version changed.",
        "Check that the firmware update was intended.",
    ),
    Kind("quote.selection", "quote", FAILURE, "The PCRs that were signed are not those that are claimed.", _LOOK),
    Kind(
        "quote.pcr-missing",
        "quote",
        FAILURE,
        "A PCR that the policy names was not quoted.",
        "Check that the TPM has the policy's PCR bank; otherwise treat it as an attack.",
    ),
    Kind("quote.values-missing", "quote", WARNING, "PCR values were left out although they are not the known ones.", _RETRY),
    Kind("quote.pcr-digest", "quote", FAILURE, "The claimed PCR values are not those that the TPM signed.", _LOOK),
    Kind("boot.pcr-value", "boot", FAILURE, "A PCR has a value that the policy does not allow.", _LOOK),
    *(Kind(f"boot.{name}", "boot", severity, summary, remedy) for name, severity, summary, remedy in BOOT),
    Kind(
        "runtime.log-missing",
        "runtime",
        FAILURE,
        "PCR 10 moved, but the IMA log was not sent.",
        "Check that the agent may read the IMA log.",
    ),
    Kind(
        "runtime.log-offset",
        "runtime",
        WARNING,
        "The IMA log starts at an entry that does not follow what is proven.",
        _RETRY,
    ),
    Kind(
        "runtime.log-empty",
        "runtime",
        FAILURE,
        "The IMA log has no entries: the kernel does not measure.",
        "Boot the machine with IMA enabled and an IMA policy.",
    ),
    Kind("runtime.log-count", "runtime", FAILURE, "The IMA log does not have as many entries as the agent says.", _AGENT),
    Kind(
        "runtime.log-too-long",
        "runtime",
        FAILURE,
        "The IMA log has more entries than one appraisal takes.",
        "Measure less: narrow the kernel's IMA policy.",
    ),
    Kind("runtime.log-mismatch", "runtime", FAILURE, "The IMA log does not replay to the quoted PCR 10.", _LOOK),
    Kind("runtime.no-progress", "runtime", FAILURE, "The quote does not cover entries that the log showed before.", _LOOK),
    Kind("runtime.entry-malformed", "runtime", FAILURE, "An entry of the IMA log can not be parsed.", _AGENT),
    Kind("runtime.entry-digest", "runtime", FAILURE, "An entry's template digest is not that of its data.", _LOOK),
    Kind(
        "runtime.entry-pcr",
        "runtime",
        FAILURE,
        "An entry was measured into another PCR than 10.",
        "Remove `pcr=` from the kernel's IMA policy.",
    ),
    Kind(
        "runtime.template-unknown",
        "runtime",
        FAILURE,
        "An entry has a template that is not known.",
        "Set `ima_template=ima-ng` or `ima-sig` on the kernel's command line.",
    ),
    Kind("runtime.digest-unknown", "runtime", FAILURE, "A known file has content that the policy does not allow.", _LOOK),
    Kind("runtime.path-unknown", "runtime", FAILURE, "A file that the policy does not know was run or read.", _LOOK),
    Kind(
        "runtime.violation",
        "runtime",
        WARNING,
        "A file was open for writing while it was measured: what was read is not known.",
        "Find out what writes to the file while it is in use.",
    ),
    *MEASURED_KINDS,
    Kind("runtime.more-findings", "runtime", INFO, "There are more findings than are listed.", "Mend what is listed first."),
)

FINDINGS: Final = {kind.code: kind for kind in _KINDS}
"""Code -> meaning, in the order of the documentation."""


def finding(code: str, culprit: str = "", message: str = "", severity: str = "") -> Finding:
    """Return the finding ``code`` about ``culprit``.

    :param culprit: safe to print: see :func:`attestream.appraisal.text.printable`.
    :param message: a sentence instead of the code's summary.
    :param severity: another one than the code's own, see :mod:`attestream.appraisal.severity`.
    :raises KeyError: when the code is not in the registry.
    """
    kind = FINDINGS[code]
    return Finding(
        code=code,
        layer=kind.layer,
        severity=severity or kind.severity,
        culprit=culprit,
        message=message or kind.summary,
        remedy=kind.remedy,
    )
