"""The rules of a runtime policy over whole logs, and what they must never let pass."""

import base64
import hashlib
import json

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.collector import Collector
from attestream.appraisal.entries import MAX_BAD_SIGNATURES
from attestream.appraisal.policy import compile_policy, policy_from_log
from attestream.appraisal.runtime import Context, appraise_log
from attestream.appraisal.state import AttesterState, decode_state, fresh
from attestream.errors import PolicyError
from attestream.ima.boot_aggregate import boot_aggregates
from attestream.ima.digests import digest_field
from attestream.ima.keys import SigningKey
from attestream.ima.memo import Memo
from devtools import ima_log
from schemas.attestation import ImaDelta

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
BANK = "sha256"


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def der(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def content(path):
    return hashlib.sha256(path.encode()).digest()


def listed(*paths):
    return {path: [f"sha256:{content(path).hex()}"] for path in paths}


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def signed(path, key=RSA, *, digest=None, template="ima-sig", hash_name="sha256"):
    digest = content(path) if digest is None else digest
    new = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}[hash_name]
    scheme = utils.Prehashed(new)
    value = key.sign(digest, padding.PKCS1v15(), scheme) if key is RSA else key.sign(digest, ec.ECDSA(scheme))
    number = {"sha1": 2, "sha256": 4}[hash_name]
    head = bytes((3, 2, number)) + SigningKey(key.public_key()).keyid.to_bytes(4, "big") + len(value).to_bytes(2, "big")
    return ima_log.record(path, digest, template=template, signature=head + value, hash_name=hash_name)


def plain(path):
    return ima_log.record(path, content(path))


def policy(**runtime):
    document = {"format": "attestream-policy/1", "bank": BANK, "runtime": {"digests": {}, **runtime}}
    return compile_policy(json.dumps(document).encode())


def pcr(records, start=bytes(32), *, padded=False):
    for record in records:
        start = hashlib.sha256(start + ima_log.extend_value(record, BANK, padded=padded)).digest()
    return start


def run(compiled, records, *, quoted=None, state=None, first=0, padded=False, **context):
    """Return the proven log, and codes and messages of the findings."""
    findings = Collector()
    quoted = pcr(records, padded=padded) if quoted is None else quoted
    delta = ImaDelta(ima_first=first, count=len(records), data=b"".join(record.binary for record in records))
    proven = appraise_log(
        delta,
        quoted,
        Context(compiled.runtime, BANK, compiled.digest, **context),
        state=state or fresh(),
        rebooted=False,
        findings=findings,
    )
    return proven, findings.all()


def codes(compiled, records, **arguments):
    return [found.code for found in run(compiled, records, **arguments)[1]]


def state_of(proven):
    return AttesterState(
        ima_entries=proven.entries,
        ima_pcr=proven.value,
        tail=proven.tail,
        ima_padded=proven.padded,
        ima_keys=proven.keys,
        devices=tuple(proven.devices.values()),
    )


@pytest.mark.parametrize("key", [RSA, EC], ids=["rsa", "ec"])
@pytest.mark.parametrize("form", [pem, lambda key: base64.b64encode(der(key)).decode()], ids=["pem", "der"])
def test_signature_does_in_place_of_a_digest(key, form):
    compiled = policy(signatures={"keys": [form(key)]})

    assert codes(compiled, [signed("/bin/a", key)]) == []
    assert codes(compiled, [signed("/bin/a", EC if key is RSA else RSA)]) == ["runtime.path-unknown"]
    assert codes(compiled, [plain("/bin/a")]) == ["runtime.path-unknown"]


def test_signature_of_other_content_does_not_count():
    stolen = signed("/bin/good")
    forged = ima_log.record("/bin/evil", content("/bin/evil"), template="ima-sig", signature=signature_of(stolen))

    _, (found,) = run(policy(signatures={"keys": [pem(RSA)]}), [forged])

    assert (found.code, found.culprit) == ("runtime.path-unknown", "/bin/evil")
    assert "signature is not valid" in found.message


def signature_of(record):
    return bytes.fromhex(record.ascii.rpartition(" ")[2])


def test_without_a_rule_for_signatures_none_counts():
    assert codes(policy(), [signed("/bin/a")]) == ["runtime.path-unknown"]


def test_both_digest_and_signature_are_needed_when_the_policy_says_so():
    compiled = policy(digests=listed("/bin/a"), signatures={"keys": [pem(RSA)], "rule": "both"})

    assert codes(compiled, [signed("/bin/a")]) == []
    assert codes(compiled, [plain("/bin/a")]) == ["runtime.signature-missing"]
    assert codes(compiled, [signed("/bin/b")]) == ["runtime.path-unknown"]
    assert codes(compiled, [signed("/bin/a", EC)]) == ["runtime.signature-missing"]


def test_signature_over_sha1_counts_only_where_the_policy_says_so():
    record = signed("/bin/a", digest=hashlib.sha1(b"x").digest(), hash_name="sha1")

    assert codes(policy(signatures={"keys": [pem(RSA)]}), [record]) == ["runtime.path-unknown"]
    assert codes(policy(signatures={"keys": [pem(RSA)], "hashes": ["sha1"]}), [record]) == []


def test_denied_paths_and_digests_are_never_allowed():
    """A deny list for known-bad content (keylime PR 1545): no digest, signature or exclude overrides it."""
    allow = {"digests": listed("/bin/nc", "/bin/x"), "signatures": {"keys": [pem(RSA)]}, "excludes": [".*"]}

    for deny in ({"paths": ["/bin/n."]}, {"digests": [f"sha256:{content('/bin/nc').hex()}"]}):
        _, (found,) = run(policy(**allow, deny=deny), [signed("/bin/nc"), plain("/bin/x")])
        assert (found.code, found.culprit) == ("runtime.denied", "/bin/nc")
        assert f"runtime.deny.{next(iter(deny))}" in found.message


def test_key_on_an_allowed_keyring_signs_files_from_then_on():
    key = ima_log.buffer(".ima", der(EC))
    compiled = policy(keyrings={".ima": [sha256(der(EC))]}, signatures={"keys": []})

    proven, findings = run(compiled, [key, signed("/bin/a", EC)])
    assert (findings, len(proven.keys)) == ((), 1)

    # It still does in the next delta, and after the state was stored.
    state = decode_state(state_of(proven).encode())
    more = [signed("/bin/b", EC)]
    assert codes(compiled, more, quoted=pcr(more, proven.value), state=state, first=2) == []
    # But not before it was there, and not on another machine.
    assert codes(compiled, [signed("/bin/a", EC), key]) == ["runtime.path-unknown"]


def test_key_in_the_unproven_tail_is_not_kept():
    """Entries behind the quote prove nothing yet (keylime#585): what they teach must be learned again."""
    key = ima_log.buffer(".ima", der(EC))
    compiled = policy(digests=listed("/a"), keyrings={".ima": [sha256(der(EC))]}, signatures={"keys": []})

    proven, findings = run(compiled, [plain("/a"), key], quoted=pcr([plain("/a")]))

    assert (findings, proven.entries, proven.tail, proven.keys) == ((), 1, 1, ())


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ({}, ["runtime.keyring-unknown", "runtime.path-unknown"]),
        ({"keyrings": {".ima": ["sha256:" + "00" * 32]}}, ["runtime.key-unknown", "runtime.path-unknown"]),
        ({"keyrings": {".evm": [sha256(der(EC))]}}, ["runtime.keyring-unknown", "runtime.path-unknown"]),
        ({"buffers": {".ima": ["*"]}}, ["runtime.keyring-unknown", "runtime.path-unknown"]),
        ({"ignored_keyrings": [".ima"]}, ["runtime.path-unknown"]),
        ({"ignored_keyrings": ["*"]}, ["runtime.path-unknown"]),
        ({"excludes": ["[.]ima"]}, ["runtime.keyring-unknown", "runtime.path-unknown"]),
    ],
)
def test_key_that_the_policy_does_not_allow_signs_nothing(runtime, expected):
    records = [ima_log.buffer(".ima", der(EC)), signed("/bin/a", EC)]

    assert codes(policy(**runtime, signatures={"keys": []}), records) == expected


def test_a_memo_never_lends_one_attesters_keys_to_another():
    memo = Memo()
    compiled = policy(keyrings={".ima": [sha256(der(EC))]}, signatures={"keys": []})
    record = signed("/bin/a", EC)
    assert codes(compiled, [ima_log.buffer(".ima", der(EC)), record], memo=memo) == []

    assert codes(compiled, [record], memo=memo) == ["runtime.path-unknown"]


def test_a_memo_never_lends_one_policys_decisions_to_another():
    memo = Memo()
    assert codes(policy(digests=listed("/a")), [plain("/a")], memo=memo) == []

    assert codes(policy(digests=listed("/b")), [plain("/a")], memo=memo) == ["runtime.path-unknown"]
    assert codes(policy(digests=listed("/a"), deny={"paths": ["/a"]}), [plain("/a")], memo=memo) == ["runtime.denied"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([sha256(b"quiet splash")], []),
        (["*"], []),
        ([sha256(b"other")], ["runtime.buffer-content"]),
        (None, ["runtime.buffer-unknown"]),
    ],
)
def test_measured_buffers(allowed, expected):
    compiled = policy(buffers={} if allowed is None else {"kexec-cmdline": allowed})

    assert codes(compiled, [ima_log.buffer("kexec-cmdline", b"quiet splash")]) == expected


def test_buffer_that_does_not_have_its_digest_is_refused():
    """The digest is what the policy allows, the bytes are what a key is learned from: they must be one."""
    record = ima_log.record(".ima", hashlib.sha256(der(RSA)).digest(), template="ima-buf", more={"buf": der(EC)})
    compiled = policy(keyrings={".ima": [sha256(der(RSA))]}, signatures={"keys": []})

    assert codes(compiled, [record, signed("/a", EC)]) == ["runtime.buffer-altered", "runtime.path-unknown"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("warn", ["runtime.violation"]), ("fail", ["runtime.violation-refused"]), ("ignore", [])],
)
def test_violations(setting, expected):
    """The incumbent's `ignore_tomtou_errors` means the opposite of its name (keylime.md, trap 7)."""
    assert codes(policy(violations=setting), [ima_log.violation("/bin/a")]) == expected


def test_boot_aggregate_that_follows_from_the_boot_log():
    """It differs from machine to machine (keylime#546, #702): no list can hold it."""
    values = {number: bytes([number]) * 32 for number in range(10)}
    aggregate = hashlib.sha256(b"".join(values.values())).digest()
    record = ima_log.record("boot_aggregate", aggregate)
    derived = boot_aggregates({"sha256": values})
    memo = Memo()

    assert digest_field("sha256", aggregate) in derived
    assert codes(policy(), [record], boot_aggregates=derived, memo=memo) == []
    assert codes(policy(), [record], memo=memo) == ["runtime.path-unknown"]
    other = ima_log.record("boot_aggregate", bytes(32))
    assert codes(policy(), [other], boot_aggregates=derived) == ["runtime.digest-unknown"]
    file = ima_log.record("/boot_aggregate", aggregate)
    assert codes(policy(), [file], boot_aggregates=derived) == ["runtime.path-unknown"]
    assert boot_aggregates({"sha256": {0: bytes(32)}, "sm3": values}) == frozenset()


def test_log_of_a_kernel_that_pads_sha1():
    records = [plain("/a"), ima_log.violation("/b"), plain("/c")]
    compiled = policy(digests=listed("/a", "/c", "/d"))

    proven, findings = run(compiled, records, padded=True)
    assert [found.code for found in findings] == ["runtime.violation", "runtime.padded"]
    assert (proven.entries, proven.padded) == (3, True)

    more = [plain("/d")]
    padded = pcr(more, proven.value, padded=True)
    assert codes(compiled, more, quoted=padded, state=state_of(proven), first=3) == []


def test_one_log_is_padded_or_not_but_never_both():
    first, second = plain("/a"), plain("/b")
    compiled = policy(digests=listed("/a", "/b"))
    mixed = pcr([second], pcr([first]), padded=True)
    assert codes(compiled, [first, second], quoted=mixed) == ["runtime.log-mismatch"]

    proven, _ = run(compiled, [first])
    assert codes(compiled, [second], quoted=mixed, state=state_of(proven), first=1) == ["runtime.log-mismatch"]


def test_findings_of_a_padded_log_are_told_once():
    proven, findings = run(policy(digests=listed("/a")), [plain("/a"), plain("/b")], padded=True)

    assert [found.code for found in findings] == ["runtime.path-unknown", "runtime.padded"]
    assert proven.entries == 2


def test_trace_names_the_rule_that_decided():
    decided = []
    compiled = policy(digests=listed("/a"), signatures={"keys": [pem(RSA)]}, excludes=["/tmp/.*"], buffers={"x": ["*"]})
    records = [plain("/a"), signed("/b"), plain("/tmp/c"), ima_log.buffer("x", b""), plain("/d"), ima_log.violation("/e")]

    codes(compiled, records, trace=lambda entry, decision: decided.append((entry.path, decision.rule, decision.code)))

    assert decided == [
        (b"/a", "runtime.digests", ""),
        (b"/b", "runtime.signatures", ""),
        (b"/tmp/c", "runtime.excludes", ""),
        (b"x", "runtime.buffers", ""),
        (b"/d", "", "runtime.path-unknown"),
        (b"/e", "runtime.violations", "runtime.violation"),
    ]


def test_signatures_that_cost_the_verifier_are_bounded():
    records = [signed(f"/bad/{number}", EC) for number in range(MAX_BAD_SIGNATURES + 1)]
    stolen = [
        ima_log.record(f"/bad/{n}", bytes(32), template="ima-sig", signature=signature_of(records[n]))
        for n in range(len(records))
    ]
    decided = []

    compiled = policy(signatures={"keys": [pem(EC)]})
    codes(compiled, [*stolen, records[0]], trace=lambda entry, decision: decided.append(decision))

    assert not decided[-1].allowed
    assert "too many entries" in decided[-1].message


@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(0, 2**32))
def test_any_buffer_is_judged_without_raising(buffers, seed):
    compiled = policy(buffers={"b": ["*"]}, ignored_keyrings=["k"], signatures={"keys": []})
    names = ["b", "k", "dm_table_load", "x"]
    records = [ima_log.buffer(names[(seed + n) % 4], data) for n, data in enumerate(buffers)]

    proven, _ = run(compiled, records)

    assert proven.entries == len(records)


def test_learned_policy_allows_what_it_was_learned_from_by_digest():
    log = b"".join(one.binary for one in (signed("/a"), plain("/b")))

    assert set(policy_from_log(log)["runtime"]["digests"]) == {"/a", "/b"}


@pytest.mark.parametrize(
    ("runtime", "place"),
    [
        ({"signatures": {"keys": ["x"]}}, "runtime.signatures.keys[0]"),
        ({"signatures": {"keys": ["AAAA"]}}, "runtime.signatures.keys[0]"),
        ({"signatures": {"keys": [1]}}, "runtime.signatures.keys[0]"),
        ({"signatures": {}}, "runtime.signatures"),
        ({"signatures": {"keys": [], "rule": "any"}}, "runtime.signatures.rule"),
        ({"signatures": {"keys": [], "hashes": ["md5"]}}, "runtime.signatures.hashes[0]"),
        ({"keyrings": {".ima": ["00"]}}, "runtime.keyrings['.ima'][0]"),
        ({"keyrings": []}, "runtime.keyrings"),
        ({"ignored_keyrings": "*"}, "runtime.ignored_keyrings"),
        ({"ignored_keyrings": [""]}, "runtime.ignored_keyrings[0]"),
        ({"buffers": {"x": ["*", "sha256:" + "00" * 32]}}, "runtime.buffers['x'][0]"),
        ({"buffers": {"": ["*"]}}, "runtime.buffers['']"),
        ({"violations": "pass"}, "runtime.violations"),
        ({"deny": {"paths": ["("]}}, "runtime.deny.paths[0]"),
        ({"deny": {"digests": ["x"]}}, "runtime.deny.digests[0]"),
        ({"deny": {"path": []}}, "runtime.deny"),
        ({"device_mapper": {}}, "runtime.device_mapper"),
    ],
)
def test_what_is_not_valid_is_named_at_upload(runtime, place):
    with pytest.raises(PolicyError) as caught:
        policy(**runtime)

    assert caught.value.message.startswith(place)


def test_state_with_keys_and_devices_is_kept_whole():
    proven, _ = run(policy(keyrings={".ima": [sha256(der(EC))]}), [ima_log.buffer(".ima", der(EC))])
    state = state_of(proven)

    assert decode_state(state.encode()) == state
    old = msgspec.msgpack.encode(["policy", 1, 2, 3, 4, 5, b"pcr", 0, b"digest"])
    assert decode_state(old).ima_keys == ()
