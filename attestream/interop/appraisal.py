"""Appraisal of a quote against the incumbent's policies, in its order: quote, clock, binding, logs, PCR values."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

from attestream.appraisal.findings import FAILURE, finding
from attestream.interop.clock import UNSEEN, refusal, remembered
from attestream.interop.events import event_id, event_ids
from attestream.interop.quotes import QuoteParts, QuoteRefusedError, check_quote
from attestream.interop.tpm_policy import DATA_PCR, IMA_PCR, TpmPolicy
from attestream.tpm.algorithms import hash_named
from attestream.tpm.public import Public
from attestream.tpm.structures import ClockInfo
from schemas.events import Finding

NO_POLICY: Final = TpmPolicy({}, 0)

LogCheck = Callable[[bytes], Sequence[str]]
"""Appraises the IMA log against the quoted PCR 10; it answers with event ids (:mod:`attestream.interop.ima_list`)."""


class BootCheck(Protocol):
    """Appraises the boot log; it answers with event ids (:mod:`attestream.interop.boot_policy`)."""

    def parse(self) -> Sequence[str]:
        """Return what is wrong with the log itself."""

    def compare(self, pcrs: Mapping[int, bytes]) -> tuple[Sequence[str], Collection[int]]:
        """Compare a log that could be parsed with quoted PCRs; return what does not fit and the PCRs dealt with."""

    def evaluate(self, pcrs: Mapping[int, bytes], *, parsed: bool) -> Sequence[str]:
        """Judge the log by its policy; unless it was ``parsed`` only the policy itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an appraisal is asked to check, besides quote, nonce and hash."""

    tpm_policy: TpmPolicy = NO_POLICY
    bound_text: str | None = None
    """The text whose digest PCR 16 was extended with: the agent's transport key in PEM; None when nothing is bound."""
    previous_clock: ClockInfo | None = UNSEEN
    """The clock of the last quote; None: clocks are not compared (identity quotes, one-shot evidence)."""
    check_pcrs: bool = True
    """False for identity quotes, which prove the key alone."""
    log: LogCheck | None = None
    """None when no IMA log was sent."""
    log_wanted: bool = False
    """Whether there is a runtime policy: then PCR 10 must be quoted."""
    boot: BootCheck | None = None


@dataclass(frozen=True, slots=True)
class QuoteAppraisal:
    """The outcome."""

    event_ids: tuple[str, ...]
    """What was found, in the incumbent's order; the quote is good when there is nothing."""
    findings: tuple[Finding, ...]
    """The same in our words, without what the checks of the logs found."""
    clock: ClockInfo
    """The clock to be remembered."""
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    """Quoted PCR values; empty when the quote was refused."""


def appraise_quote(ak: Public, parts: QuoteParts, nonce: str, hash_name: str, request: Request) -> QuoteAppraisal:
    """Return what a quote says. A bad quote raises nothing: it becomes a finding, after which nothing else is looked at.

    :param hash_name: the hash that was agreed on.
    """
    before = request.previous_clock or UNSEEN
    try:
        quote, pcrs = check_quote(ak, parts, nonce, hash_name)
    except QuoteRefusedError as error:
        return _refused(error.finding, before)
    clock = before
    if request.previous_clock is not None:
        if code := refusal(before, quote.clock):
            # An unsafe clock is worth a note to us; here it ends trust.
            return _refused(msgspec.structs.replace(finding(code), severity=FAILURE), before)
        clock = remembered(before, quote.clock)
    checks = _Checks(pcrs, hash_name, request)
    if request.check_pcrs:
        checks.run()
    return QuoteAppraisal(tuple(checks.event_ids), tuple(checks.findings), clock, pcrs)


def _refused(found: Finding, clock: ClockInfo) -> QuoteAppraisal:
    return QuoteAppraisal((event_id(found),), (found,), clock)


class Mode(NamedTuple):
    """Which checks a kind of request gets."""

    clock: bool
    pcrs: bool
    binding: bool


MODES: Final = {
    "pull": Mode(clock=True, pcrs=True, binding=True),
    "push": Mode(clock=True, pcrs=True, binding=False),
    "identity": Mode(clock=False, pcrs=False, binding=False),
    "evidence": Mode(clock=False, pcrs=True, binding=False),
}
"""Attestation by pull and by push, the identity quote, and one-shot evidence of an agent that nobody registered."""


def request_of(mode: str, *, bound_text: str | None, previous_clock: ClockInfo = UNSEEN) -> Request:
    """Return the request of one of :data:`MODES`, to which policies and logs are added.

    :raises KeyError: when there is no such mode.
    """
    checks = MODES[mode]
    return Request(
        bound_text=bound_text if checks.binding else None,
        previous_clock=previous_clock if checks.clock else None,
        check_pcrs=checks.pcrs,
    )


class _Checks:
    """The checks of quoted PCR values, and what they found."""

    def __init__(self, pcrs: Mapping[int, bytes], hash_name: str, request: Request) -> None:
        self._pcrs = pcrs
        self._hash = hash_named(hash_name)
        self._request = request
        self._checked: set[int] = set()
        self.event_ids: list[str] = []
        self.findings: list[Finding] = []

    def run(self) -> None:
        boot = self._request.boot
        unreadable = boot.parse() if boot else ()
        self.event_ids += unreadable
        if self._request.bound_text is not None:
            self._check_binding(self._request.bound_text)
        if IMA_PCR in self._pcrs:
            self._checked.add(IMA_PCR)
            if self._request.log:
                self.event_ids += self._request.log(self._pcrs[IMA_PCR])
            else:
                self._note([finding("runtime.log-missing")])
        if boot and not unreadable:
            found, compared = boot.compare(self._pcrs)
            self.event_ids += found
            self._checked.update(compared)
        self._check_values()
        self._check_presence()
        if boot:
            self.event_ids += boot.evaluate(self._pcrs, parsed=not unreadable)

    def _note(self, found: Sequence[Finding]) -> None:
        self.findings += found
        self.event_ids += event_ids(found)

    def _check_binding(self, text: str) -> None:
        """Check that PCR 16 was reset and extended once, with the digest of ``text``."""
        culprit = f"PCR {DATA_PCR}"
        if DATA_PCR not in self._pcrs:
            self._note([finding("identity.binding-missing", culprit)])
            return
        self._checked.add(DATA_PCR)
        expected = self._hash.digest(bytes(self._hash.size) + self._hash.digest(text.encode("utf-8")))
        if not hmac.compare_digest(self._pcrs[DATA_PCR], expected):
            self._note([finding("identity.binding-mismatch", culprit)])

    def _check_values(self) -> None:
        """Compare what no other check has dealt with. A PCR that the policy does not name may have any value."""
        for pcr in sorted(self._pcrs.keys() - self._checked):
            allowed = self._request.tpm_policy.values.get(pcr)
            value = self._pcrs[pcr].hex()
            if allowed is not None and value not in allowed:
                found = f"PCR {pcr} is {value}, which is none of the {len(allowed)} allowed values."
                self._note([finding("boot.pcr-value", f"PCR {pcr}", found)])

    def _check_presence(self) -> None:
        missing = self._request.tpm_policy.values.keys() - self._pcrs.keys()
        if (self._request.log or self._request.log_wanted) and IMA_PCR not in self._pcrs:
            missing |= {IMA_PCR}
        if missing:
            found = f"PCRs {sorted(missing)} were not quoted."
            self._note([finding("quote.pcr-missing", f"PCR {min(missing)}", found)])
