"""The one base of errors. A code is stable and for machines; the message says what is wrong and the remedy what to do."""

from __future__ import annotations

from typing import ClassVar


class AttestreamError(Exception):
    """Base of every error that Attestream raises on purpose.

    ``permanent`` tells the bus what to do with the message that caused it: a permanent error can not go away by trying
    again.
    """

    code: ClassVar[str] = "internal"
    remedy: ClassVar[str] = "Look into the service's log; this should not happen."
    permanent: ClassVar[bool] = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = remedy or self.remedy


class MalformedError(AttestreamError):
    """Bytes that are not what they should be: a message, a TPM structure, a log, a certificate."""

    code = "malformed"
    remedy = "Check that sender and receiver run compatible versions and that the input is whole."
    permanent = True


class TooLargeError(MalformedError):
    """An input is over its bound."""

    code = "too-large"
    remedy = "Make the input smaller, or raise the limit in the configuration."


class UnsupportedError(MalformedError):
    """An algorithm or format that is not known, or not allowed."""

    code = "unsupported"
    remedy = "Use one of the algorithms that the documentation lists."


class RefusedError(AttestreamError):
    """A request that was understood and is not granted."""

    code = "refused"
    remedy = "See the message."
    permanent = True


class EnrolmentError(RefusedError):
    """Enrolment was refused: key attributes, a wrong or used proof, or an id that belongs to another TPM."""

    code = "enrolment-refused"
    remedy = "Check the agent's TPM; if the id should move to another TPM, delete the enrolment first."


class UnknownAgentError(RefusedError):
    """No such agent."""

    code = "agent-unknown"
    remedy = "Check the id with `attestream agents list`; an agent must have enrolled before it is added."


class AgentExistsError(RefusedError):
    """The agent is under attestation already."""

    code = "agent-exists"
    remedy = "Use `attestream agents update` to change how it is attested."


class UnknownPolicyError(RefusedError):
    """No such policy or version."""

    code = "policy-unknown"
    remedy = "Push it first: `attestream policy push NAME FILE`."


class UnknownEvidenceError(RefusedError):
    """No such kept evidence, or not any more."""

    code = "evidence-unknown"
    remedy = "The oldest makes room for what is new, and each policy says for how long its evidence is kept."


class UnapprovedPolicyError(RefusedError):
    """A version of a policy that nobody but its author has approved, or that was rejected."""

    code = "policy-unapproved"
    remedy = "Have another person approve it: `attestream policy approve NAME@VERSION`."


class PolicyError(RefusedError):
    """A policy document that is not valid."""

    code = "policy-invalid"
    remedy = "Mend the document at the place that the message names."


class SignatureError(RefusedError):
    """A signature that does not verify, or a key that is not trusted."""

    code = "signature-invalid"
    remedy = "Check that the verifying key belongs to this installation."


class ExpiredError(SignatureError):
    """A credential or signature whose time is over, or has not come."""

    code = "expired"
    remedy = "Renew the credential; check that the clocks agree."


class ForbiddenError(RefusedError):
    """A request by someone whose role does not allow it."""

    code = "forbidden"
    remedy = "Ask somebody with the right role; `attestream operators list` shows the roles."


class SupersededError(RefusedError):
    """A command that is older than one that was executed since."""

    code = "superseded"
    remedy = "Give the command again if it is still wanted; check that the clocks agree."


class BusyError(AttestreamError):
    """There are too many requests: this one was not looked at."""

    code = "busy"
    remedy = "Try again later."

    def __init__(self, message: str, *, remedy: str = "", retry_after_s: float = 1.0) -> None:
        wait = max(1, round(retry_after_s + 0.5))
        super().__init__(message, remedy=remedy or f"Try again in {wait} s.")


class ConfigError(AttestreamError):
    """A configuration that can not be used."""

    code = "config-invalid"
    remedy = "Mend the setting that the message names."
    permanent = True


class BusError(AttestreamError):
    """The bus does not answer, or refuses for now."""

    code = "bus-unavailable"
    remedy = "Check that the bus runs (`attestream up` starts one on this machine) and that its address is right (`--url`)."


class StaleRosterError(BusError):
    """It is not known any more whose signature counts: the bus does not show a roster that a registrar vouches for."""

    code = "roster-stale"
    remedy = "See that a registrar runs and that its clock is right; if so, somebody keeps the newest roster back."


class TimedOutError(BusError):
    """Nobody answered in time."""

    code = "no-answer"
    remedy = "Check that the service is running: `attestream status`."


class FencedError(AttestreamError):
    """Another worker owns the partition: what this one wanted to write was refused."""

    code = "fenced"
    remedy = "Nothing: the new owner goes on."


class StorageError(AttestreamError):
    """The database does not answer, or refuses for now."""

    code = "storage-unavailable"
    remedy = "Check the database and its URL."
    reason = ""
    """``unreachable``, ``locked``, ``full`` or ``refused``; empty when it is not known."""


class TpmError(AttestreamError):
    """The TPM refused a command or can not be reached."""

    code = "tpm"
    remedy = "Check the TCTI and that the user may open the TPM device."
