"""Evidence of a real Linux kernel under real firmware (`make vm`): its logs replay to what its TPM has signed."""

import json
from pathlib import Path

import pytest

from attestream.appraisal.appraise import Verdict, appraise
from attestream.appraisal.policy import compile_policy, policy_from_log
from attestream.appraisal.state import fresh
from attestream.errors import SignatureError
from attestream.ima.log import IMA_PCR, read_binary
from attestream.ima.replay import Replay as ImaReplay
from attestream.tpm.public import check_attestation_key, parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from attestream.uefi.parser import parse_log
from attestream.uefi.policy.create import create_reference_state
from attestream.uefi.replay import boot_aggregates, replay
from schemas.attestation import Evidence, ImaDelta, qualifying_data

FOLDER = Path(__file__).parent / "vm"
QUOTED = json.loads((FOLDER / "evidence.json").read_text(encoding="utf-8"))
IMA_LOG = (FOLDER / "ima_log.bin").read_bytes()
BOOT_LOG = (FOLDER / "boot_log.bin").read_bytes()
BANK = "sha256"
VALUES = {int(pcr): bytes.fromhex(value) for pcr, value in QUOTED["pcr_values"][BANK].items()}
AK = parse_public(bytes.fromhex(QUOTED["ak_public"]))
QUOTE, SIGNATURE = bytes.fromhex(QUOTED["quote"]), bytes.fromhex(QUOTED["signature"])
ISSUED_AT = 1


def evidence(*, boot_log=BOOT_LOG, ima_log=IMA_LOG):
    return Evidence(
        agent_id=QUOTED["agent_id"],
        enrolment=1,
        nonce=bytes.fromhex(QUOTED["nonce"]),
        seq=1,
        issued_at=ISSUED_AT,
        quote=QUOTE,
        signature=SIGNATURE,
        transport_key=bytes.fromhex(QUOTED["transport_key"]),
        pcr_values={BANK: VALUES},
        ima=ImaDelta(ima_first=0, count=len(list(read_binary(ima_log, BANK))), data=ima_log),
        boot_log=boot_log,
    )


def policy(**changed):
    document = policy_from_log(IMA_LOG) | {
        "boot": {"policy": "example", "reference_states": [create_reference_state(BOOT_LOG) | changed]}
    }
    return compile_policy(json.dumps(document).encode())


def judge(given, rules):
    return appraise(given, agent_id=QUOTED["agent_id"], ak=AK, policy=rules, state=fresh(), now=ISSUED_AT)


def test_the_quote_is_signed_by_a_key_of_a_tpm_and_answers_its_challenge():
    check_attestation_key(AK)
    quote = verify_quote_signature(AK, QUOTE, SIGNATURE)
    nonce, transport_key = bytes.fromhex(QUOTED["nonce"]), bytes.fromhex(QUOTED["transport_key"])
    assert quote.extra_data == qualifying_data(nonce, QUOTED["agent_id"], transport_key)
    assert quote.pcr_digest == pcr_digest("sha256", quote.selection, {BANK: VALUES})
    with pytest.raises(SignatureError):
        verify_quote_signature(AK, QUOTE[:-1] + bytes([QUOTE[-1] ^ 1]), SIGNATURE)


def test_the_boot_log_replays_to_the_quoted_pcrs():
    replayed = replay(parse_log(BOOT_LOG)).pcrs[BANK]
    quoted = {pcr: value for pcr, value in VALUES.items() if pcr != IMA_PCR}
    assert {pcr: replayed[pcr] for pcr in quoted} == quoted
    assert {0, 4, 7, 8, 9, 14} <= quoted.keys()


def test_the_ima_log_replays_to_the_quoted_pcr():
    entries = list(read_binary(IMA_LOG, BANK))
    running = ImaReplay(BANK, b"", VALUES[IMA_PCR])
    for entry in entries:
        assert entry.consistent
        running.feed(entry.value)
    assert running.proven is not None
    assert running.proven > 300


def test_boot_aggregate_is_that_of_the_boot_log():
    first = next(iter(read_binary(IMA_LOG, BANK)))
    assert first.path == b"boot_aggregate"
    assert first.digest.removeprefix(b"sha256:\0") in boot_aggregates(replay(parse_log(BOOT_LOG)).pcrs)[BANK]


def test_the_machine_is_trusted_under_a_policy_learnt_from_it():
    appraisal = judge(evidence(), policy())
    assert (appraisal.verdict, appraisal.findings) == (Verdict.PASS, ())


def test_another_command_line_in_the_reference_state_fails_the_boot():
    kernel = create_reference_state(BOOT_LOG)["kernels"][0]
    rules = policy(kernels=[kernel | {"kernel_cmdline": "/vmlinuz root=/dev/vdb"}])
    appraisal = judge(evidence(), rules)
    assert appraisal.verdict is Verdict.FAIL
    assert [finding.code for finding in appraisal.findings] == ["boot.policy"]
    assert "kernel_cmdline" in appraisal.findings[0].message


def test_a_boot_log_without_its_last_event_fails():
    shorter = BOOT_LOG[: parse_log(BOOT_LOG).events[-1].offset]
    appraisal = judge(evidence(boot_log=shorter), policy())
    assert appraisal.verdict is Verdict.FAIL
    assert [(finding.code, finding.culprit) for finding in appraisal.findings] == [("boot.pcr-mismatch", "PCR 5")]


def test_an_ima_log_with_one_altered_byte_fails():
    at = IMA_LOG.rindex(b"/etc/attestream/agent.toml")
    altered = IMA_LOG[:at] + b"." + IMA_LOG[at + 1 :]
    appraisal = judge(evidence(ima_log=altered), policy())
    assert appraisal.verdict is Verdict.FAIL
    assert {finding.layer for finding in appraisal.findings} == {"runtime"}
