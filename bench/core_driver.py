"""``python -m bench.core_driver DIRECTORY [time|held|peak PATHS]``: measures the core with the samples in ``DIRECTORY``.

The last line of its output is a JSON object. Compiling a policy is measured in a process of its own each time.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any, Final

from attestream.appraisal.appraise import Verdict, appraise
from attestream.appraisal.boot import appraise_boot_log
from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.appraisal.runtime import Context, appraise_log
from attestream.appraisal.state import fresh
from attestream.ima.memo import Memo
from attestream.tpm.public import parse_public
from attestream.uefi.memo import EventMemo
from bench.measuring import cpu_s, measure_making
from bench.samples import AGENT, QUOTES, content_digest, path_of
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import SoftTpm
from schemas.attestation import Challenge, Evidence, ImaDelta

KNOWN_MACHINES: Final = 3
"""Machines of the fleet that showed their boot logs before those that are measured."""
BOOT_RUNS: Final = 5


class Samples:
    """The directory of the samples."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def data(self, name: str) -> bytes:
        """Return the content of a file."""
        return self._directory.joinpath(name).read_bytes()

    def value(self, name: str) -> Any:
        """Return what a JSON file holds."""
        return json.loads(self.data(name))

    def policy(self, name: object) -> CompiledPolicy:
        """Return a policy, compiled."""
        return compile_policy(self.data(f"policy-{name}.json"))


def measure(samples: Samples) -> dict[str, float]:
    """Return the core's figures by name; those that end in ``_per_s`` are rates, the others microseconds."""
    figures: dict[str, float] = {}
    policy = samples.policy(100_000)
    figures["ima_cold_entries_per_s"], figures["ima_warm_entries_per_s"] = _log(samples, "ima-ng", policy)
    for kind in ("rsa", "ecdsa"):
        cold, _ = _log(samples, f"ima-sig-{kind}", samples.policy(kind))
        figures[f"ima_sig_{kind}_entries_per_s"] = cold
    figures["eventlog_policy_cold_per_s"], figures["eventlog_policy_per_s"] = _boot(samples)
    for kind in ("rsa2048", "p256"):
        figures[f"quote_{kind}_per_s"] = _quotes(samples, kind)
    for paths, compiled in (("0", samples.policy("poll")), ("10k", samples.policy(10_000)), ("100k", policy)):
        figures[f"poll_no_news_{paths}_us"] = _poll(compiled)
    return figures


def _log(samples: Samples, name: str, policy: CompiledPolicy) -> tuple[float, float]:
    """Return entries per second for a log that no agent has shown before, and for one that another agent has."""
    facts = samples.value(f"{name}.json")
    delta = ImaDelta(ima_first=0, count=facts["entries"], data=samples.data(f"{name}.bin"))
    pcr = bytes.fromhex(facts["pcr"])
    assert policy.runtime is not None
    known = Context(policy.runtime, policy.bank, policy.digest, memo=Memo())

    def appraised(context: Context) -> None:
        findings = Collector()
        proven = appraise_log(delta, pcr, context, state=fresh(), rebooted=False, findings=findings)
        if findings.all() or proven.entries != facts["entries"]:
            raise AssertionError(f"the good log {name} was refused: {findings.all()[:3]}")

    cold = cpu_s(lambda: appraised(known._replace(memo=Memo())))
    warm = cpu_s(lambda: appraised(known))
    return facts["entries"] / cold, facts["entries"] / warm


def _boot(samples: Samples) -> tuple[float, float]:
    """Return logs per second: of machines whose like was never seen, and of machines of a fleet of which others were.

    Each log is another machine's. They differ where those of real machines do, and what differs is read each time.
    """
    rules = samples.policy("boot").boot
    facts = samples.value("boot.json")
    shown = [facts["pcrs"], *facts["others"]]
    fleet = [
        (samples.data(f"boot-{number}.bin" if number else "boot.bin"), {int(pcr): bytes.fromhex(pcrs[pcr]) for pcr in pcrs})
        for number, pcrs in enumerate(shown)
    ]
    assert rules is not None

    def appraise_one(log: bytes, pcrs: dict[int, bytes], memo: EventMemo) -> None:
        findings = Collector()
        if not appraise_boot_log(log, pcrs, bank="sha256", rules=rules, findings=findings, memo=memo):
            raise AssertionError(f"the good boot log was refused: {findings.all()}")

    def cold() -> None:
        for machine in measured:
            appraise_one(*machine, EventMemo())

    def memo_of_others() -> EventMemo:
        memo = EventMemo()
        for machine in fleet[:KNOWN_MACHINES]:
            appraise_one(*machine, memo)
        return memo

    measured = fleet[KNOWN_MACHINES:]
    # One for each run: none may know a log that is measured.
    memos = iter([memo_of_others() for _ in range(BOOT_RUNS + 1)])

    def warm() -> None:
        memo = next(memos)
        for machine in measured:
            appraise_one(*machine, memo)

    return len(measured) / cpu_s(cold, runs=BOOT_RUNS), len(measured) / cpu_s(warm, runs=BOOT_RUNS)


def _quotes(samples: Samples, kind: str) -> float:
    facts = samples.value(f"quotes-{kind}.json")
    policy, ak = samples.policy(kind), parse_public(base64.b64decode(facts["ak"]))
    values = {"sha256": {int(pcr): bytes.fromhex(value) for pcr, value in facts["values"].items()}}
    evidences = [
        Evidence(
            agent_id=AGENT,
            enrolment=1,
            nonce=quote["nonce"].encode(),
            seq=1,
            issued_at=0,
            quote=bytes.fromhex(quote["quote"]),
            signature=bytes.fromhex(quote["signature"]),
            transport_key=bytes.fromhex(facts["transport_key"]),
            pcr_values=values,
        )
        for quote in facts["quotes"]
    ]

    def appraised() -> None:
        for evidence in evidences:
            found = appraise(evidence, agent_id=AGENT, ak=ak, policy=policy, state=fresh(), now=0)
            if found.verdict is not Verdict.PASS:
                raise AssertionError(f"a good quote was refused: {found.findings}")

    return len(evidences) / cpu_s(appraised)


def _poll(policy: CompiledPolicy) -> float:
    """Return the microseconds for an answer without news, of an agent that showed ten entries before."""
    agent = SoftAgent(AGENT, SoftTpm(ek="p256", ak="rsa2048", banks=("sha256",)))
    for name in ("boot_aggregate", *map(path_of, range(9))):
        agent.run(name, content_digest(name))
    ak = parse_public(agent.tpm.ak_public)
    runtime = policy.runtime is not None

    def asked(known: bytes) -> Evidence:
        wanted = 0 if runtime else None
        return agent.answer(
            Challenge(
                agent_id=AGENT,
                nonce=bytes(32),
                seq=1,
                issued_at=0,
                deadline=0,
                banks=policy.selection,
                ima_from=wanted,
                known_digest=known,
            )
        )

    first = appraise(asked(b""), agent_id=AGENT, ak=ak, policy=policy, state=fresh(), now=0)
    bare = [asked(first.state.pcr_digest) for _ in range(QUOTES)]

    def appraised() -> None:
        for evidence in bare:
            found = appraise(evidence, agent_id=AGENT, ak=ak, policy=policy, state=first.state, now=0)
            if found.verdict is not Verdict.PASS or evidence.pcr_values:
                raise AssertionError(f"an answer without news was refused: {found.findings}")

    return 1e6 * cpu_s(appraised) / len(bare)


def compiling(samples: Samples, what: str, paths: int) -> dict[str, float]:
    """Return what compiling a policy of ``paths`` paths takes: ``time`` in seconds, memory ``held`` or at its ``peak``."""
    document = samples.data(f"policy-{paths}.json")
    return {what: measure_making(what, lambda: compile_policy(document))}


if __name__ == "__main__":
    found = Samples(Path(sys.argv[1]))
    result = compiling(found, sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else measure(found)
    sys.stdout.write(json.dumps(result) + "\n")
