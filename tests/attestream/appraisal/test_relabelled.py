"""No PCR covers the name of a template: a log that names another one than the kernel used must not read otherwise."""

import hashlib
import json

import pytest

from attestream.appraisal import freshness
from attestream.appraisal.appraise import Verdict, appraise
from attestream.appraisal.policy import compile_policy
from attestream.appraisal.state import fresh
from attestream.tpm.public import parse_public
from devtools.ima_log import Record
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge

KEYS = KeyPool(size=1)
GOOD = hashlib.sha256(b"good").digest()
POLICY = compile_policy(
    json.dumps(
        {
            "format": "attestream-policy/1",
            "bank": "sha256",
            "runtime": {
                "digests": {name: [f"sha256:{GOOD.hex()}"] for name in ("boot_aggregate", "/usr/bin/ls")},
                "excludes": ["/tmp/.*"],
                "buffers": {"kexec-cmdline": [f"sha256:{GOOD.hex()}"]},
            },
        }
    ).encode()
)
BAD_COMMAND_LINE = b"/tmp/x init=/bin/sh\x00"
"""The kernel takes what it does not know on its command line; read as a path it is an excluded one."""


def digest_field(value):
    return b"sha256:\x00" + value


def measured(template, *fields):
    data = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    name = template.encode()
    head = (10).to_bytes(4, "little") + hashlib.sha1(data).digest() + len(name).to_bytes(4, "little") + name
    return Record(head + len(data).to_bytes(4, "little") + data, "", data)


def verdict(record):
    agent = SoftAgent("a", SoftTpm(ek="p256", ak="p256", keys=KEYS))
    agent.run("boot_aggregate", GOOD)
    agent.measure(record)
    nonce = freshness.nonce(bytes(32), "a", 1, 1)
    challenge = Challenge(
        agent_id="a", nonce=nonce, seq=1, issued_at=1, deadline=2, banks=POLICY.selection, ima_from=0, known_digest=b""
    )
    ak = parse_public(agent.tpm.ak_public)
    return appraise(agent.answer(challenge), agent_id="a", ak=ak, policy=POLICY, state=fresh(), now=1)


def kexec(template):
    """What the kernel extends for a new kernel's command line, under any name."""
    digest = digest_field(hashlib.sha256(BAD_COMMAND_LINE).digest())
    return measured(template, digest, b"kexec-cmdline\x00", BAD_COMMAND_LINE)


EVM = ("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode")


def evil_file(template, attribute):
    """What the kernel extends for a changed program under ``evm-sig``; root chooses its extended attributes."""
    digest = digest_field(hashlib.sha256(b"evil").digest())
    names, size = b"security.apparmor\x00", len(attribute).to_bytes(4, "little")
    return measured(template, digest, b"/usr/bin/ls\x00", b"", names, size, attribute, bytes(4), bytes(4), b"\xed\x81")


def test_a_buffer_is_judged_as_one():
    found = verdict(kexec("ima-buf"))
    assert found.verdict is Verdict.FAIL
    assert [item.code for item in found.findings] == ["runtime.buffer-content"]


@pytest.mark.parametrize("template", ["d-ng|sig|n-ng", "d-ng|evmsig|n-ng", "d-ng|n-ng|sig", "d-ng|n-ng|evmsig"])
def test_a_buffer_does_not_pass_for_an_excluded_file(template):
    assert verdict(kexec(template)).verdict is Verdict.FAIL


def renamed(**names):
    return "|".join(names.get(field.replace("-", "_"), field) for field in EVM)


def test_an_attribute_does_not_pass_for_the_digest_of_a_program():
    record = evil_file(renamed(d_ng="d-modsig", xattrvalues="d-ng"), digest_field(GOOD))
    found = verdict(record)
    assert found.verdict is Verdict.FAIL
    assert found.findings[0].code == "runtime.template-unknown"


def test_an_attribute_does_not_pass_for_the_path_of_a_program():
    record = evil_file(renamed(n_ng="modsig", xattrvalues="n-ng"), b"/tmp/x\x00")
    assert verdict(record).verdict is Verdict.FAIL


def test_an_attribute_does_not_pass_for_a_measured_buffer():
    record = evil_file(renamed(xattrvalues="buf"), b"evil")
    assert verdict(record).findings[0].code == "runtime.template-unknown"
