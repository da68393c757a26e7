"""The part ``evm`` of a runtime policy: where a portable signature is needed and can not be checked, trust ends."""

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import compile_policy
from attestream.appraisal.runtime import Context, appraise_log
from attestream.appraisal.state import fresh
from attestream.errors import PolicyError
from attestream.ima.memo import Memo
from devtools import ima_log
from devtools.evm_signature import evm_fields, ima_digest, sign
from schemas.attestation import ImaDelta

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def text(key):
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def content(path):
    return hashlib.sha256(path.encode()).digest()


def listed(*paths):
    return {path: [f"sha256:{content(path).hex()}"] for path in paths}


def policy(*, digests=None, rule="either", **runtime):
    rules = {"digests": digests or {}, "evm": {"keys": [text(KEY)], "rule": rule}, **runtime}
    return compile_policy(json.dumps({"format": "attestream-policy/1", "bank": "sha256", "runtime": rules}).encode())


def signed(path, key=KEY, *, template="evm-sig", of=None, **inode):
    fields = evm_fields(key, {"security.ima": ima_digest(content(of or path))}, **inode)
    return ima_log.record(path, content(path), template=template, more=fields)


def found(compiled, *records, memo=None):
    pcr = bytes(32)
    for record in records:
        pcr = hashlib.sha256(pcr + ima_log.extend_value(record, "sha256")).digest()
    findings = Collector()
    delta = ImaDelta(ima_first=0, count=len(records), data=b"".join(record.binary for record in records))
    context = Context(compiled.runtime, "sha256", compiled.digest, memo=memo)
    appraise_log(delta, pcr, context, state=fresh(), rebooted=False, findings=findings)
    return [(finding.code, finding.culprit) for finding in findings.all()]


def test_a_portable_signature_does_in_place_of_a_digest():
    assert found(policy(), signed("/bin/a")) == []
    assert found(policy(), signed("/bin/a", OTHER)) == [("runtime.path-unknown", "/bin/a")]
    assert found(policy(), signed("/bin/a", of="/bin/b")) == [("runtime.path-unknown", "/bin/a")]
    assert found(policy(digests=listed("/bin/a")), signed("/bin/a", OTHER)) == []


@pytest.mark.parametrize(
    "record",
    [
        signed("/bin/a", OTHER),
        signed("/bin/a", of="/bin/b"),
        ima_log.record("/bin/a", content("/bin/a"), template="evm-sig"),
        ima_log.record("/bin/a", content("/bin/a")),
        ima_log.record("/bin/a", content("/bin/a"), template="ima-sig", signature=b"\x05\x02\x04"),
    ],
    ids=["another key", "another file", "no attributes", "ima-ng", "ima-sig"],
)
def test_where_it_is_needed_and_can_not_be_verified_trust_ends(record):
    compiled = policy(digests=listed("/bin/a"), rule="both")
    memo = Memo()
    for _ in range(2):
        assert found(compiled, record, memo=memo) == [("runtime.evm-signature", "/bin/a")]
        assert found(compiled, signed("/bin/a"), memo=memo) == []


def test_where_it_is_needed_it_does_not_stand_for_a_digest():
    assert found(policy(rule="both"), signed("/bin/a")) == [("runtime.path-unknown", "/bin/a")]


def test_the_boot_aggregate_has_no_file_and_needs_only_its_digest():
    aggregate = ima_log.record("boot_aggregate", content("boot_aggregate"), template="evm-sig")
    assert found(policy(digests=listed("boot_aggregate"), rule="both"), aggregate) == []
    assert found(policy(rule="both"), aggregate) == [("runtime.path-unknown", "boot_aggregate")]


def imported(key, keyring=".evm"):
    """The entry about a key that the kernel has put on a keyring."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = ima_log.record(keyring, hashlib.sha256(der).digest(), template="ima-buf", more={"buf": der})
    return record, {keyring: [f"sha256:{hashlib.sha256(der).hexdigest()}"]}


@pytest.mark.parametrize("rule", ["either", "both"])
def test_a_key_that_the_log_shows_on_the_keyring_of_evm_counts_from_then_on(rule):
    record, keyrings = imported(OTHER)
    digests = listed("/bin/a") if rule == "both" else {}
    compiled = policy(digests=digests, rule=rule, keyrings=keyrings)
    code = "runtime.evm-signature" if rule == "both" else "runtime.path-unknown"
    memo = Memo()
    for _ in range(2):
        assert found(compiled, record, signed("/bin/a", OTHER), memo=memo) == []
        # What another machine has learned proves nothing here, nor does what comes later.
        assert found(compiled, signed("/bin/a", OTHER), memo=memo) == [(code, "/bin/a")]
        assert found(compiled, signed("/bin/a", OTHER), record, memo=memo) == [(code, "/bin/a")]
    assert found(compiled, record, signed("/bin/a", OTHER, of="/bin/b")) == [(code, "/bin/a")]
    unlisted = policy(digests=digests, rule=rule)
    assert found(unlisted, record, signed("/bin/a", OTHER)) == [("runtime.keyring-unknown", ".evm"), (code, "/bin/a")]


def test_a_key_on_another_keyring_signs_no_attributes():
    """The kernel checks EVM signatures by ``.evm`` alone: a key that may sign files must not vouch for set-uid bits."""
    record, keyrings = imported(OTHER, ".ima")
    compiled = policy(keyrings=keyrings)
    assert found(compiled, record, signed("/bin/a", OTHER)) == [("runtime.path-unknown", "/bin/a")]
    # But it signs what is in security.ima.
    attribute = sign(OTHER, content("/bin/a"), kind=3)
    entry = ima_log.record(
        "/bin/a", content("/bin/a"), template="evm-sig", more=evm_fields(KEY, {"security.ima": attribute})
    )
    assert found(compiled, record, entry) == []
    assert found(compiled, entry) == [("runtime.path-unknown", "/bin/a")]


def test_excludes_need_no_signature():
    assert found(policy(rule="both", excludes=["/tmp/.*"]), ima_log.record("/tmp/a", content("/tmp/a"))) == []


def test_signatures_of_both_kinds_may_be_needed():
    compiled = policy(digests=listed("/bin/a"), rule="both", signatures={"keys": [text(KEY)], "rule": "both"})
    # No template of the kernel carries both, unless it is told to with ima_template_fmt.
    assert found(compiled, signed("/bin/a")) == [("runtime.signature-missing", "/bin/a")]


def test_a_format_of_the_kernels_command_line_may_carry_it():
    template = "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode"
    entry = signed("/bin/a")
    renamed = entry.binary.replace(b"\x07\x00\x00\x00evm-sig", len(template).to_bytes(4, "little") + template.encode(), 1)
    assert found(policy(digests=listed("/bin/a"), rule="both"), entry._replace(binary=renamed)) == []
    short = "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|sig"
    lacking = entry.binary.replace(b"\x07\x00\x00\x00evm-sig", len(short).to_bytes(4, "little") + short.encode(), 1)
    assert found(policy(digests=listed("/bin/a"), rule="both"), entry._replace(binary=lacking)) == [
        ("runtime.evm-signature", "/bin/a")
    ]


def test_a_key_that_can_not_be_read_is_refused_at_upload():
    with pytest.raises(PolicyError, match=r"runtime\.evm\.keys\[0\]"):
        policy(evm={"keys": ["AAAA"]})
    with pytest.raises(PolicyError, match=r"runtime\.evm\.rule"):
        policy(evm={"keys": [], "rule": "always"})
