"""Judges single entries of the IMA log, and keeps what one entry means for those behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attestream.appraisal.collector import Collector
from attestream.appraisal.devices import Breach, Device, appraise_event
from attestream.appraisal.runtime_policy import EVM_KEYRINGS, Decision, Proofs, RuntimePolicy
from attestream.appraisal.state import LearnedKey
from attestream.appraisal.text import printable
from attestream.ima.device_mapper import EVENTS
from attestream.ima.hashing import extension
from attestream.ima.keys import KeyRing, SigningKey, load_public_der
from attestream.ima.log import IMA_PCR, Entry, Form, make_entry
from attestream.ima.memo import Memo

MAX_LEARNED: Final = 64
"""Keys that one attester's log can teach."""
MAX_BAD_SIGNATURES: Final = 256
"""Entries refused in one pass whose signatures are checked; behind them none is: each check costs the verifier."""

Trace = Callable[[Entry, Decision], None]
"""Called with an entry and the decision about it."""


_LISTED: Final = Decision("runtime.digests")


class EntryJudge:
    """Judges the entries of one log in their order.

    :param scope: digest of the policy document, see :class:`attestream.appraisal.runtime.Context`.
    :param padded: whether the kernel pads SHA-1 digests.
    """

    __slots__ = (
        "_aggregates",
        "_by_digest_alone",
        "_digests",
        "_extend",
        "_extended",
        "_findings",
        "_memo",
        "_parse",
        "_plain",
        "_policy",
        "_refused",
        "_rings",
        "_scope",
        "_trace",
        "cleared",
        "devices",
        "keys",
    )

    def __init__(
        self,
        policy: RuntimePolicy,
        form: Form,
        bank: str,
        keys: tuple[LearnedKey, ...],
        devices: Mapping[str, Device],
        findings: Collector,
        *,
        padded: bool,
        scope: str,
        boot_aggregates: frozenset[bytes],
        memo: Memo | None,
        trace: Trace | None,
    ) -> None:
        self._policy = policy
        self._by_digest_alone = policy.by_digest_alone and trace is None
        self._digests = policy.digests
        self._parse, self._plain = form.parse, form.plain
        self._extend = extension(bank, padded=padded)
        self._extended = self._extend.of
        self._findings = findings
        self._memo = memo
        self.cleared = memo.cleared if memo is not None and scope and trace is None else None
        """Records that were judged before, of all the fleet; None when nothing is remembered."""
        self._scope = f"{bank}/{'padded' if padded else 'plain'}/{scope}"
        self._trace = trace
        self._aggregates = boot_aggregates
        self.keys = keys
        """Keys that the entries so far put on allowed keyrings."""
        self.devices = devices
        """Devices after the entries so far."""
        self._rings: tuple[KeyRing, KeyRing] | None = None
        self._refused = 0

    def known(self) -> Mapping[bytes, bytes]:
        """Return records that need no judgement, with what they extend; stale with the generation of :attr:`cleared`."""
        return self.cleared.known(self._scope) if self.cleared is not None else {}

    def judge(self, record: bytes, index: int, tail: bool) -> bytes:
        """Judge the entry in ``record`` and return what it extends.

        :param index: its place in the log, from 0.
        :param tail: whether the quote proves a position before it already.
        :raises MalformedError: when it can not be read.
        :raises UnsupportedError: when its template is unknown.
        """
        cleared = self.cleared
        if cleared is not None and cleared.generation and (value := cleared.recall(self._scope, record)) is not None:
            return value
        if self._by_digest_alone and (plain := self._plain(record)) is not None:
            # Nearly every entry ends here: a file with a listed digest, and nothing out of the ordinary.
            path, digest, data = plain
            allowed = self._digests.get(path)
            if allowed is not None and (digest == allowed if type(allowed) is bytes else digest in allowed):
                value = self._extended(data)
                if cleared is not None:
                    cleared.add(self._scope, record, value)
                return value
        entry = make_entry(self._parse(record), self._extend)
        if entry.violation or not entry.consistent or entry.pcr != IMA_PCR:
            self._note_oddity(entry, index, tail)
            return entry.value
        if self._by_digest_alone and entry.buffer is None and self._is_listed(entry):
            decision = _LISTED
        else:
            decision = self._decide(entry)
        if cleared is not None and decision.allowed and decision.lasting:
            cleared.add(self._scope, record, entry.value)
        return entry.value

    def _is_listed(self, entry: Entry) -> bool:
        allowed = self._digests.get(entry.path)
        return allowed is not None and (entry.digest == allowed if type(allowed) is bytes else entry.digest in allowed)

    def _decide(self, entry: Entry) -> Decision:
        if entry.buffer is not None and self._policy.devices is not None and _name(entry) in EVENTS:
            decision = self._decide_device(entry, entry.buffer)
        else:
            decision = self._policy.decide(entry, self._proofs(entry))
            if decision.key is not None:
                decision = self._learn(entry, decision, decision.key)
            if not decision.allowed:
                self._refused += 1
                self._findings.add(decision.code, printable(entry.path), printable(decision.message))
        if self._trace is not None:
            self._trace(entry, decision)
        return decision

    def _proofs(self, entry: Entry) -> Proofs:
        signed = bool(entry.signature or entry.more)
        if signed and self._rings is None:
            loaded = [(key.keyring, load_public_der(key.der, key.keyid)) for key in self.keys]
            evm = KeyRing(key for keyring, key in loaded if keyring in EVM_KEYRINGS)
            self._rings = KeyRing(key for _, key in loaded), evm
        memo = self._memo.signatures if self._memo is not None else None
        ring, evm_ring = self._rings if signed and self._rings is not None else (KeyRing(), KeyRing())
        return Proofs(ring, self._aggregates, memo, signatures=self._refused < MAX_BAD_SIGNATURES, evm_keys=evm_ring)

    def _learn(self, entry: Entry, decision: Decision, key: SigningKey) -> Decision:
        learned = LearnedKey(entry.path, key.keyid, key.der)
        if learned in self.keys:
            return decision
        if len(self.keys) >= MAX_LEARNED:
            text = f"It is one key more than the {MAX_LEARNED} that are remembered."
            return Decision(decision.rule, "runtime.key-unknown", text)
        self.keys = (*self.keys, learned)
        self._rings = None
        return decision

    def _decide_device(self, entry: Entry, buffer: bytes) -> Decision:
        policy = self._policy.devices
        if policy is None:
            raise AssertionError("device mapper events are judged here only under a policy for them")
        breaches, self.devices = appraise_event(_name(entry), entry.digest, buffer, policy, self.devices)
        for breach in breaches:
            self._findings.add(breach.reason.value, printable(breach.blamed), printable(breach.message))
        first: Breach | None = breaches[0] if breaches else None
        code, message = (first.reason.value, first.message) if first is not None else ("", "")
        return Decision("runtime.device_mapper", code, message, lasting=False)

    def _note_oddity(self, entry: Entry, index: int, tail: bool) -> None:
        culprit = printable(entry.path)
        code = ""
        if entry.violation:
            code = {"warn": "runtime.violation", "fail": "runtime.violation-refused"}.get(self._policy.violations, "")
            # In the tail nothing is proven yet, and the entry comes again: a warning is given once, when it is.
            if code and not (tail and code == "runtime.violation"):
                self._findings.add(code, culprit)
        if not entry.consistent:
            code = "runtime.entry-digest"
            self._findings.add(code, culprit)
        if entry.pcr != IMA_PCR:
            code = "runtime.entry-pcr"
            self._findings.add(code, culprit, f"Entry {index} was measured into PCR {entry.pcr}, not {IMA_PCR}.")
        if self._trace is not None:
            self._trace(entry, Decision("runtime.violations" if entry.violation else "", code))


def _name(entry: Entry) -> str:
    return entry.path.decode("ascii", "replace")
