"""Whole appraisals: an honest or lying agent with a software TPM on one side, the pure function on the other."""

import hashlib
import json
from collections.abc import Callable

import msgspec
import pytest

from attestream.appraisal import freshness
from attestream.appraisal.appraise import Appraisal, Verdict, appraise
from attestream.appraisal.collector import MAX_FINDINGS
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.appraisal.state import AttesterState, decode_state, fresh
from attestream.errors import MalformedError
from attestream.ima.memo import Memo
from attestream.tpm.public import parse_public
from devtools import ima_log
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge, Evidence, ImaDelta, qualifying_data

KEYS = KeyPool(size=2)
SECRET = bytes(32)
NOW = 1_790_000_000_000
EVIL = hashlib.sha256(b"evil").digest()


def content(path: str) -> bytes:
    return hashlib.sha256(path.encode()).digest()


FILES = ["boot_aggregate", *(f"/usr/bin/tool-{number}" for number in range(30))]


def make_policy(*, bank="sha256", pcrs=(0, 7), runtime=True, **more) -> CompiledPolicy:
    size = hashlib.new(bank).digest_size
    document = {"format": "attestream-policy/1", "bank": bank, **more}
    if pcrs:
        document["pcrs"] = {str(pcr): [bytes(size).hex()] for pcr in pcrs}
    if runtime:
        digests = {path: [f"sha256:{content(path).hex()}"] for path in FILES}
        document["runtime"] = {"digests": digests, "excludes": ["/tmp/.*"]}
    return compile_policy(json.dumps(document).encode())


POLICY = make_policy()


class Bench:
    """A verifier's side of one agent: it challenges, appraises and keeps the state."""

    def __init__(self, policy: CompiledPolicy = POLICY, **tpm) -> None:
        self.tpm = SoftTpm(**{"ak": "p256", "ek": "p256", "keys": KEYS, "banks": ("sha1", "sha256"), **tpm})
        self.agent = SoftAgent("agent-1", self.tpm)
        self.ak = parse_public(self.tpm.ak_public)
        self.policy = policy
        self.state = fresh()
        self.seq = 0

    def run(self, *numbers: int) -> None:
        for number in numbers:
            self.agent.run(FILES[number], content(FILES[number]))

    def challenge(self) -> Challenge:
        self.seq += 1
        return Challenge(
            agent_id="agent-1",
            nonce=freshness.nonce(SECRET, "agent-1", self.seq, NOW),
            seq=self.seq,
            issued_at=NOW,
            deadline=NOW + 1000,
            banks=self.policy.selection,
            ima_from=self.state.ima_entries if self.policy.runtime else None,
            known_digest=self.state.known_digest,
        )

    def answer(self, **changes) -> Evidence:
        return msgspec.structs.replace(self.agent.answer(self.challenge()), **changes)

    def judge(self, evidence: Evidence, **changes) -> Appraisal:
        arguments = {"agent_id": "agent-1", "ak": self.ak, "policy": self.policy, "state": self.state, "now": NOW}
        return appraise(evidence, **{**arguments, **changes})

    def round(self, **changes) -> Appraisal:
        appraisal = self.judge(self.answer(**changes))
        self.state = appraisal.state
        return appraisal


@pytest.fixture
def bench() -> Bench:
    """An agent with three measured files that has been trusted once."""
    made = Bench()
    made.run(0, 1, 2)
    assert made.round().verdict is Verdict.PASS
    return made


def codes(appraisal: Appraisal) -> list[str]:
    return [finding.code for finding in appraisal.findings]


def culprits(appraisal: Appraisal) -> list[str]:
    return [finding.culprit for finding in appraisal.findings]


@pytest.mark.parametrize(
    "tpm",
    [
        {"ak": "rsa2048"},
        {"ak": "rsa2048", "ak_scheme": "rsapss"},
        {"ak": "p256"},
    ],
    ids=lambda tpm: "-".join(tpm.values()),
)
def test_honest_agent_passes_and_then_answers_bare(tpm):
    bench = Bench(**tpm)
    bench.run(0, 1, 2)

    first = bench.round()
    evidence = bench.answer()
    second = bench.judge(evidence)

    assert (first.verdict, first.findings) == (Verdict.PASS, ())
    assert bench.state.ima_entries == 3
    assert not evidence.pcr_values
    assert (second.verdict, second.findings) == (Verdict.PASS, ())
    assert second.state.clock >= first.state.clock
    assert msgspec.structs.replace(second.state, clock=first.state.clock) == first.state


@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
def test_every_bank(bank):
    bench = Bench(make_policy(bank=bank), banks=("sha1", bank))
    bench.run(0, 1)
    assert bench.round().verdict is Verdict.PASS

    bench.run(2)

    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 3


@pytest.mark.parametrize("parts", [{"runtime": False}, {"pcrs": ()}])
def test_policy_with_one_part(parts):
    bench = Bench(make_policy(**parts))
    bench.run(0)

    assert bench.round().verdict is Verdict.PASS
    assert bench.round().verdict is Verdict.PASS


def test_new_entries_come_as_a_delta(bench):
    bench.run(3, 4)
    evidence = bench.answer()
    assert evidence.ima is not None
    assert (evidence.ima.ima_first, evidence.ima.count) == (3, 2)

    appraisal = bench.judge(evidence)

    assert appraisal.verdict is Verdict.PASS
    assert appraisal.state.ima_entries == 5


def test_result_does_not_depend_on_the_memo(bench):
    bench.run(3, 4)
    bench.agent.run("/usr/bin/evil", EVIL)
    evidence, memo = bench.answer(), Memo()

    assert bench.judge(evidence) == bench.judge(evidence, memo=memo) == bench.judge(evidence, memo=memo)


def test_ascii_log(bench):
    bench.run(3, 4)
    lines = "".join(f"{record.ascii}\n" for record in bench.agent.log[3:]).encode()

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=lines, ascii=True))

    assert (appraisal.verdict, appraisal.state.ima_entries) == (Verdict.PASS, 5)


# What an attacker may try before PCRs are even looked at.


def test_quote_of_another_tpm(bench):
    other = Bench(keys=KeyPool())
    other.run(0, 1, 2)

    assert codes(bench.judge(other.answer())) == ["quote.signature-invalid"]


def test_quote_with_one_bit_changed(bench):
    evidence = bench.answer()
    quote = bytearray(evidence.quote)
    quote[-1] ^= 1

    appraisal = bench.judge(msgspec.structs.replace(evidence, quote=bytes(quote)))

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, ["quote.signature-invalid"])


def test_signed_structure_that_is_no_quote(bench):
    """A restricted key signs other things too; only TPMS_ATTEST of type quote counts."""
    attest = b"\xffTCG\x80\x17" + bench.answer().quote[6:]

    appraisal = bench.judge(bench.answer(quote=attest, signature=bench.tpm.sign(attest)))

    assert codes(appraisal) == ["quote.malformed"]


@pytest.mark.parametrize("field", ["quote", "signature"])
@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x14\x00\x0b\xff\xff", bytes(4000)])
def test_garbage_instead_of_quote_or_signature(bench, field, data):
    assert bench.judge(bench.answer(**{field: data})).verdict is Verdict.FAIL


def test_sha1_signature(bench):
    signature = bench.answer().signature

    appraisal = bench.judge(bench.answer(signature=signature[:2] + b"\x00\x04" + signature[4:]))

    assert codes(appraisal) == ["quote.algorithm"]


@pytest.mark.parametrize("change", [{"nonce": b"other"}, {"transport_key": b"\x01" * 32}])
def test_quote_is_bound_to_nonce_and_transport_key(bench, change):
    assert codes(bench.judge(bench.answer(**change))) == ["quote.qualifying-data"]


def test_quote_is_bound_to_the_agent(bench):
    """One TPM must not speak for two agents."""
    evidence = bench.answer()

    assert codes(bench.judge(evidence, agent_id="agent-2")) == ["identity.agent-mismatch"]
    renamed = msgspec.structs.replace(evidence, agent_id="agent-2")
    assert codes(bench.judge(renamed, agent_id="agent-2")) == ["quote.qualifying-data"]


# The TPM's own time.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reset_count": 1}, "quote.reset-count"),
        ({"restart_count": 1}, "quote.restart-count"),
        ({"clock": 1 << 40}, "quote.clock"),
    ],
)
def test_time_that_goes_back(bench, change, code):
    before = {name: getattr(bench.state, name) + more for name, more in change.items()}
    bench.state = msgspec.structs.replace(bench.state, **before)

    appraisal = bench.judge(bench.answer())

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, [code])
    assert appraisal.state.clock == bench.state.clock


def test_same_clock_twice_is_allowed(bench):
    evidence = bench.answer()
    bench.state = bench.judge(evidence).state

    assert bench.judge(evidence).verdict is Verdict.PASS


def test_after_a_reset_a_lower_clock_is_no_fault(bench):
    bench.state = msgspec.structs.replace(bench.state, clock=1 << 40)
    bench.agent.reboot()
    bench.run(0, 1, 2, 3)

    assert bench.round().verdict is Verdict.AGAIN
    assert bench.round().verdict is Verdict.PASS


@pytest.mark.parametrize("again", [(0,), (0, 1, 2), (0, 1, 2, 3, 4)], ids=["shorter log", "same log", "longer log"])
def test_reboot_needs_the_log_from_its_start(bench, again):
    bench.agent.reboot()
    bench.run(*again)

    appraisals = [bench.round()]
    if appraisals[0].verdict is Verdict.AGAIN:
        assert bench.state.ima_entries == 0
        assert bench.state.known_digest == b""
        appraisals.append(bench.round())

    assert appraisals[-1].verdict is Verdict.PASS
    assert bench.state.ima_entries == len(again)
    assert "quote.rebooted" in codes(appraisals[0])


def test_unclean_shutdown_is_only_noted(bench):
    bench.tpm.reboot(orderly=False)
    bench.agent.log.clear()
    bench.run(0)

    appraisal = bench.round()

    assert appraisal.verdict is not Verdict.FAIL
    assert {"quote.rebooted", "quote.clock-unsafe"} <= set(codes(appraisal))


def test_resume_from_suspend(bench):
    bench.tpm.resume()
    bench.run(3)

    assert bench.round().verdict is Verdict.AGAIN
    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 4


def test_reboot_does_not_excuse_a_forged_log(bench):
    bench.agent.reboot()
    bench.run(0)
    bench.round()
    bench.agent.run("/usr/bin/evil", EVIL)
    del bench.agent.log[-1]

    assert codes(bench.round()) == ["runtime.log-mismatch"]


def test_changed_firmware_warns(bench):
    bench.state = msgspec.structs.replace(bench.state, firmware=1)

    appraisal = bench.round()

    # The answer was bare, so the values are asked for once more.
    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["quote.firmware", "quote.values-missing"])


# What was quoted, what is claimed, and what the policy wants.


def lying(bench: Bench, banks: dict, values: dict, **changes) -> Appraisal:
    """Appraise a quote over ``banks`` with ``values`` claimed."""
    evidence = bench.answer(**changes)
    extra = qualifying_data(evidence.nonce, "agent-1", evidence.transport_key)
    quote, signature = bench.tpm.quote(extra, banks)
    return bench.judge(msgspec.structs.replace(evidence, quote=quote, signature=signature, pcr_values=values))


def values_of(bench: Bench, *pcrs: int, bank="sha256") -> dict:
    return {bank: {pcr: bench.tpm.pcr(bank, pcr) for pcr in pcrs}}


def test_quote_over_fewer_pcrs_than_claimed(bench):
    """CVE-2022-0317: what is not signed must not be believed."""
    appraisal = lying(bench, {"sha256": [0]}, values_of(bench, 0, 7, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.pcr-missing"], ["PCR 7"])


def test_more_claimed_than_quoted(bench):
    """CVE-2022-0317: a claim beside the signed ones is refused even when the policy does not ask for it."""
    appraisal = lying(bench, {"sha256": [0, 7, 10]}, values_of(bench, 0, 1, 7, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.selection"], ["PCR 1 (sha256)"])


def test_claimed_bank_that_was_not_quoted(bench):
    values = {**values_of(bench, 0, 7, 10), **values_of(bench, 0, bank="sha1")}

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.selection"]


def test_quote_over_no_pcrs(bench):
    """CVE-2022-0317, in its plainest form."""
    assert codes(lying(bench, {"sha256": []}, values_of(bench, 0, 7, 10))) == ["quote.pcr-missing"]
    assert codes(lying(bench, {"sha256": []}, {})) == ["quote.pcr-missing"]


def test_policy_pcr_that_was_not_quoted(bench):
    appraisal = lying(bench, {"sha256": [0, 10]}, values_of(bench, 0, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.pcr-missing"], ["PCR 7"])


def test_quote_of_another_bank(bench):
    """SHA-1 is quoted, SHA-256 is claimed or wanted."""
    assert codes(lying(bench, {"sha1": [0, 7, 10]}, values_of(bench, 0, 7, 10))) == ["quote.pcr-missing"]
    appraisal = lying(bench, {"sha1": [0, 7, 10]}, values_of(bench, 0, 7, 10, bank="sha1"))
    assert codes(appraisal) == ["quote.pcr-missing"]


def test_claimed_values_that_were_not_signed(bench):
    bench.tpm.extend(7, {"sha256": EVIL})
    values = values_of(bench, 0, 7, 10)
    values["sha256"][7] = bytes(32)

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.pcr-digest"]


def test_bytes_moved_from_one_value_to_the_next(bench):
    """The digest covers the values one after the other: each must have the size of its bank."""
    bench.tpm.extend(0, {"sha256": EVIL})
    values = values_of(bench, 0, 7, 10)
    values["sha256"][0], values["sha256"][7] = values["sha256"][0][:31], values["sha256"][0][31:] + values["sha256"][7]

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.pcr-digest"]


def test_more_pcrs_than_wanted_are_fine_but_never_known(bench):
    appraisal = lying(bench, {"sha256": [0, 1, 7, 10]}, values_of(bench, 0, 1, 7, 10))

    assert appraisal.verdict is Verdict.PASS
    assert appraisal.state.known_digest == b""


def test_known_digest_of_other_pcrs():
    """PCR 16 can be reset by anyone: with PCR 0's value in it, a quote over it has the known digest."""
    bench = Bench(make_policy(pcrs=(0,), runtime=False))
    assert bench.round().verdict is Verdict.PASS
    bench.tpm.extend(0, {"sha256": EVIL})

    assert codes(lying(bench, {"sha256": [16]}, {})) == ["quote.pcr-missing"]


def test_pcr_value_that_the_policy_does_not_allow(bench):
    bench.tpm.extend(7, {"sha256": EVIL})

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal), culprits(appraisal)) == (Verdict.FAIL, ["boot.pcr-value"], ["PCR 7"])
    assert bench.tpm.pcr("sha256", 7).hex() in appraisal.findings[0].message
    assert bench.state.known_digest == b""
    assert bench.state.ima_entries == 0


def test_values_left_out_although_they_changed(bench):
    bench.tpm.extend(7, {"sha256": EVIL})

    appraisal = bench.round(pcr_values={}, ima=None)

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["quote.values-missing"])


def test_another_policy_trusts_nothing_of_the_old_one(bench):
    bench.policy = make_policy(description="stricter")

    appraisal = bench.round()

    assert appraisal.verdict is Verdict.AGAIN
    assert (bench.state.ima_entries, bench.state.known_digest) == (0, b"")
    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 3


def test_answer_to_a_challenge_of_the_policy_before(bench):
    """It may be on its way while the policy changes: what it lacks is not the agent's fault."""
    evidence = bench.answer()
    bench.policy = make_policy(pcrs=(0, 1, 7))

    appraisal = bench.judge(evidence)

    assert (appraisal.verdict, appraisal.findings) == (Verdict.AGAIN, ())


def test_tpm_without_the_policys_bank():
    bench = Bench(banks=("sha1", "sha384"))
    bench.run(0)

    assert bench.round().verdict is Verdict.AGAIN
    assert codes(bench.round()) == ["quote.pcr-missing"]


# The IMA log.


def test_unknown_program_is_named(bench):
    bench.agent.run("/usr/bin/ev il\x1b[31m", EVIL)

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, ["runtime.path-unknown"])
    assert culprits(appraisal) == ["/usr/bin/ev_il\\x1b[31m"]
    assert bench.state.ima_entries == 0


def test_failure_stays_until_the_log_is_gone(bench):
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.round()

    assert codes(bench.round()) == ["runtime.path-unknown"]


def test_known_program_with_other_content(bench):
    bench.agent.run(FILES[5], EVIL)

    appraisal = bench.round()

    assert (codes(appraisal), culprits(appraisal)) == (["runtime.digest-unknown"], [FILES[5]])


def test_excluded_path(bench):
    bench.agent.run("/tmp/anything", EVIL)

    assert bench.round().verdict is Verdict.PASS


def test_ima_sig_entries_are_judged_by_digest(bench):
    bench.agent.run(FILES[4], content(FILES[4]), template="ima-sig", signature=b"\x03\x02")
    assert bench.round().verdict is Verdict.PASS

    bench.agent.run("/usr/bin/evil", EVIL, template="ima-sig", signature=b"\x03\x02")
    assert codes(bench.round()) == ["runtime.path-unknown"]


def forge(bench: Bench, change: Callable[[list[ima_log.Record]], None]) -> Appraisal:
    """Appraise with the log changed after the TPM has measured."""
    bench.run(3, 4)
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.run(5)
    change(bench.agent.log)
    return bench.round()


def test_entry_removed(bench):
    assert codes(forge(bench, lambda log: log.pop(5))) == ["runtime.log-mismatch"]


def test_log_cut_before_the_culprit(bench):
    def cut(log):
        del log[5:]

    assert codes(forge(bench, cut)) == ["runtime.log-mismatch"]


def test_entries_swapped(bench):
    def swap(log):
        log[3], log[4] = log[4], log[3]

    assert "runtime.log-mismatch" in codes(forge(bench, swap))


def test_culprit_replaced_by_an_allowed_file(bench):
    def replace(log):
        log[5] = ima_log.record(FILES[6], content(FILES[6]))

    assert codes(forge(bench, replace)) == ["runtime.log-mismatch"]


def test_culprit_rewritten_under_its_old_template_digest(bench):
    def rewrite(log):
        good = ima_log.record(FILES[6], content(FILES[6]))
        log[5] = good._replace(binary=good.binary[:4] + log[5].binary[4:24] + good.binary[24:])

    assert set(codes(forge(bench, rewrite))) == {"runtime.log-mismatch", "runtime.entry-digest"}


def test_culprit_disguised_as_a_violation(bench):
    def disguise(log):
        log[5] = ima_log.violation("/usr/bin/evil")

    assert "runtime.log-mismatch" in codes(forge(bench, disguise))


def test_log_missing_although_pcr_10_moved(bench):
    bench.run(3)

    assert codes(bench.round(ima=None)) == ["runtime.log-missing"]


def test_kernel_that_does_not_measure():
    """PCR 10 of zeros and an empty log agree, and prove nothing."""
    bench = Bench()

    assert codes(bench.round()) == ["runtime.log-empty"]
    assert codes(bench.round(ima=None)) == ["runtime.log-empty"]


@pytest.mark.parametrize("first", [2, 4, -1, 1 << 70])
def test_log_that_does_not_follow_what_is_proven(bench, first):
    bench.run(3)
    state = bench.state

    appraisal = bench.round(ima=ImaDelta(ima_first=first, count=1, data=bench.agent.log[3].binary))

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["runtime.log-offset"])
    assert (bench.state.ima_entries, bench.state.ima_pcr) == (state.ima_entries, state.ima_pcr)
    assert bench.round().verdict is Verdict.PASS


def test_whole_log_instead_of_the_delta(bench):
    bench.run(3)
    whole = b"".join(record.binary for record in bench.agent.log)

    appraisal = bench.round(ima=ImaDelta(ima_first=0, count=4, data=whole))

    assert (appraisal.verdict, bench.state.ima_entries) == (Verdict.PASS, 4)


def test_wrong_count(bench):
    bench.run(3)

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=bench.agent.log[3].binary))

    assert codes(appraisal) == ["runtime.log-count"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x0a", "runtime.entry-malformed"),
        (ima_log.record("/a", EVIL).binary.replace(b"ima-ng", b"ima-xx"), "runtime.template-unknown"),
    ],
)
def test_entry_that_can_not_be_read(bench, data, code):
    bench.run(3)

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=bench.agent.log[3].binary + data))

    assert (appraisal.verdict, codes(appraisal), culprits(appraisal)) == (Verdict.FAIL, [code], ["entry 4"])


def test_entry_of_another_pcr(bench):
    bench.agent.measure(ima_log.record(FILES[3], content(FILES[3]), pcr=11))
    bench.run(4)

    assert "runtime.entry-pcr" in codes(bench.round())


def test_violation_warns_once_and_keeps_trust(bench):
    bench.agent.violate("/var/log/journal")

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.PASS, ["runtime.violation"])
    assert culprits(appraisal) == ["/var/log/journal"]
    assert bench.round().findings == ()


def test_many_culprits_are_bounded(bench):
    for number in range(MAX_FINDINGS + 10):
        bench.agent.run(f"/evil/{number}", EVIL)

    appraisal = bench.round()

    assert len(appraisal.findings) == MAX_FINDINGS + 1
    assert codes(appraisal)[-1] == "runtime.more-findings"


# Log and quote are not taken at one instant.


def lagging(bench: Bench, *behind: int) -> Evidence:
    """Return evidence whose log was read after ``behind`` had been measured, and its quote before."""
    challenge = bench.challenge()
    early = bench.agent.answer(challenge)
    bench.run(*behind)
    late = bench.agent.answer(msgspec.structs.replace(challenge, known_digest=b""))
    return msgspec.structs.replace(early, ima=late.ima)


def test_log_may_run_ahead_of_the_quote(bench):
    bench.run(3)

    bench.state = bench.judge(lagging(bench, 4, 5)).state

    assert (bench.state.ima_entries, bench.state.tail, bench.state.known_digest) == (4, 2, b"")
    assert bench.round().verdict is Verdict.PASS
    assert (bench.state.ima_entries, bench.state.tail) == (6, 0)


def test_entries_ahead_of_the_quote_are_judged_already(bench):
    bench.run(3)
    challenge = bench.challenge()
    early = bench.agent.answer(challenge)
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.agent.violate("/later")
    late = bench.agent.answer(challenge)

    appraisal = bench.judge(msgspec.structs.replace(early, ima=late.ima))

    assert codes(appraisal) == ["runtime.path-unknown"]


def test_quote_that_never_catches_up(bench):
    """Entries that the log showed must be in the next quote: otherwise they were invented, or the PCR is not extended."""
    bench.run(3)
    invented = ima_log.record(FILES[4], content(FILES[4])).binary
    honest = bench.answer()
    assert honest.ima is not None
    ahead = msgspec.structs.replace(honest.ima, count=2, data=honest.ima.data + invented)
    bench.state = bench.judge(msgspec.structs.replace(honest, ima=ahead)).state
    assert bench.state.tail == 1

    assert codes(bench.round()) == ["runtime.no-progress"]


def test_whole_log_does_not_excuse_from_progress(bench):
    bench.run(3)
    bench.state = bench.judge(lagging(bench, 4)).state
    del bench.agent.log[4]
    whole = b"".join(record.binary for record in bench.agent.log)

    appraisal = bench.round(ima=ImaDelta(ima_first=0, count=4, data=whole))

    assert codes(appraisal) == ["runtime.log-mismatch"]


def test_state_survives_its_encoding(bench):
    assert decode_state(bench.state.encode()) == bench.state
    assert len(bench.state.encode()) < 256


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\x02\x03", bytes(5000)])
def test_state_that_is_none(data):
    with pytest.raises(MalformedError):
        decode_state(data)


def test_nothing_is_known_at_first():
    assert fresh() == AttesterState()
    assert fresh().known_digest == b""
