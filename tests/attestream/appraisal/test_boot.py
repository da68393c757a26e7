"""The boot log in a policy and in an appraisal: proven first, then judged; asked for once in each boot."""

import hashlib
import json

import pytest

from attestream.appraisal import freshness
from attestream.appraisal.appraise import Verdict, appraise, needs_boot_log
from attestream.appraisal.boot import appraise_boot_log, compile_boot, proven_dictionary
from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import compile_policy
from attestream.appraisal.state import decode_state, fresh
from attestream.errors import PolicyError
from attestream.tpm.public import parse_public
from attestream.uefi import kinds
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.guid import GLOBAL_VARIABLE
from attestream.uefi.memo import EventMemo
from attestream.uefi.parser import parse_log
from attestream.uefi.policy.create import create_reference_state
from attestream.uefi.policy.logic import AcceptAll, Test
from attestream.uefi.policy.measured import DigestTest
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy, judge
from attestream.uefi.policy.structure import Dispatcher, FieldTest, IterateTest
from devtools.boot_log import BootLog, variable
from devtools.grub_boot import FORBIDDEN, grub_boot
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge

KEYS = KeyPool(size=2)
SECRET = bytes(32)
NOW = 1_790_000_000_000
GOOD, NEXT = grub_boot(), grub_boot(kernel=b"the next kernel")
STATES = [create_reference_state(bytes(log)) for log in (GOOD, NEXT)]
BOOT = {"policy": "example", "reference_states": STATES}
RULES = compile_boot(BOOT)
MEMO = EventMemo()


def judged(log: BootLog, *, shown: bytes | None = None, rules=RULES, bank="sha256"):
    """Return what is found when ``log`` was measured and ``shown``, by default the same, is sent."""
    quoted = {pcr: log.pcrs["sha256"].get(pcr, bytes(32)) for pcr in rules.pcrs}
    data = bytes(log) if shown is None else shown
    told = []
    # Never seen, seen by machines with other logs, and seen: it must make no difference.
    for memo in (None, MEMO, MEMO, MEMO):
        findings = Collector()
        good = appraise_boot_log(data, quoted, bank=bank, rules=rules, findings=findings, memo=memo)
        assert good is not bool(findings.all())
        told.append(findings.all())
    assert told == told[:1] * len(told)
    return told[0]


def codes(found):
    return [(finding.code, finding.culprit) for finding in found]


@pytest.mark.parametrize("log", [GOOD, NEXT], ids=["current", "next"])
def test_the_current_and_the_next_boot_are_both_allowed(log):
    assert judged(log) == ()


def test_what_a_policy_prepares_for_changes_nothing_of_what_it_judges():
    assert len(RULES.signatures.signatures) == len(FORBIDDEN) + 1
    for log in (GOOD, grub_boot(forbidden=FORBIDDEN[1:]), grub_boot(db=[b"another"])):
        parsed, proven = parse_log(bytes(log)), {pcr: log.pcrs["sha256"].get(pcr, bytes(32)) for pcr in RULES.pcrs}
        form = proven_dictionary(parsed, "sha256", proven, forms=RULES.signatures)
        assert json.dumps(form) == json.dumps(proven_dictionary(parsed, "sha256", proven))


def test_another_boot_is_refused_with_the_reason_for_each_reference_state():
    [found] = judged(grub_boot(kernel=b"other"))
    assert (found.code, found.layer, found.severity) == ("boot.policy", "boot", "failure")
    for state in STATES:
        assert state["kernels"][0]["kernel_authcode_sha256"][2:] in found.message
    [found] = judged(grub_boot(secure_boot=False))
    assert found.culprit == "event 4 (PCR 7, EV_EFI_VARIABLE_DRIVER_CONFIG)"
    assert found.message == "The boot policy example refuses the log: Event VariableData Enabled is not 'Yes'."


@pytest.mark.parametrize(
    ("log", "culprit"),
    [
        (grub_boot(command_line="(hd0,gpt2)/vmlinuz root=/dev/vda2 ro init=/bin/sh"), "(PCR 8, EV_IPL): kernel_cmdlines"),
        (grub_boot(kernel=b"the next kernel", command_line="(hd0,gpt2)/vmlinuz rw"), "(PCR 8, EV_IPL): kernel_cmdlines"),
        (grub_boot(initrd=b"other"), "(PCR 9, EV_IPL): ipl9s"),
        (grub_boot(kernel=b"other"), "(PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION): bsas"),
    ],
    ids=["command line", "command line of the next boot", "initrd", "kernel"],
)
def test_what_is_judged_at_the_end_names_the_event_that_is_to_blame(log, culprit):
    [found] = judged(log)
    assert found.code == "boot.policy"
    assert found.culprit.startswith("event ")
    assert found.culprit.endswith(culprit)
    number = int(found.culprit.split()[1])
    event = next(event for event in to_dictionary(bytes(log))["events"] if event["EventNum"] == number)
    if "kernel_cmdlines" in culprit:
        assert event["Event"]["String"].startswith("kernel_cmdline: ")
        assert "kernel_cmdlines" in found.message


def test_what_is_missing_at_the_end_is_named():
    [found] = judged(grub_boot(kernel_loads=0))
    assert (found.code, found.culprit) == ("boot.policy", "bsas")
    [found] = judged(grub_boot(kernel_loads=3))
    assert found.culprit.endswith("EV_EFI_BOOT_SERVICES_APPLICATION): bsas")


def test_a_log_that_does_not_replay_is_not_read():
    found = judged(grub_boot(kernel=b"other", initrd=b"other"), shown=bytes(GOOD))
    assert codes(found) == [("boot.pcr-mismatch", "PCR 4"), ("boot.pcr-mismatch", "PCR 9")]


@pytest.mark.parametrize(
    ("shown", "code"),
    [(b"", "log-missing"), (b"no log", "log-malformed"), (bytes(GOOD)[:-1], "log-malformed")],
)
def test_a_log_that_is_missing_or_malformed(shown, code):
    assert [finding.code for finding in judged(GOOD, shown=shown)] == [f"boot.{code}"]


def test_a_log_without_the_bank_of_the_policy():
    assert codes(judged(GOOD, shown=bytes(grub_boot(banks=("sha1",))))) == [("boot.log-bank", "")]


def test_a_forged_variable_under_the_digest_of_another_is_found():
    """The digest replays; only the data says that Secure Boot was on. Verifiers that print and judge the log miss it."""
    log = grub_boot(secure_boot=False)
    off, on = (variable(GLOBAL_VARIABLE, "SecureBoot", bytes([state])) for state in (0, 1))
    forged = bytes(log).replace(off, on)
    assert forged != bytes(log)
    assert codes(judged(log, shown=forged)) == [("boot.event-unproven", "event 4")]


def test_a_forged_command_line_under_the_digest_of_another_is_found():
    log = grub_boot(command_line="(hd0,gpt2)/vmlinuz root=/dev/vda2 rw init=/bin/sh")
    forged = bytes(log).replace(b"rw init=/bin/sh", b"ro ima=fix     ")
    [found] = {code for code, _ in codes(judged(log, shown=forged))}
    assert found == "boot.event-unproven"


class Sha1Policy(BootPolicy):
    name = "by-sha1"
    pcrs = frozenset({4})

    def test_for(self, reference) -> Test:
        by_kind = Dispatcher(("EventType",))
        by_kind.set(("EV_NO_ACTION",), AcceptAll())
        by_kind.set(("EV_EFI_BOOT_SERVICES_APPLICATION",), DigestTest({"sha1": hashlib.sha1(b"shim").hexdigest()}))
        return FieldTest("events", IterateTest(by_kind))


def test_digests_of_a_bank_that_was_not_quoted_say_nothing():
    log = BootLog(("sha1", "sha256"))
    digests = {"sha1": hashlib.sha1(b"shim").digest(), "sha256": hashlib.sha256(b"evil").digest()}
    log.add_digests(4, kinds.EFI_BOOT_SERVICES_APPLICATION, bytes(32), digests)
    described = proven_dictionary(parse_log(bytes(log)), "sha256", {4: log.pcrs["sha256"][4]})
    [event] = described["events"][1:]
    assert event["Digests"] == [{"AlgorithmId": "sha256", "Digest": hashlib.sha256(b"evil").hexdigest()}]
    rules = compile_boot({"policy": "by-sha1", "reference_states": [{}]}, {"by-sha1": Sha1Policy()})
    assert judge(rules.tests[0], to_dictionary(bytes(log))).reason == ""
    assert [code for code, _ in codes(judged(log, rules=rules))] == ["boot.policy"]


def test_what_no_quoted_pcr_proves_does_not_reach_the_policy():
    log = grub_boot(locality=3)
    log.add(11, kinds.IPL, b"a boot stub\0")
    log.add(0, kinds.NO_ACTION, b"what anybody may write")
    assert judged(log) == ()


def test_accept_all_looks_at_pcrs_alone():
    rules = compile_boot({"policy": "accept-all"})
    assert rules.pcrs == tuple(range(8))
    assert judged(grub_boot(kernel=b"other"), rules=rules) == ()
    assert codes(judged(NEXT, shown=bytes(GOOD), rules=rules)) == [("boot.pcr-mismatch", "PCR 4")]
    assert codes(judged(GOOD, rules=compile_boot({"policy": "reject-all"}))) == [("boot.policy", "")]
    assert compile_boot({"policy": "accept-all", "pcrs": [4, 0]}).pcrs == (0, 4)
    assert compile_boot({**BOOT, "pcrs": [11]}).pcrs == (*range(10), 11, 14)


@pytest.mark.parametrize(
    ("boot", "place"),
    [
        ([], "boot: must be"),
        ({}, "boot: lacks the key 'policy'"),
        ({"policy": "example"}, "boot.reference_states: the policy example needs"),
        ({"policy": "example", "reference_states": []}, "boot.reference_states: the policy example needs"),
        ({"policy": "example", "reference_states": {}}, "boot.reference_states: must be a list"),
        ({"policy": "example", "reference_states": [{}] * 65}, "boot.reference_states: must be a list"),
        ({"policy": "example", "reference_states": [STATES[0], {}]}, "boot.reference_states[1]: refstate['kernels']"),
        ({"policy": "exemplary"}, "boot.policy: must be one of accept-all, example, reject-all"),
        ({"policy": ["example"]}, "boot.policy"),
        ({"policy": "accept-all", "states": []}, "'states'"),
        ({"policy": "accept-all", "pcrs": []}, "boot.pcrs: needs at least one"),
        ({"policy": "accept-all", "pcrs": [10]}, "boot.pcrs: 10"),
        ({"policy": "accept-all", "pcrs": [24]}, "boot.pcrs: 24"),
        ({"policy": "accept-all", "pcrs": [-1]}, "boot.pcrs: -1"),
        ({"policy": "accept-all", "pcrs": [True]}, "boot.pcrs: true"),
        ({"policy": "accept-all", "pcrs": "7"}, "boot.pcrs: must be a list"),
    ],
)
def test_rules_that_are_not_valid_are_refused_when_the_policy_is_compiled(boot, place):
    with pytest.raises(PolicyError) as error:
        compile_policy(document(boot=boot))
    assert place in error.value.message


def document(**more) -> bytes:
    return json.dumps({"format": "attestream-policy/1", "bank": "sha256", **more}).encode()


def test_the_policy_selects_the_pcrs_of_the_boot():
    assert compile_policy(document(boot=BOOT)).selection == {"sha256": [*range(10), 14]}
    assert compile_policy(document(boot=BOOT, pcrs={"7": ["00" * 32]})).selection == {"sha256": [*range(10), 14]}
    runtime = {"digests": {"boot_aggregate": ["sha256:" + "00" * 32]}}
    assert compile_policy(document(boot=BOOT, runtime=runtime)).selection == {"sha256": [*range(11), 14]}


def test_boot_policies_of_own_modules_can_be_named():
    policies = {**BUILT_IN, "by-sha1": Sha1Policy()}
    boot = {"policy": "by-sha1", "reference_states": [{}]}
    assert compile_policy(document(boot=boot), boot_policies=policies).selection == {"sha256": [4]}
    with pytest.raises(PolicyError):
        compile_policy(document(boot=boot))


class Machine:
    """An agent that has booted ``log``, and the verifier's side of it."""

    def __init__(self, log: BootLog, **more) -> None:
        self.agent = SoftAgent("agent-1", SoftTpm(ek="p256", ak="p256", keys=KEYS))
        self.agent.boot(bytes(log))
        self.policy = compile_policy(document(boot=BOOT, **more))
        self.state = fresh()
        self.seq = 0
        self.asked: list[bool] = []

    def attest(self):
        self.seq += 1
        self.asked.append(needs_boot_log(self.policy, self.state))
        challenge = Challenge(
            agent_id="agent-1",
            nonce=freshness.nonce(SECRET, "agent-1", self.seq, NOW),
            seq=self.seq,
            issued_at=NOW,
            deadline=NOW + 1000,
            banks=self.policy.selection,
            ima_from=self.state.ima_entries if self.policy.runtime else None,
            boot_log=self.asked[-1],
            known_digest=self.state.known_digest,
        )
        evidence = self.agent.answer(challenge)
        ak = parse_public(self.agent.tpm.ak_public)
        appraisal = appraise(evidence, agent_id="agent-1", ak=ak, policy=self.policy, state=self.state, now=NOW)
        self.state = decode_state(appraisal.state.encode())
        return appraisal

    def reboot(self, log: BootLog) -> None:
        self.agent.reboot()
        self.agent.boot(bytes(log))


def test_the_log_is_asked_for_once_in_each_boot():
    machine = Machine(GOOD)
    assert [machine.attest().verdict for _ in range(3)] == [Verdict.PASS] * 3
    assert machine.asked == [True, False, False]
    machine.reboot(NEXT)
    assert [machine.attest().verdict for _ in range(3)] == [Verdict.AGAIN, Verdict.PASS, Verdict.PASS]
    assert machine.asked[3:] == [False, True, False]


def test_a_reboot_into_another_kernel_fails():
    machine = Machine(GOOD)
    machine.attest()
    machine.reboot(grub_boot(kernel=b"other"))
    assert machine.attest().verdict is Verdict.AGAIN
    failed = machine.attest()
    assert failed.verdict is Verdict.FAIL
    assert "boot.policy" in [finding.code for finding in failed.findings]
    assert machine.attest().verdict is Verdict.FAIL


def test_a_pcr_of_the_boot_that_moves_later_fails():
    machine = Machine(GOOD)
    machine.attest()
    machine.agent.tpm.extend(4, {"sha1": bytes(20), "sha256": bytes(32)})
    assert machine.attest().verdict is Verdict.AGAIN
    failed = machine.attest()
    assert failed.verdict is Verdict.FAIL
    assert codes(failed.findings) == [("boot.pcr-mismatch", "PCR 4")]


def test_a_log_that_is_kept_back_fails_once_it_was_asked_for():
    machine = Machine(GOOD)
    machine.agent.boot_log = b""
    assert machine.attest().verdict is Verdict.AGAIN
    failed = machine.attest()
    assert (failed.verdict, codes(failed.findings)) == (Verdict.FAIL, [("boot.log-missing", "PCR 0")])


def test_another_policy_asks_for_the_log_again():
    machine = Machine(GOOD)
    machine.attest()
    machine.policy = compile_policy(document(boot={**BOOT, "reference_states": STATES[1:]}))
    verdicts = [machine.attest().verdict for _ in range(2)]
    assert machine.asked == [True, True, True]
    assert verdicts == [Verdict.AGAIN, Verdict.FAIL]


def test_a_warning_is_given_each_time():
    machine = Machine(grub_boot(kernel=b"other"), severities=[{"code": "boot[.]policy", "severity": "warning"}])
    for _ in range(3):
        appraisal = machine.attest()
        assert (appraisal.verdict, [finding.code for finding in appraisal.findings]) == (Verdict.PASS, ["boot.policy"])


def test_the_boot_aggregate_follows_from_the_boot_log():
    """No list of one boot aggregate for each machine is needed (keylime#546, #702)."""
    machine = Machine(GOOD, runtime={"digests": {"/usr/bin/ls": ["sha256:" + "11" * 32]}})
    machine.agent.boot_aggregate()
    assert machine.attest().verdict is Verdict.PASS
    forged = Machine(GOOD, runtime={"digests": {"/usr/bin/ls": ["sha256:" + "11" * 32]}})
    forged.agent.run("boot_aggregate", bytes(32))
    failed = forged.attest()
    assert (failed.verdict, failed.findings[0].culprit) == (Verdict.FAIL, "boot_aggregate")
