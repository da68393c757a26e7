"""Appraisal of the IMA log: every entry against the policy, and the whole of it against the quoted PCR 10."""

from __future__ import annotations

from typing import Final, NamedTuple

from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import RuntimePolicy
from attestream.appraisal.state import AttesterState
from attestream.appraisal.text import printable
from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.log import IMA_PCR, Entry, read_ascii, read_binary
from attestream.ima.memo import Memo
from attestream.ima.replay import Replay
from schemas.attestation import ImaDelta

MAX_ENTRIES: Final = 4_000_000
"""Entries in one appraisal."""


class Proven(NamedTuple):
    """What the log and the quote prove together."""

    complete: bool
    """False: the log does not start where it must; it is asked for again."""
    entries: int = 0
    value: bytes = b""
    tail: int = 0


def appraise_log(
    delta: ImaDelta | None,
    quoted: bytes,
    *,
    bank: str,
    policy: RuntimePolicy,
    state: AttesterState,
    rebooted: bool,
    findings: Collector,
    memo: Memo | None = None,
) -> Proven:
    """Appraise the log entries of one evidence.

    :param quoted: PCR 10 of ``bank``, checked against the quote.
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
    replay = Replay(bank, state.ima_pcr if first else b"", quoted)
    if delta is None:
        if rebooted and replay.proven is None:
            return Proven(complete=False)
        if replay.proven is None:
            findings.add("runtime.log-missing")
    elif _feed(delta, replay, bank, policy, findings, memo):
        _check_replay(delta, replay, findings)
    entries = first + (replay.proven or 0)
    if replay.proven is not None:
        if entries < state.ima_entries + state.tail:
            findings.add("runtime.no-progress", f"entry {entries}")
        elif entries == 0:
            findings.add("runtime.log-empty")
    return Proven(True, entries, replay.value, replay.tail)


def _check_replay(delta: ImaDelta, replay: Replay, findings: Collector) -> None:
    if replay.seen != delta.count:
        findings.add("runtime.log-count", "", f"The log has {replay.seen} entries; the agent says {delta.count}.")
    if replay.proven is None:
        culprit = f"entries {delta.ima_first} to {delta.ima_first + replay.seen}"
        findings.add("runtime.log-mismatch", culprit)


def _feed(delta: ImaDelta, replay: Replay, bank: str, policy: RuntimePolicy, findings: Collector, memo: Memo | None) -> bool:
    """Replay and judge each entry; return whether the log could be read to its end."""
    read = read_ascii if delta.ascii else read_binary
    judge, feed = policy.judge, replay.feed
    try:
        for entry in read(delta.data, bank, memo):
            tail = feed(entry.value)
            if entry.violation or not entry.consistent or entry.pcr != IMA_PCR:
                _note_oddity(entry, tail, delta.ima_first + replay.seen - 1, findings)
            elif code := judge(entry.path, entry.digest):
                findings.add(code, printable(entry.path))
            if replay.seen > MAX_ENTRIES:
                findings.add("runtime.log-too-long", "", f"The log has more than {MAX_ENTRIES} entries.")
                return False
    except MalformedError as error:
        code = "runtime.template-unknown" if isinstance(error, UnsupportedError) else "runtime.entry-malformed"
        findings.add(
            code, f"entry {delta.ima_first + replay.seen}", f"An entry can not be read: {printable(error.message)}."
        )
        return False
    return True


def _note_oddity(entry: Entry, tail: bool, index: int, findings: Collector) -> None:
    culprit = printable(entry.path)
    if entry.pcr != IMA_PCR:
        findings.add("runtime.entry-pcr", culprit, f"Entry {index} was measured into PCR {entry.pcr}, not {IMA_PCR}.")
    if not entry.consistent:
        findings.add("runtime.entry-digest", culprit)
    # In the tail nothing is proven yet, and the entry comes again: a warning is given once, when it is.
    if entry.violation and not tail:
        findings.add("runtime.violation", culprit)
