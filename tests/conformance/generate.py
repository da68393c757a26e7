"""Makes the folder ``own`` of small cases: ``python -m tests.conformance.generate``.

What is expected follows from how a case is made, never from running what is tested. Keys and signatures are new each time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from attestream.interop.credentials import build_credential_file
from attestream.interop.pcr_blob import build_pcr_blob
from attestream.interop.quotes import QuoteParts, build_quote_text
from attestream.tpm.certification import Certification, build_certification
from attestream.tpm.credential import make_credential
from attestream.tpm.public import parse_public
from attestream.tpm.structures import ClockInfo, Quote, build_quote, parse_quote
from devtools.soft_tpm import KeyPool, SoftTpm

FOLDER: Final = Path(__file__).with_name("own")
NONCE: Final = "q7Yw2hZp0TnXc4RbLk9s"
UUID: Final = "5f0c2f0a-0000-4000-8000-00000000c0de"
KEY_TEXT: Final = "-----BEGIN PUBLIC KEY-----\nThis stands for the agent's transport key.\n-----END PUBLIC KEY-----\n"
PCRS: Final = (0, 7, 16)

Case = dict[str, Any]
_KEYS: Final = KeyPool(2)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _tpm(ak: str = "p256", bank: str = "sha256") -> SoftTpm:
    tpm = SoftTpm(ek="p256", ak=ak, ak_hash=bank, banks=(bank,), keys=_KEYS)
    for pcr in (0, 7):
        tpm.extend(pcr, {bank: hashlib.new(bank, bytes((pcr,))).digest()})
    tpm.extend(16, {bank: hashlib.new(bank, KEY_TEXT.encode()).digest()})
    return tpm


def _parts(
    tpm: SoftTpm, bank: str = "sha256", pcrs: tuple[int, ...] = PCRS, nonce: bytes = NONCE.encode(), **changes: Any
) -> QuoteParts:
    """Return a quote; ``changes`` replace fields of it before it is signed."""
    attest, _ = tpm.quote(nonce, {bank: pcrs})
    attest = build_quote(msgspec.structs.replace(parse_quote(attest), **changes))
    blob = build_pcr_blob(((bank, pcrs),), {bank: {pcr: tpm.pcr(bank, pcr) for pcr in pcrs}})
    return QuoteParts(attest, tpm.sign(attest), blob)


def _values(tpm: SoftTpm, bank: str = "sha256", pcrs: tuple[int, ...] = PCRS) -> dict[str, str]:
    return {str(pcr): tpm.pcr(bank, pcr).hex() for pcr in pcrs}


def _quote(name: str, tpm: SoftTpm, parts: QuoteParts, *, good: bool, **inputs: str) -> Case:
    given = {"ak_tpm": _text(tpm.ak_public), "quote": build_quote_text(parts), "nonce": NONCE, "hash_alg": "sha256"}
    given |= inputs
    expected = {"verdict": "pass" if good else "fail", "pcrs": _values(tpm, given["hash_alg"]) if good else {}}
    return {"id": f"quote-own-{name}", "call": "checkquote", "inputs": given, "expected": expected}


def quotes() -> Iterator[Case]:
    for ak in ("rsa2048", "rsa3072", "p256", "p384", "p521"):
        for bank in ("sha1", "sha256", "sha384", "sha512"):
            tpm = _tpm(ak, bank)
            yield _quote(f"{ak}-{bank}", tpm, _parts(tpm, bank), good=True, hash_alg=bank)
    tpm, other = _tpm(), _tpm()
    good = _parts(tpm)
    yield _quote("nonce-in-base64", tpm, _parts(tpm, nonce=b"sixteen-bytes-16"), good=True, nonce=_text(b"sixteen-bytes-16"))
    yield _quote("nonce-of-another", tpm, good, good=False, nonce=NONCE[:-1] + "t")
    yield _quote("another-hash-was-agreed", tpm, good, good=False, hash_alg="sha384")
    yield _quote("key-of-another", other, good, good=False)
    yield _quote("signature-cut", tpm, good._replace(signature=good.signature[:-1]), good=False)
    yield _quote("pcr-values-cut", tpm, good._replace(pcrs=good.pcrs[:-1]), good=False)
    yield _quote("pcr-values-of-another-quote", tpm, good._replace(pcrs=_parts(tpm, pcrs=(0, 7)).pcrs), good=False)
    relabelled = build_pcr_blob((("sha256", (1, 8, 16)),), {"sha256": dict(zip((1, 8, 16), _raw(tpm), strict=True))})
    yield _quote("pcrs-under-other-numbers", tpm, good._replace(pcrs=relabelled), good=False)
    yield _quote("digest-of-other-values", tpm, _parts(tpm, pcr_digest=bytes(32)), good=False)
    yield _quote("pss", *_pss(), good=False)


def _raw(tpm: SoftTpm) -> list[bytes]:
    return [tpm.pcr("sha256", pcr) for pcr in PCRS]


def _pss() -> tuple[SoftTpm, QuoteParts]:
    tpm = SoftTpm(ek="p256", ak="rsa2048", ak_scheme="rsapss", banks=("sha256",), keys=_KEYS)
    return tpm, _parts(tpm)


def _checked(name: str, parts: QuoteParts, tpm: SoftTpm, events: list[str], clock: dict[str, int], **inputs: Any) -> Case:
    given = {
        "ak_tpm": _text(tpm.ak_public),
        "quote": build_quote_text(parts),
        "nonce": NONCE,
        "hash_alg": "sha256",
        "pubkey": KEY_TEXT,
        "tpm_policy": json.dumps({"mask": "0x10081", "7": [tpm.pcr("sha256", 7).hex()]}),
        **inputs,
    }
    expected = {
        "verdict": "fail" if events else "pass",
        "event_ids": events,
        "recoverable": not any(event.startswith("qoute_validation") for event in events),
        "highest": events[0] if events else None,
        "clockinfo_after": clock,
    }
    return {"id": f"check_quote-own-{name}", "call": "check_quote", "inputs": given, "expected": expected}


def _clock(clock: int, resets: int, restarts: int) -> dict[str, int]:
    return {"clock": clock, "resetCount": resets, "restartCount": restarts, "safe": 1}


def check_quotes() -> Iterator[Case]:
    tpm, now, never = _tpm(), _clock(5000, 3, 0), _clock(0, 0, 0)
    time = ClockInfo(5000, 3, 0, safe=True)
    refused = ["qoute_validation.quote_validation"]
    good = _parts(tpm, clock=time)

    def policy(**values: list[str]) -> str:
        return json.dumps({"mask": "0x10081", **values})

    yield _checked("good", good, tpm, [], now)
    yield _checked("signed-by-another", _parts(_tpm(), clock=time), tpm, refused, never)
    yield _checked("another-key-bound", good, tpm, ["pcr_validation.invalid_pcr_16"], now, pubkey=KEY_TEXT + "\n")
    yield _checked("no-key-bound", _parts(tpm, pcrs=(0, 7), clock=time), tpm, ["pcr_validation.missing_pcr_16"], now)
    wrong = policy(**{"0": ["00" * 32], "7": ["11" * 32]})
    events = ["pcr_validation.invalid_pcr_0", "pcr_validation.invalid_pcr_7"]
    yield _checked("two-pcrs-differ", good, tpm, events, now, tpm_policy=wrong)
    yield _checked("policy-pcr-not-quoted", _parts(tpm, pcrs=(16,), clock=time), tpm, ["pcr_validation.missing_pcrs"], now)
    no_log = _parts(tpm, pcrs=(7, 10, 16), clock=time)
    yield _checked("pcr-10-without-log", no_log, tpm, ["pcr_validation.unused_pcr_10"], now)
    before = _clock(4999, 3, 0)
    yield _checked("clock-went-on", good, tpm, [], now, previous_clockinfo=before)
    later = _parts(tpm, clock=ClockInfo(5000, 4, 1, safe=True))
    yield _checked("both-counts-rose", later, tpm, [], _clock(9000, 3, 0), previous_clockinfo=_clock(9000, 3, 0))
    for name, before in (
        ("clock-stood-still", now),
        ("clock-went-back", _clock(5001, 3, 0)),
        ("reset-count-went-back", _clock(1, 4, 0)),
        ("restart-count-went-back", _clock(1, 3, 1)),
    ):
        yield _checked(name, good, tpm, refused, before, previous_clockinfo=before)
    unsafe = _parts(tpm, clock=msgspec.structs.replace(time, safe=False))
    yield _checked("clock-not-safe", unsafe, tpm, refused, never)
    identity = {"mode": "identity", "previous_clockinfo": _clock(9000, 9, 9)}
    yield _checked("identity-checks-the-key-alone", good, tpm, [], never, **identity)


def publics() -> Iterator[Case]:
    for kind in ("rsa2048", "rsa3072", "p256", "p384", "p521"):
        tpm = SoftTpm(ek=kind, ak=kind, keys=_KEYS)
        for role, area in (("ek", tpm.ek_public), ("ak", tpm.ak_public)):
            name_hash = "sha384" if role == "ek" and kind not in ("rsa2048", "p256") else "sha256"
            digest = hashlib.new(name_hash, area[2:]).hexdigest()
            yield _public(f"{role}-{kind}", area, {"verdict": "pass", "name": area[4:6].hex() + digest})
            yield _public(f"{role}-{kind}-trailing", area + b"\0", {"verdict": "error"})
            yield _public(f"{role}-{kind}-cut", area[:-1], {"verdict": "error"})


def _public(name: str, area: bytes, expected: dict[str, str]) -> Case:
    return {"id": f"tpm2b_public-own-{name}", "call": "", "inputs": {"tpm2b_public": _text(area)}, "expected": expected}


def credentials() -> Iterator[Case]:
    secret = b"thirty-two-bytes-of-a-secret-xyz"
    tag = hmac.new(base64.b64encode(secret), UUID.encode(), "sha384").hexdigest()
    inputs = {"secret": _text(secret), "agent_id": UUID}
    yield _credential("auth-tag", "registrar auth tag", inputs, {"verdict": "pass", "auth_tag": tag})
    key = b"\x11" * 32
    block = hmac.digest(key, (1).to_bytes(4, "big") + b"STORAGE\0" + b"name" + (128).to_bytes(4, "big"), "sha256")[:16]
    call = "crypt_kdfa(sha256, key, 'STORAGE', name, b'', 128)"
    yield _credential("kdfa", call, {"key": key.hex(), "name": b"name".hex()}, {"verdict": "pass", "out": block.hex()})
    tpm, other = _tpm(), _tpm()
    blob = build_credential_file(*make_credential(parse_public(tpm.ek_public), tpm.ak_name, secret))
    names = {"verdict": "pass", "ak_name": tpm.ak_name.hex()}
    given = {"ek_tpm": _text(tpm.ek_public), "ak_tpm": _text(tpm.ak_public), "credential_blob": _text(blob)}
    yield _credential("blob", "makecredential", given, names)
    yield _credential("blob-cut", "makecredential", {**given, "credential_blob": _text(blob[:-1])}, {"verdict": "fail"})
    yield _credential(
        "blob-of-no-magic", "makecredential", {**given, "credential_blob": _text(blob[1:])}, {"verdict": "fail"}
    )
    named = {"verdict": "pass", "ak_name": other.ak_name.hex()}
    yield _credential("blob-names", "makecredential", {**given, "ak_tpm": _text(other.ak_public)}, named)


def _credential(name: str, call: str, inputs: dict[str, str], expected: dict[str, str]) -> Case:
    return {"id": f"makecredential-own-{name}", "call": call, "inputs": inputs, "expected": expected}


def certifications() -> Iterator[Case]:
    for kind in ("rsa2048", "p256"):
        iak, ak, other = (SoftTpm(ek="p256", ak=kind, keys=KeyPool(1)) for _ in range(3))
        digest = hashlib.sha256(UUID.encode()).digest()
        for name, extra, named, signer, good in (
            ("digest-of-id", digest, ak, iak, True),
            ("id-itself", UUID.encode(), ak, iak, True),
            ("another-id", hashlib.sha256(b"another").digest(), ak, iak, False),
            ("no-id", b"", ak, iak, False),
            ("another-key", digest, other, iak, False),
            ("another-iak", digest, ak, other, False),
        ):
            attest = build_certification(Certification(b"", extra, ClockInfo(1, 1, 0, safe=True), 1, named.ak_name, b""))
            yield _certification(f"{kind}-{name}", iak, ak, attest, signer.sign(attest), good=good)
        quote = build_quote(Quote(b"", digest, ClockInfo(1, 1, 0, safe=True), 1, (("sha256", (0,)),), bytes(32)))
        yield _certification(f"{kind}-quote", iak, ak, quote, iak.sign(quote), good=False)


def _certification(name: str, iak: SoftTpm, ak: SoftTpm, attest: bytes, signature: bytes, *, good: bool) -> Case:
    inputs = {"uuid": UUID, "ak_tpm": _text(ak.ak_public), "iak_tpm": _text(iak.ak_public)}
    inputs |= {"iak_attest": _text(attest), "iak_sign": _text(signature)}
    expected = {"verdict": "pass" if good else "fail"}
    return {"id": f"certify-own-{name}", "call": "verify_aik_with_iak", "inputs": inputs, "expected": expected}


def severities() -> Iterator[Case]:
    labels = ["low", "middle", "high"]
    rules = [("ima[.]pcr_.*", "low"), ("ima[.].*", "middle"), ("ima[.]parser[.]entry", "high"), ("boot", "none such")]
    policy = [{"event_id": expression, "severity_label": label} for expression, label in rules]
    for event, level in (("ima.pcr_mismatch", 0), ("ima.parser.entry", 1), ("boot", 2), ("ima", 2), ("pcr_validation.x", 2)):
        expected: dict[str, Any] = {"verdict": "pass", "label": labels[level], "severity": level, "is_max": level == 2}
        if event in ("ima", "pcr_validation.x"):
            expected["rule"] = "none matched"
        inputs = {"severity_labels": labels, "severity_policy": policy, "event_id": event}
        yield {"id": f"severity-own-{event}", "call": "", "inputs": inputs, "expected": expected}


def algorithms() -> Iterator[Case]:
    for name, accepted, good in (
        ("rsa", ["rsa2048"], True),
        ("ecc256", ["rsa", "ecc"], True),
        ("ecc521", ["ecc"], False),
        ("sm3_256", ["sha256", "sm3_256"], True),
        ("sha1", [], False),
    ):
        inputs = {"algorithm": name, "accepted": accepted}
        expected = {"verdict": "pass" if good else "fail"}
        yield {"id": f"algorithms-own-{name}", "call": "is_accepted", "inputs": inputs, "expected": expected}


CATEGORIES: Final[dict[str, Callable[[], Iterator[Case]]]] = {
    "quote": quotes,
    "check_quote": check_quotes,
    "tpm2b_public": publics,
    "makecredential": credentials,
    "certify": certifications,
    "severity": severities,
    "algorithms": algorithms,
}


def write(folder: Path = FOLDER) -> None:
    """Write all categories to ``folder``."""
    folder.mkdir(exist_ok=True)
    for category, make in CATEGORIES.items():
        document = {"category": category, "cases": list(make())}
        (folder / f"{category}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
