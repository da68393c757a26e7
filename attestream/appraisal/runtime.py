"""Appraisal of the IMA log: every entry against the policy, and the whole of it against the quoted PCR 10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from attestream.appraisal.collector import Collector
from attestream.appraisal.devices import Device, appraise_devices
from attestream.appraisal.entries import EntryJudge, Trace
from attestream.appraisal.runtime_policy import RuntimePolicy
from attestream.appraisal.state import AttesterState, LearnedKey
from attestream.appraisal.text import printable
from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.hashing import bank_hash, extension
from attestream.ima.log import ASCII, BINARY, Form
from attestream.ima.memo import Memo
from attestream.ima.replay import Replay
from schemas.attestation import ImaDelta

MAX_ENTRIES: Final = 4_000_000
"""Entries in one appraisal, and of a log that comes in several."""


class Context(NamedTuple):
    """What entries are judged by, beside the attester's state."""

    policy: RuntimePolicy
    bank: str
    scope: str = ""
    """Digest of the policy document: names what the memo may share between attesters."""
    boot_aggregates: frozenset[bytes] = frozenset()
    """Digests (field ``d-ng``) of the first entry that follow from the boot log: :mod:`attestream.ima.boot_aggregate`."""
    memo: Memo | None = None
    trace: Trace | None = None
    """Called with each entry and the decision about it. It makes an appraisal slow: nothing is remembered for it."""


class Proven(NamedTuple):
    """What the log and the quote prove together."""

    complete: bool
    """False: the log does not start where it must, or it goes on behind what has come; it is asked for again. What is here
    then of its beginning was judged and replayed, and is proven together with the rest."""
    entries: int = 0
    value: bytes = b""
    tail: int = 0
    padded: bool = False
    """Whether the kernel pads SHA-1 digests with zeros, as kernels before 5.8 do."""
    keys: tuple[LearnedKey, ...] = ()
    devices: Mapping[str, Device] = {}


def appraise_log(
    delta: ImaDelta | None, quoted: bytes, context: Context, *, state: AttesterState, rebooted: bool, findings: Collector
) -> Proven:
    """Appraise the log entries of one evidence.

    :param quoted: PCR 10 of the context's bank, checked against the quote.
    :param state: with ``ima_entries`` 0 when the log has to start over.
    :param rebooted: whether PCR 10 may have started over since ``state``: then a log that does not start at 0 is no fault.
    """
    first = state.ima_entries if delta is None else delta.ima_first
    if first not in (0, state.ima_entries):
        if not rebooted:
            findings.add(
                "runtime.log-offset", f"entry {first}", f"The log starts at entry {first}; {state.ima_entries} are proven."
            )
        return Proven(complete=False)
    start = _Start.of(state) if first else _Start()
    if delta is not None:
        proven = _replayed(delta, quoted, context, start, findings)
    elif quoted == (start.value or bytes(len(quoted))):
        proven = start.proven()
    elif rebooted:
        return Proven(complete=False)
    else:
        findings.add("runtime.log-missing")
        return Proven(complete=True)
    if proven is None:
        return Proven(complete=True)
    if not proven.complete:
        return proven._replace(tail=max(0, state.ima_entries + state.tail - proven.entries))
    if proven.entries < state.ima_entries + state.tail:
        findings.add("runtime.no-progress", f"entry {proven.entries}")
    elif proven.entries == 0:
        findings.add("runtime.log-empty")
    return proven


class _Start(NamedTuple):
    """What was proven before the first entry at hand."""

    entries: int = 0
    value: bytes = b""
    padded: bool = False
    keys: tuple[LearnedKey, ...] = ()
    devices: Mapping[str, Device] = {}

    @classmethod
    def of(cls, state: AttesterState) -> _Start:
        devices = {device.key: device for device in state.devices}
        return cls(state.ima_entries, state.ima_pcr, state.ima_padded, state.ima_keys, devices)

    def proven(self) -> Proven:
        return Proven(True, self.entries, self.value, 0, self.padded, self.keys, self.devices)


def _replayed(delta: ImaDelta, quoted: bytes, context: Context, start: _Start, findings: Collector) -> Proven | None:
    """Return what the entries prove; None when they prove nothing, for which there are findings then."""
    form = ASCII if delta.ascii else BINARY
    mark = findings.mark()
    walk = _Walk(delta, form, quoted, context, start, findings)
    readable = walk.run()
    # A kernel that pads does so from its first entry on: one log never has both kinds.
    unproven = readable and walk.proven is None and not (start.entries or delta.more)
    if unproven and _replays_padded(delta, form, quoted, context.bank):
        findings.rewind(mark)
        walk = _Walk(delta, form, quoted, context, start._replace(padded=True), findings)
        readable = walk.run()
        findings.add("runtime.padded")
    if readable:
        walk.finish()
    return walk.result()


def _replays_padded(delta: ImaDelta, form: Form, quoted: bytes, bank: str) -> bool:
    if bank == "sha1":
        return False
    extend = extension(bank, padded=True)
    replay = Replay(bank, b"", quoted)
    for record in form.split(delta.data):
        _, digest, _, data = form.parse(record)
        replay.feed(extend.of(data) if any(digest) else extend.violation)
        if replay.proven is not None:
            return True
    return False


class _Walk:
    """One pass over a log: replay and judgement, entry by entry."""

    def __init__(
        self, delta: ImaDelta, form: Form, quoted: bytes, context: Context, start: _Start, findings: Collector
    ) -> None:
        self._delta = delta
        self._form = form
        self._quoted = quoted
        self._context = context
        self._start = start
        self._findings = findings
        self._judge = EntryJudge(
            context.policy,
            form,
            context.bank,
            start.keys,
            start.devices,
            findings,
            padded=start.padded,
            scope=context.scope,
            boot_aggregates=context.boot_aggregates,
            memo=context.memo,
            trace=context.trace,
        )
        self._value = start.value or bytes(len(quoted))
        self._seen = 0
        self.proven: int | None = None
        """Entries that the quote proves; None while it proves none."""
        self._keys, self._devices = start.keys, start.devices

    def run(self) -> bool:
        """Return whether the log could be read to its end."""
        if self._value == self._quoted:
            self.proven = 0
        try:
            self._walk()
        except MalformedError as error:
            code = "runtime.template-unknown" if isinstance(error, UnsupportedError) else "runtime.entry-malformed"
            culprit = f"entry {self._delta.ima_first + self._seen}"
            self._findings.add(code, culprit, f"An entry can not be read: {printable(error.message)}.")
            return False
        if self._seen > MAX_ENTRIES or (self._delta.more and self._start.entries + self._seen > MAX_ENTRIES):
            self._findings.add("runtime.log-too-long", "", f"The log has more than {MAX_ENTRIES} entries.")
            return False
        return True

    def _walk(self) -> None:
        new = bank_hash(self._context.bank)
        judge, quoted, first = self._judge, self._quoted, self._delta.ima_first
        value, proven, seen = self._value, self.proven is not None, 0
        judged, cleared = judge.judge, judge.cleared
        known, generation = judge.known(), cleared.generation if cleared is not None else 0
        try:
            for record in self._form.split(self._delta.data):
                extended = known.get(record)
                if extended is None:
                    extended = judged(record, first + seen, proven)
                    if cleared is not None and cleared.generation != generation:
                        known, generation = judge.known(), cleared.generation
                seen += 1
                if not proven:
                    value = new(value + extended).digest()
                    if value == quoted:
                        proven, self.proven = True, seen
                        self._keys, self._devices = judge.keys, judge.devices
                if seen > MAX_ENTRIES:
                    break
        finally:
            self._seen, self._value = seen, value

    def finish(self) -> None:
        """Add what can only be said of the log as a whole."""
        delta = self._delta
        if self._seen != delta.count:
            self._findings.add("runtime.log-count", "", f"The log has {self._seen} entries; the agent says {delta.count}.")
        if self.proven is None:
            if not delta.more:
                self._findings.add("runtime.log-mismatch", f"entries {delta.ima_first} to {delta.ima_first + self._seen}")
        elif self._context.policy.devices is not None:
            for breach in appraise_devices(self._context.policy.devices, self._judge.devices):
                self._findings.add(breach.reason.value, printable(breach.blamed), printable(breach.message))

    def result(self) -> Proven | None:
        """Return what the entries prove."""
        if self.proven is None and self._delta.more:
            seen, judge = self._start.entries + self._seen, self._judge
            return Proven(False, seen, self._value, 0, self._start.padded, judge.keys, judge.devices)
        if self.proven is None:
            return None
        entries = self._start.entries + self.proven
        tail = self._seen - self.proven
        return Proven(True, entries, self._value, tail, self._start.padded, self._keys, self._devices)
