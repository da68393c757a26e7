"""`attestream policy convert | sign | verify | diff | check`, and `attestream appraise`."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from attestream.appraisal.policy import compile_policy
from attestream.interop.keys import pem
from attestream.interop.pcr_blob import build_pcr_blob
from attestream.interop.quotes import QuoteParts, build_quote_text
from attestream.interop.runtime_schema import check_runtime_policy
from attestream.tpm.public import parse_public
from attestream.tpm.structures import parse_quote
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import SoftTpm
from schemas.attestation import Challenge
from schemas.base import encode

A, B = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32


def policy(path: Path, runtime: dict | None = None, **more: object) -> str:
    runtime = {"digests": {"boot_aggregate": [A], "/usr/bin/a": [A]}} if runtime is None else runtime
    path.write_text(json.dumps({"format": "attestream-policy/1", "bank": "sha256", "runtime": runtime, **more}))
    return str(path)


@pytest.mark.parametrize("form", ["flat", "json", "policy", "signed"])
def test_old_policies_are_converted(inside, tmp_path, form):
    file, target = tmp_path / "old", tmp_path / "new.json"
    digests = {"/usr/bin/a": ["ab" * 32], "boot_aggregate": ["sha256:" + "cd" * 32]}
    if form == "flat":
        file.write_text("".join(f"{listed[0]}  {path}\n" for path, listed in digests.items()))
    else:
        file.write_text(json.dumps({"hashes": digests}))
    (tmp_path / "excludes").write_text("/tmp\n")
    if form in ("policy", "signed"):
        digests["boot_aggregate"] = ["cd" * 32]
        file.write_text(json.dumps({"hashes": digests}))
        assert inside("policy", "convert", str(file), "--to", "keylime", "-o", str(target)).code == 0
        check_runtime_policy(json.loads(target.read_text()))
        file = target
    if form == "signed":
        signed = inside("policy", "sign", str(target), "--new-key", str(tmp_path / "key"), "--kind", "ecdsa")
        assert "vnd.keylime" in signed.out
        (tmp_path / "signed").write_text(signed.out)
        file = tmp_path / "signed"
    ran = inside("policy", "convert", str(file), "--exclude-list", str(tmp_path / "excludes"), "--json")
    assert ran.code == 0, ran.err
    runtime = ran.json["runtime"]
    assert runtime["digests"] == {"/usr/bin/a": [A], "boot_aggregate": [B]}
    assert compile_policy(ran.out.encode()).runtime.excludes.fullmatch(b"/tmp/x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "JSON without a table"),
        (json.dumps({"format": "attestream-policy/1"}), "a policy document already"),
        (f"{'1' * 50} /a", "does not describe|does not tell its algorithm"),
        (json.dumps({"hashes": {"/a": ["1" * 64]}, "excludes": ["(?!a)"]}), "is not an RE2 expression"),
        (json.dumps({"hashes": {"/a": 1}}), "must be a list"),
    ],
)
def test_what_can_not_be_converted_is_said_in_a_line(inside, tmp_path, content, message):
    import re

    (tmp_path / "old").write_text(content)
    ran = inside("policy", "convert", str(tmp_path / "old"))
    assert ran.code == 1
    assert re.search(message, ran.err)
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_policy_is_signed_and_verified(inside, tmp_path, kind):
    document, key, envelope, out = policy(tmp_path / "a"), tmp_path / "key", tmp_path / "signed", tmp_path / "out"
    ran = inside("policy", "sign", document, "--new-key", str(key), "--kind", kind, "-o", str(envelope), "--json")
    keyid = ran.json["key"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = tmp_path / "key.pub"
    ran = inside("policy", "verify", str(envelope), "--key", str(public), "-o", str(out), "--json")
    assert (ran.code, ran.json["key"]) == (0, keyid)
    assert out.read_bytes().rstrip() == Path(document).read_bytes()
    altered = json.loads(envelope.read_text())
    altered["payload"] = altered["payload"][:-8] + "AAAAAAA="
    envelope.write_text(json.dumps(altered))
    out.unlink()
    ran = inside("policy", "verify", str(envelope), "--key", str(public), "-o", str(out))
    assert (ran.code, out.exists()) == (1, False)
    assert "no signature of the envelope is by a trusted key" in ran.err
    before = key.read_bytes()
    ran = inside("policy", "sign", document, "--new-key", str(key))
    assert (ran.code, key.read_bytes()) == (1, before)


def test_a_certificate_signs_for_its_issuer(inside, tmp_path):
    document, key = policy(tmp_path / "a"), tmp_path / "key"
    assert inside("policy", "sign", document, "--new-key", str(key), "--kind", "ecdsa", "-o", str(tmp_path / "x")).code == 0
    private = load_pem_private_key(key.read_bytes(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, private.public_key(), 5, now - dt.timedelta(1), now + dt.timedelta(1))
    (tmp_path / "certificate").write_bytes(made.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
    arguments = ("--key", str(key), "--certificate", str(tmp_path / "certificate"), "-o", str(tmp_path / "signed"))
    assert inside("policy", "sign", document, *arguments).code == 0
    assert inside("policy", "verify", str(tmp_path / "signed"), "--ca", str(tmp_path / "certificate")).code == 0
    ran = inside("policy", "verify", str(tmp_path / "x"), "--ca", str(tmp_path / "certificate"))
    assert (ran.code, "has no certificate" in ran.err) == (1, True)


def test_a_signature_needs_somebody_to_trust(inside, tmp_path):
    document = policy(tmp_path / "a")
    assert inside("policy", "verify", document).code == 2
    assert inside("policy", "sign", document).code == 2
    (tmp_path / "odd").write_text('{"a": 1}')
    ran = inside("policy", "sign", str(tmp_path / "odd"), "--new-key", str(tmp_path / "key"))
    assert (ran.code, (tmp_path / "key").exists()) == (1, False)


def test_differences_are_told_by_place_and_name(inside, tmp_path):
    one = policy(
        tmp_path / "one",
        {"digests": {"/a": [A], "/b": [A, B], "/c": [A]}, "excludes": ["/x", "/y"]},
        pcrs={"7": ["ab" * 32]},
    )
    two = policy(
        tmp_path / "two", {"digests": {"/b": [B, A], "/c": [B], "/d": [A]}, "excludes": ["/y", "/z"]}, recovery="automatic"
    )
    changes = inside("policy", "diff", one, two, "--json").json
    assert [(change["kind"], change["place"], change["name"]) for change in changes] == [
        ("removed", "pcrs", "7"),
        ("added", "recovery", ""),
        ("removed", "runtime.digests", "/a"),
        ("changed", "runtime.digests", "/c"),
        ("added", "runtime.digests", "/d"),
        ("removed", "runtime.excludes", "/x"),
        ("added", "runtime.excludes", "/z"),
    ]
    assert f"~ runtime.digests /c {A} -> {B}" in inside("policy", "diff", one, two).out
    assert inside("policy", "diff", one, two, "--exit-code").code == 1
    assert inside("policy", "diff", one, one, "--exit-code").code == 0


@pytest.mark.parametrize(
    ("runtime", "code"),
    [
        ({"digests": {}}, "allowlist-empty"),
        ({"digests": {"/a": [A]}}, "boot-aggregate-missing"),
        ({"digests": {"boot_aggregate": [A], "usr/bin/a": [A]}}, "path-relative"),
        ({"digests": {"boot_aggregate": [A], "/a b": [A]}}, "path-space"),
        ({"digests": {"boot_aggregate": [A], "/a//b": [A], "/a/b": [B]}}, "path-duplicate"),
        ({"digests": {"boot_aggregate": [A], "/a/../b": [A]}}, "path-unresolved"),
        ({"digests": {"boot_aggregate": [A], "/a": ["sha1:" + "1" * 40]}}, "digest-weak"),
        ({"digests": {"boot_aggregate": [A], "/usr/a": [A]}, "excludes": ["/usr/.*"]}, "exclude-covers-listed"),
        ({"digests": {"boot_aggregate": [A]}, "excludes": [".*"]}, "exclude-everything"),
        ({"digests": {"boot_aggregate": [A]}, "excludes": ["tmp/.*"]}, "exclude-relative"),
        ({"digests": {"boot_aggregate": [A]}, "excludes": ["/tmp/"]}, "exclude-directory"),
        ({"digests": {"boot_aggregate": [A], "/a": [A]}, "deny": {"paths": ["/a"]}}, "denied-path"),
        ({"digests": {"boot_aggregate": [A], "/a": [B]}, "deny": {"digests": [B]}}, "denied-digest"),
        ({"digests": {"boot_aggregate": [A]}, "signatures": {"keys": []}}, "keys-missing"),
        ({"digests": {"boot_aggregate": [A]}, "evm": {"keys": []}, "keyrings": {".ima": [A]}}, "keys-missing"),
    ],
)
def test_lint_warns(inside, tmp_path, runtime, code):
    ran = inside("policy", "check", policy(tmp_path / "a", runtime), "--json")
    assert ran.code == 1
    assert code in [remark["code"] for remark in ran.json if remark["level"] == "warning"]


def test_lint_is_silent_about_a_good_policy_and_names_what_is_only_odd(inside, tmp_path):
    ran = inside(
        "policy", "check", policy(tmp_path / "a", {"digests": {"boot_aggregate": [A], "/a": [A]}, "excludes": ["/tmp/.*"]})
    )
    assert (ran.code, ran.out) == (0, "valid, and nothing is odd\n")
    odd = {"digests": {"boot_aggregate": [A], "/a": [A, A, "sha512:" + "1" * 128]}, "excludes": ["/tmp/.*", "/tmp/.*"]}
    ran = inside("policy", "check", policy(tmp_path / "b", odd, pcrs={"0": ["0" * 64]}, allow_sha1=True), "--json")
    assert ran.code == 0
    assert {remark["code"] for remark in ran.json} == {
        "pcr-unused",
        "digest-duplicate",
        "digest-mixed",
        "exclude-duplicate",
        "sha1-allowed",
    }
    ran = inside("policy", "check", policy(tmp_path / "c", {"digests": 1}))
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)


@pytest.fixture
def agent() -> SoftAgent:
    made = SoftAgent("machine", SoftTpm())
    made.run("boot_aggregate", hashlib.sha256(b"boot").digest())
    made.run("/usr/bin/a", hashlib.sha256(b"a").digest())
    return made


@pytest.fixture
def files(tmp_path: Path, agent: SoftAgent) -> Path:
    (tmp_path / "ak").write_bytes(agent.tpm.ak_public)
    (tmp_path / "ak.pem").write_text(pem(parse_public(agent.tpm.ak_public)))
    digests = {
        path: [f"sha256:{hashlib.sha256(text).hexdigest()}"]
        for path, text in (("boot_aggregate", b"boot"), ("/usr/bin/a", b"a"))
    }
    policy(tmp_path / "policy", {"digests": digests}, pcrs={"0": ["0" * 64]})
    return tmp_path


def evidence(agent: SoftAgent, ima_from: int = 0, seq: int = 1) -> bytes:
    challenge = Challenge(
        agent_id=agent.agent_id,
        nonce=bytes(32),
        seq=seq,
        issued_at=1,
        deadline=2,
        banks={"sha256": [0, 10]},
        ima_from=ima_from,
    )
    return encode(agent.answer(challenge))


def test_evidence_is_appraised_offline(inside, files, agent):
    (files / "one").write_bytes(evidence(agent))
    arguments = ("--policy", str(files / "policy"), "--ak", str(files / "ak"))
    ran = inside("appraise", str(files / "one"), *arguments, "--json")
    assert (ran.code, ran.json) == (0, {"verdict": "pass", "findings": []})
    agent.run("/usr/bin/evil", bytes(32))
    (files / "two").write_bytes(evidence(agent, 2, 2))
    ran = inside("appraise", str(files / "one"), str(files / "two"), *arguments, "--json")
    assert (ran.code, ran.json["verdict"]) == (4, "fail")
    assert [(found["code"], found["culprit"]) for found in ran.json["findings"]] == [
        ("runtime.path-unknown", "/usr/bin/evil")
    ]
    ran = inside("appraise", str(files / "one"), str(files / "two"), *arguments)
    assert (ran.code, "not trusted" in ran.out, "/usr/bin/evil" in ran.out) == (4, True, True)


def test_evidence_by_another_key_is_not_trusted(inside, files, agent):
    (files / "one").write_bytes(evidence(agent))
    (files / "ak").write_bytes(SoftTpm().ak_public)
    ran = inside("appraise", str(files / "one"), "--policy", str(files / "policy"), "--ak", str(files / "ak"), "--json")
    assert (ran.code, [found["code"] for found in ran.json["findings"]]) == (4, ["quote.signature-invalid"])


def quote_text(agent: SoftAgent, nonce: str) -> str:
    attest, signature = agent.tpm.quote(nonce.encode(), {"sha256": [0, 10]})
    values = {"sha256": {pcr: agent.tpm.pcr("sha256", pcr) for pcr in (0, 10)}}
    return build_quote_text(QuoteParts(attest, signature, build_pcr_blob(parse_quote(attest).selection, values)))


@pytest.mark.parametrize("form", ["binary", "ascii"])
def test_a_quote_as_text_is_appraised_with_its_log(inside, files, agent, form):
    (files / "quote").write_text(quote_text(agent, "n0nce") + "\n")
    log = files / "log"
    log.write_bytes(b"".join(record.binary if form == "binary" else record.ascii.encode() + b"\n" for record in agent.log))
    arguments = ("--policy", str(files / "policy"), "--ak", str(files / "ak.pem"), "--json")
    whole = ("appraise", str(files / "quote"), *arguments, "--ima-log", str(log))
    ran = inside(*whole, "--nonce", "n0nce")
    assert (ran.code, ran.json) == (0, {"verdict": "pass", "findings": []})
    ran = inside(*whole, "--nonce", "other")
    assert (ran.code, [found["code"] for found in ran.json["findings"]]) == (4, ["quote.qualifying-data"])
    ran = inside("appraise", str(files / "quote"), *arguments, "--nonce", "n0nce")
    assert (ran.code, [found["code"] for found in ran.json["findings"]]) == (4, ["runtime.log-missing"])
    log.write_bytes(log.read_bytes()[: len(agent.log[0].binary if form == "binary" else agent.log[0].ascii + "\n")])
    ran = inside(*whole, "--nonce", "n0nce")
    assert (ran.code, [found["code"] for found in ran.json["findings"]]) == (4, ["runtime.log-mismatch"])
    assert inside(*whole).code == 2


def test_what_is_no_evidence_is_said_in_a_line(inside, files):
    (files / "odd").write_bytes(b"odd")
    for ak in ("ak", "odd"):
        ran = inside("appraise", str(files / "odd"), "--policy", str(files / "policy"), "--ak", str(files / ak))
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)


def test_published_versions_are_compared_and_checked(inside, up, tmp_path):
    first = policy(tmp_path / "one", {"digests": {"boot_aggregate": [A], "/a": [A]}})
    second = policy(tmp_path / "two", {"digests": {"boot_aggregate": [A], "/a": [B]}})
    for file in (first, second):
        assert inside("--url", up.url, "policy", "push", "tools", file).code == 0
    ran = inside("--url", up.url, "policy", "diff", "tools@1", "tools", "--json")
    assert [(change["kind"], change["name"]) for change in ran.json] == [("changed", "/a")]
    assert inside("--url", up.url, "policy", "diff", first, "tools@1", "--exit-code").code == 0
    assert inside("--url", up.url, "policy", "check", "tools@2").code == 0
    ran = inside("--url", up.url, "policy", "diff", "tools@1", "tools@9")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)


def test_a_signed_policy_is_pushed_in_its_envelope(inside, up, tmp_path):
    document, envelope = policy(tmp_path / "plain"), str(tmp_path / "signed")
    assert inside("policy", "sign", document, "--new-key", str(tmp_path / "key"), "-o", envelope).code == 0
    assert inside("--url", up.url, "policy", "push", "signed", envelope).code == 0
    shown = inside("--url", up.url, "policy", "show", "signed", "--json").json
    assert shown["document"] == json.loads(Path(document).read_text())
    assert len(shown["record"]["envelope"]) == 64
    # The installation names no key: it says of none that it has signed.
    assert shown["record"].get("signed_by", "") == ""
    # The envelope adds nothing to the document: it is the same version.
    assert "signed@1" in inside("--url", up.url, "policy", "push", "signed", document).out
    Path(envelope).write_text('{"payload": "x"}')
    ran = inside("--url", up.url, "policy", "push", "signed", envelope)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
