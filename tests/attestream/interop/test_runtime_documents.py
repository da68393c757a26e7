"""The incumbent's runtime policies: form, upload, excludes, conversion."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.policy import compile_policy
from attestream.errors import AttestreamError, PolicyError, SignatureError
from attestream.interop.excludes import compile_excludes, native_excludes, read_exclude_list
from attestream.interop.native import native_document
from attestream.interop.policy_signature import open_signed_policy, open_with_own_certificate, verify_detached
from attestream.interop.policy_upload import check_upload
from attestream.interop.runtime_conversion import (
    convert_allowlist,
    policy_from_measurements,
    read_keyring,
    update_policy,
)
from attestream.interop.runtime_schema import check_runtime_policy, empty_policy
from attestream.reference.envelope import load_verifying_key, sign_envelope

SHA256 = "ab" * 32
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def policy(**changes: object) -> dict[str, object]:
    return empty_policy() | {"digests": {"/a": [SHA256]}, "meta": {"version": 1, "generator": 3}} | changes


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "changes",
    [
        {"release": 1.0},
        {"meta": {"version": 7, "generator": 0, "timestamp": "now", "more": 1}},
        {"digests": {"": ["0" * 41]}},
        {"verification-keys": '{"keyids": [], "pubkeys": []}'},
        {"unknown": None},
    ],
)
def test_a_policy_of_the_right_form_is_taken(changes):
    check_runtime_policy(policy(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"release": True},
        {"release": -1},
        {"release": 0.5},
        {"meta": {"version": 1}},
        {"meta": {"version": -1, "generator": 0}},
        {"meta": {"version": 1, "generator": 0, "timestamp": 3}},
        {"digests": {"/a": []}},
        {"digests": {"/a": SHA256}},
        {"digests": {"/a": [SHA256 + "\n"]}},
        {"digests": {"/a": ["a" * 129]}},
        {"digests": {"/a": ["sha256:" + SHA256]}},
        {"keyrings": {".ima": [1]}},
        {"excludes": "/a"},
        {"excludes": [None]},
        {"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1"}},
        {"ima": {"ignored_keyrings": [], "log_hash_alg": ["sha1"], "dm_policy": None}},
        {"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": {}}},
        {"verification-keys": "null"},
        {"verification-keys": '{"keyids": []}'},
        {"verification-keys": '{"keyids": ["1"], "pubkeys": []}'},
        {"verification-keys": '{"meta": {"version": 0}, "keyids": [], "pubkeys": []}'},
        {"verification-keys": "[" * 100_000},
    ],
)
def test_a_policy_of_another_form_is_refused(changes):
    with pytest.raises(PolicyError):
        check_runtime_policy(policy(**changes))


@given(JSON_VALUES, st.sampled_from(list(empty_policy())))
def test_whatever_stands_in_a_policy_is_accepted_or_refused(value, key):
    try:
        check_runtime_policy(policy(**{key: value}))
    except PolicyError:
        return
    native_or_refused(policy(**{key: value}))


def native_or_refused(document):
    try:
        made = native_document(document)
    except PolicyError:
        return
    json.dumps(made.policy)


@pytest.mark.parametrize("excludes", [["*bad"], ["("], ["/a", ")"], [3], "/a", {"a": 1}, ["a{1,99999999999999999999}"]])
def test_excludes_that_are_no_expressions_are_refused(excludes):
    """Keylime #314: its check of uploads looks at another key, and a bad expression then drops all excludes."""
    with pytest.raises(PolicyError):
        compile_excludes(excludes)
    with pytest.raises(AttestreamError):
        check_upload(json.dumps(policy(excludes=excludes)).encode())


def test_excludes_are_put_together():
    assert compile_excludes(["/a", "/b.*"]) == "(/a)|(/b.*)"
    assert compile_excludes([]) is None
    assert compile_excludes(None) is None
    assert read_exclude_list("# all\r\n\n /tmp/.* \n/b") == ["/tmp/.*", "/b"]


def test_an_exclude_matches_from_the_start_as_it_did():
    document = native_document(policy(excludes=["/tmp", "/var/[^/]+\\.log$"])).policy
    compiled = compile_policy(json.dumps(document).encode()).runtime
    assert compiled.excludes.fullmatch(b"/tmp/x\ny\xff")
    assert not compiled.excludes.fullmatch(b"/a/tmp")
    assert compiled.excludes.fullmatch(b"/var/a.log")
    assert not compiled.excludes.fullmatch(b"/var/a.log.1")


@pytest.mark.parametrize("expression", ["(?!x)", "(a)\\1", "a)|(b"])
def test_an_exclude_that_is_not_linear_is_refused(expression):
    with pytest.raises(PolicyError, match=r"excludes\[0\]"):
        native_excludes([expression])


def test_a_good_upload_tells_generator_and_checksum():
    document = json.dumps(policy()).encode()
    uploaded = check_upload(document)
    assert uploaded[1:] == (3, hashlib.sha256(document).hexdigest())


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"\xff", b'{"meta": 1, "meta": 2}', b'{"payload": "!"}'])
def test_what_is_no_policy_is_not_uploaded(document):
    with pytest.raises(AttestreamError):
        check_upload(document)


def test_an_envelope_is_opened_by_its_key_alone():
    key, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    document = json.dumps(policy()).encode()
    envelope = sign_envelope(document, key, payload_type="application/vnd.keylime+json")
    assert open_signed_policy(envelope, pem(key)) == document
    assert check_upload(envelope, key=pem(key), signed=True).policy == policy()
    assert check_upload(envelope).policy == policy()
    for wrong in (b"", pem(other), pem(rsa.generate_private_key(65537, 2048)), b"no key"):
        with pytest.raises(AttestreamError):
            open_signed_policy(envelope, wrong)
    with pytest.raises(SignatureError):
        open_with_own_certificate(envelope)
    with pytest.raises(SignatureError, match="not signed"):
        open_signed_policy(document, pem(key))
    load_verifying_key(pem(key))


def test_detached_signatures():
    from cryptography.hazmat.primitives import hashes

    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(b"body", ec.ECDSA(hashes.SHA256()))
    assert verify_detached(pem(key), signature, b"body")
    assert not verify_detached(pem(key), signature, b"other")
    assert not verify_detached(pem(key), b"This is not one", b"body")
    assert not verify_detached(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", signature, b"body")
    assert not verify_detached(pem(rsa.generate_private_key(65537, 2048)), signature, b"body")


def test_flat_lists_are_converted_line_by_line():
    made = convert_allowlist(f"{SHA256}  /a b\n\n{'1' * 40} %keyring:.ima\nodd\n{'2' * 64} /a b\n", timestamp="t")
    assert made.policy["digests"] == {"/a b": [SHA256, "2" * 64]}
    assert made.policy["keyrings"] == {".ima": ["1" * 40]}
    assert made.policy["meta"] == {"version": 1, "generator": 3, "timestamp": "t"}
    assert made.remarks == ("line 4 is not a digest and a path; it is left out",)


@pytest.mark.parametrize("text", ['{"digests": {"/a": []}, "x": 1}', "{}", "[1]", "3", "[" * 100_000])
def test_json_that_is_no_allowlist_is_not_converted(text):
    with pytest.raises(PolicyError):
        convert_allowlist(text)


def test_old_policies_are_brought_up_to_date():
    made = update_policy({"meta": {"version": 0}, "digests": {"/a": [SHA256]}, "extra": 1}, excludes=["/x"])
    assert made.policy == policy(excludes=["/x"], meta={"version": 1, "generator": 2})
    for broken in ({}, {"meta": {"version": 1}}, {"meta": {"version": "1"}, "excludes": []}):
        with pytest.raises(PolicyError):
            update_policy(broken)


def test_verification_keys_are_added_to_those_that_are_there():
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    first = update_policy(policy(), keys=[("one", pem(keys[0]))]).policy
    both = update_policy(first, keys=[("two", pem(keys[1])), ("three", b"none")])
    assert both.remarks == ("three is left out: these bytes are neither a certificate nor a public key",)
    assert [pem_of(key.der) for key in read_keyring(both.policy["verification-keys"])] == [pem(key) for key in keys]
    native = native_document(both.policy).policy
    assert compile_policy(json.dumps(native).encode()).runtime.signatures.keys.keys[1].der == base64.b64decode(
        native["runtime"]["signatures"]["keys"][1]
    )


def pem_of(der: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_measurement_list_must_start_with_a_boot_aggregate():
    line = f"10 {'0' * 40} ima-ng sha256:{SHA256} "
    made = policy_from_measurements(f"{line}boot_aggregate\n{line}/a\nodd\n{line}/a\n")
    assert made.policy["digests"] == {"boot_aggregate": [SHA256], "/a": [SHA256]}
    for first in (
        "",
        "odd",
        f"{line}/a",
        f"10 0 ima-ng md5:{'0' * 32} boot_aggregate",
        f"10 0 ima-ng sha1:{SHA256} boot_aggregate",
    ):
        with pytest.raises(PolicyError):
            policy_from_measurements(f"{first}\n{line}/a\n")
    for digest in ("sha256:12", f"sha256:{SHA256.upper()}", SHA256):
        with pytest.raises(PolicyError):
            policy_from_measurements(f"{line}boot_aggregate\n10 {'0' * 40} ima-ng {digest} /a\n")


def test_digests_get_the_algorithm_of_their_size():
    table = {"/a": ["1" * 40, SHA256, "2" * 96, "3" * 128]}
    native = native_document(policy(digests=table, keyrings={".ima": [SHA256]}, **{"ima-buf": {"kexec": [SHA256]}})).policy
    runtime = native["runtime"]
    assert [text.partition(":")[0] for text in runtime["digests"]["/a"]] == ["sha1", "sha256", "sha384", "sha512"]
    assert runtime["keyrings"] == {".ima": [f"sha256:{SHA256}"]}
    assert runtime["buffers"] == {"kexec": [f"sha256:{SHA256}"]}
    assert compile_policy(json.dumps(native).encode()).entries == 6
    with pytest.raises(PolicyError, match=r"digests\['/a'\]"):
        native_document(policy(digests={"/a": ["1" * 50]}))
