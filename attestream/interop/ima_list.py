"""Appraisal of measurement lists line by line, with the incumbent's event ids and its state between polls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from attestream.appraisal.devices import Device, appraise_event
from attestream.appraisal.runtime_policy import Proofs, RuntimePolicy
from attestream.errors import MalformedError
from attestream.ima.device_mapper import EVENTS
from attestream.ima.hashing import bank_hash, extension
from attestream.ima.keys import KeyRing, SigningKey, load_key, looks_like_key
from attestream.ima.log import Entry
from attestream.ima.memo import Generations
from attestream.interop.device_events import device_event_id
from attestream.interop.events import EVENTS as EVENT_IDS
from attestream.interop.ima_lines import BUF, SIG, Line, read_line
from attestream.interop.runtime_policy import DEFAULT_LOG_HASH, EMPTY, ConvertedPolicy, signature_rule

MAX_LINES: Final = 4_000_000

_INVALID_SIGNATURE: Final = "ima.validator.ima-sig.invalid_signature"


class Progress(NamedTuple):
    """How far a quote was behind the list."""

    matched: int
    """Line at which the list replayed to the quote; 0 before the first, -1 when there was nothing to compare with."""
    length: int
    """Lines of the list."""


class ListState(NamedTuple):
    """What is kept of an agent between polls."""

    next_entry: int = 0
    """``next_ima_ml_entry``: from where the next list is asked for."""
    value: bytes = b""
    """PCR 10 after the entries before it; empty for zeros."""
    learned: tuple[SigningKey, ...] = ()
    devices: Mapping[str, Device] = {}
    progress: Progress | None = None


class ListOutcome(NamedTuple):
    """What a list is found to be."""

    event_ids: tuple[str, ...]
    value: bytes
    """PCR 10 after all of its lines."""
    state: ListState


class Setting(NamedTuple):
    """By what lists are judged."""

    policy: ConvertedPolicy | None = None
    keys: KeyRing | None = None
    """Keys of the tenant; None: there are no keyrings, and signatures are not looked at."""
    bank: str = "sha1"
    boot_aggregates: Mapping[str, Sequence[str]] | None = None
    """Hash -> digests in hex that follow from the boot log."""
    violations_fail: bool = False
    """``ignore_tomtou_errors``, which means the opposite of its name."""
    memo: Generations[bool] | None = None


def appraise_list(
    lines: Sequence[str], quoted: bytes | None, setting: Setting, state: ListState | None = None
) -> ListOutcome:
    """Appraise the lines of one poll.

    :param quoted: PCR 10; None when the list is not compared with a quote.
    :param state: of the last poll; None when none is kept.
    :raises UnsupportedError: when the bank is not known.
    """
    judge = _ListJudge(setting, state or ListState())
    new = bank_hash(setting.bank)
    extend = extension(setting.bank)
    log_hash = setting.policy.log_hash if setting.policy is not None else DEFAULT_LOG_HASH
    value = (state.value if state is not None else b"") or bytes(new(b"").digest_size)
    matched = -1 if quoted is None else 0 if value == quoted else None
    after = state or ListState()
    length = 0
    for number, text in enumerate(lines[:MAX_LINES], start=1):
        line = text.strip("\n")
        if not line:
            continue
        length += 1
        try:
            read = read_line(line, log_hash, extend)
        except MalformedError:
            judge.event_ids.append("ima.parser.entry")
            continue
        value = new(value + read.entry.value).digest()
        judge.judge(read)
        if matched is None and value == quoted:
            matched = number
            after = after._replace(next_entry=after.next_entry + number, value=value, devices=judge.devices)
    after = after._replace(learned=judge.learned)
    if matched is None:
        judge.event_ids.append("ima.pcr_mismatch")
    elif state is not None:
        after = after._replace(progress=Progress(matched, length))
        if not _progressed(state.progress, matched, length):
            judge.event_ids.append("ima.quote_progress")
    # Any failure means that the whole list is read again.
    return ListOutcome(tuple(judge.event_ids), value, ListState() if judge.event_ids else after)


def _progressed(before: Progress | None, matched: int, length: int) -> bool:
    """Return whether the quote has caught up with the lines by which it was behind at the last poll."""
    if before is None or matched == length:
        return True
    behind = before.length - before.matched
    return behind <= 0 or matched >= behind


class _ListJudge:
    """Judges lines in their order."""

    def __init__(self, setting: Setting, state: ListState) -> None:
        self._setting = setting
        self._rules = self._rules_of(setting)
        self.event_ids: list[str] = []
        self.learned = state.learned
        self.devices: Mapping[str, Device] = state.devices if state.next_entry else {}
        self._ring = KeyRing(self.learned)
        self._aggregates = _aggregates(setting.boot_aggregates)

    @staticmethod
    def _rules_of(setting: Setting) -> RuntimePolicy | None:
        return None if setting.policy is None else setting.policy.with_keys(setting.keys)

    def judge(self, line: Line) -> None:
        if line.other_pcr:
            self.event_ids.append("ima.validation.ima_pcr")
        entry = line.entry
        if entry.violation:
            if self._setting.violations_fail:
                self.event_ids.append("ima.validation.tomtou")
        elif not entry.consistent:
            self.event_ids.append("ima.validation.ima_hash")
        elif entry.template == BUF and entry.buffer is not None:
            self._judge_buffer(entry, entry.buffer)
        else:
            self._judge_file(entry)

    def _judge_file(self, entry: Entry) -> None:
        proofs = Proofs(self._ring, self._aggregates, self._setting.memo)
        if self._rules is not None:
            self._note(self._rules.decide(entry, proofs).code)
        elif entry.template == SIG and self._setting.keys is not None:
            alone = dataclasses.replace(EMPTY, signatures=signature_rule(self._setting.keys))
            if not alone.decide(entry, proofs).allowed:
                self.event_ids.append(_INVALID_SIGNATURE)

    def _judge_buffer(self, entry: Entry, buffer: bytes) -> None:
        key = None
        if looks_like_key(buffer):
            try:
                key = load_key(buffer)
            except MalformedError as error:
                if error.code == "unsupported":
                    self.event_ids.append("ima.invalid_key")
                    return
        rules = self._rules
        if key is None and rules is not None and rules.devices is not None and _name(entry) in EVENTS:
            breaches, self.devices = appraise_event(_name(entry), entry.digest, buffer, rules.devices, self.devices)
            self.event_ids += [device_event_id(breach.reason, breach.event) for breach in breaches]
            return
        if rules is None:
            learned = key
        else:
            decision = rules.decide(entry, Proofs())
            self._note(decision.code)
            learned = decision.key
        if learned is not None and self._setting.keys is not None:
            self.learned = (*self.learned, learned)
            self._ring = KeyRing(self.learned)

    def _note(self, code: str) -> None:
        if code:
            self.event_ids.append(EVENT_IDS[code])


def _aggregates(given: Mapping[str, Sequence[str]] | None) -> frozenset[bytes]:
    if not given:
        return frozenset()
    # The name is a known one even when no digest follows from the boot log: nothing has an empty digest.
    return frozenset(bytes.fromhex(text) for texts in given.values() for text in texts) or frozenset({b""})


def _name(entry: Entry) -> str:
    return entry.path.decode("utf-8", "replace")
