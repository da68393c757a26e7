import json

import msgspec
import pytest

from attestream.appraisal.appraise import Verdict, appraise
from attestream.appraisal.findings import FAILURE, FINDINGS
from attestream.appraisal.policy import compile_policy
from attestream.appraisal.severity import MAX_RULES, PROOF, PROTOCOL, compile_severities, is_fixed
from attestream.appraisal.state import fresh
from attestream.errors import PolicyError
from attestream.tpm.public import parse_public
from attestream.tpm.structures import build_quote, parse_quote
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge

KEYS = KeyPool(1)
EXPECTED = "11" * 32
"""No PCR has this value."""


def policy(*rules, pcrs=None, runtime=None, **more):
    document = {"format": "attestream-policy/1", "bank": "sha256", "severities": list(rules), **more}
    if pcrs is not None:
        document["pcrs"] = pcrs
    if runtime is not None:
        document["runtime"] = {"digests": runtime}
    return compile_policy(json.dumps(document).encode())


def rule(code, severity):
    return {"code": code, "severity": severity}


class Attester:
    """A software agent that is challenged and appraised again and again."""

    def __init__(self, tpm=None):
        self.tpm = tpm or SoftTpm(ek="p256", ak="p256", keys=KEYS)
        self.agent = SoftAgent("agent-1", self.tpm)
        self.state = fresh()
        self.seq = 0

    def appraise(self, policy, tamper=None):
        self.seq += 1
        challenge = Challenge(
            agent_id="agent-1",
            nonce=self.seq.to_bytes(32, "big"),
            seq=self.seq,
            issued_at=0,
            deadline=10_000,
            banks=policy.selection,
            ima_from=self.state.ima_entries if policy.runtime is not None else None,
            known_digest=self.state.known_digest,
        )
        evidence = self.agent.answer(challenge)
        if tamper is not None:
            evidence = tamper(evidence)
        result = appraise(
            evidence, agent_id="agent-1", ak=parse_public(self.tpm.ak_public), policy=policy, state=self.state, now=0
        )
        self.state = result.state
        return result


def codes(result):
    return [(found.code, found.severity) for found in result.findings]


def test_a_finding_that_is_lowered_to_a_warning_does_not_end_trust_and_is_said_each_time():
    """keylime 7.14: with a label below the highest, the next good quote ended in `internal.verifier.exception`."""
    lenient = policy(rule("boot[.]pcr-value", "warning"), pcrs={"7": [EXPECTED]})
    attester = Attester()
    for _ in range(3):
        result = attester.appraise(lenient)
        assert result.verdict is Verdict.PASS
        assert codes(result) == [("boot.pcr-value", "warning")]
    assert Attester().appraise(policy(pcrs={"7": [EXPECTED]})).verdict is Verdict.FAIL


def test_a_good_appraisal_follows_a_warned_one():
    lenient = policy(rule("runtime[.]path-unknown", "warning"), runtime={"/bin/ls": ["sha256:" + "22" * 32]})
    attester = Attester()
    attester.agent.run("/bin/ls", b"\x22" * 32)
    attester.agent.run("/bin/odd", b"\x33" * 32)
    first = attester.appraise(lenient)
    assert (first.verdict, codes(first)) == (Verdict.PASS, [("runtime.path-unknown", "warning")])
    attester.agent.run("/bin/ls", b"\x22" * 32)
    second = attester.appraise(lenient)
    assert (second.verdict, codes(second)) == (Verdict.PASS, [])


def test_a_warning_that_is_raised_to_a_failure_ends_trust():
    strict = policy(rule("quote[.]firmware", "failure"), pcrs={"7": ["00" * 32]})
    attester = Attester()
    assert attester.appraise(strict).verdict is Verdict.PASS

    def with_other_firmware(evidence):
        quote = parse_quote(evidence.quote)
        attest = build_quote(msgspec.structs.replace(quote, firmware=quote.firmware + 1))
        return msgspec.structs.replace(evidence, quote=attest, signature=attester.tpm.sign(attest))

    result = attester.appraise(strict, with_other_firmware)
    assert (result.verdict, codes(result)) == (Verdict.FAIL, [("quote.firmware", "failure")])


def test_the_first_rule_that_matches_decides():
    rules = [rule("runtime[.]path-.*", "failure"), rule("runtime[.].*", "info"), rule("runtime[.]digest-unknown", "warning")]
    changed = compile_severities(rules)
    assert "runtime.path-unknown" not in changed
    assert changed["runtime.digest-unknown"] == "info"
    assert changed["runtime.violation"] == "info"


def test_an_expression_matches_the_whole_code():
    with pytest.raises(PolicyError, match="matches no code"):
        compile_severities([rule("runtime[.]path", "warning")])


@pytest.mark.parametrize("kind", [k for k in FINDINGS.values() if k.layer in ("identity", "quote")], ids=lambda k: k.code)
def test_no_rule_lowers_what_proves_identity_and_quote(kind):
    assert is_fixed(kind.code) or kind.severity != FAILURE
    assert kind.severity != FAILURE or kind.code not in compile_severities([rule(".*", "info")])


def test_a_rule_for_everything_leaves_the_proof_alone():
    lenient = policy(rule(".*", "info"), pcrs={"7": [EXPECTED]}, runtime={"/bin/ls": ["sha256:" + "22" * 32]})
    assert PROOF.isdisjoint(lenient.severities)
    assert PROTOCOL.isdisjoint(lenient.severities)
    attester = Attester()
    attester.tpm.extend(10, {"sha1": b"\1" * 20, "sha256": b"\1" * 32})  # nothing in the log explains it
    attester.agent.run("/bin/ls", b"\x22" * 32)
    result = attester.appraise(lenient)
    assert result.verdict is Verdict.FAIL
    assert ("runtime.log-mismatch", "failure") in codes(result)


def test_the_guarded_codes_exist():
    assert FINDINGS.keys() >= PROOF
    assert FINDINGS.keys() >= PROTOCOL


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ({}, "severities: must be a list"),
        ([rule("boot[.].*", "info")] * (MAX_RULES + 1), "severities: must be a list"),
        (["boot"], r"severities\[0\]: needs the keys"),
        ([{"code": "boot[.].*"}], r"severities\[0\]: needs the keys"),
        ([{**rule("boot[.].*", "info"), "event_id": ""}], r"severities\[0\]: needs the keys"),
        ([rule("boot[.].*", "emergency")], r"severities\[0\]\.severity: must be one of info, warning, failure"),
        ([rule("", "info")], r"severities\[0\]\.code: must be a text"),
        ([rule(7, "info")], r"severities\[0\]\.code: must be a text"),
        ([rule("a" * 257, "info")], r"severities\[0\]\.code: must be a text"),
        ([rule("(", "info")], r"severities\[0\]\.code: is not an RE2"),
        ([rule("(?=a)", "info")], r"severities\[0\]\.code: is not an RE2"),
        ([rule("boot[.].*", "info"), rule("boot[.]pcr-valeu", "info")], r"severities\[1\]: matches no code"),
        ([rule("quote[.]signature-invalid", "warning")], r"severities\[0\]: matches only findings whose severity is fixed"),
        ([rule("freshness[.].*", "failure")], r"severities\[0\]: matches only findings whose severity is fixed"),
    ],
)
def test_bad_rules_are_refused_with_their_place(rules, place):
    with pytest.raises(PolicyError, match=place):
        compile_severities(rules)


def test_a_document_allows_sha1_only_when_it_says_so():
    with pytest.raises(PolicyError, match="bank: must be one of sha256"):
        policy(pcrs={"7": ["00" * 20]}, bank="sha1")
    with pytest.raises(PolicyError, match="allow_sha1: must be true or false"):
        policy(pcrs={"7": ["00" * 20]}, allow_sha1="yes")
    weak = policy(pcrs={"7": ["00" * 20]}, bank="sha1", allow_sha1=True)
    assert (weak.bank, weak.allow_sha1) == ("sha1", True)
    old = SoftTpm(ek="p256", ak="rsa2048", ak_hash="sha1", keys=KEYS)
    assert Attester(old).appraise(weak).verdict is Verdict.PASS
    result = Attester(old).appraise(policy(pcrs={"7": ["00" * 32]}))
    assert (result.verdict, codes(result)) == (Verdict.FAIL, [("quote.algorithm", "failure")])
