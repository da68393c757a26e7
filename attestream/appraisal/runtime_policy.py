"""The rules for what may be measured, and the decision on one entry with the rule that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from attestream.appraisal.device_policy import DevicePolicy
from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.digests import HASHLIB_NAMES, digest_text, split_digest
from attestream.ima.evm import Trust, why_unproven
from attestream.ima.keys import KeyRing, SigningKey, load_key, looks_like_key
from attestream.ima.log import Entry
from attestream.ima.memo import Generations
from attestream.ima.modsig import verify_appended
from attestream.ima.signatures import SignatureVerdict, parse_signature, verify_signature
from attestream.ima.templates import more_fields

BOOT_AGGREGATE: Final = b"boot_aggregate"
"""Name of the first entry of a log: the digest over the PCRs of the boot."""
ANY_KEYRING: Final = b"*"
EVM_KEYRINGS: Final = (b".evm", b"_evm")
"""Keyrings by which the kernel checks EVM signatures (Linux ``security/integrity/digsig.c``)."""

EITHER: Final = "either"
BOTH: Final = "both"

_TOO_MANY: Final = "too many entries before it were refused for its signature to be checked"

Allowed = bytes | frozenset[bytes]
"""The allowed ``d-ng`` field, or several. A single one is not wrapped: it saves memory."""


class Decision(NamedTuple):
    """What a policy says about an entry."""

    rule: str
    """The rule that allowed or denied it; empty when no rule speaks of it."""
    code: str = ""
    """Code of the finding; empty when it is allowed."""
    message: str = ""
    key: SigningKey | None = None
    """The key that the entry put on an allowed keyring."""
    lasting: bool = True
    """Whether the decision follows from entry and policy alone, so that it holds for every attester."""

    @property
    def allowed(self) -> bool:
        """Whether the entry is allowed."""
        return not self.code


class Proofs(NamedTuple):
    """What is known of an attester beside the entry itself."""

    keys: KeyRing = KeyRing()
    """Keys that earlier entries put on allowed keyrings."""
    boot_aggregates: frozenset[bytes] = frozenset()
    """Digests (field ``d-ng``) that follow from the boot log's PCRs."""
    memo: Generations[bool] | None = None
    """Verdicts on signatures; only saves time."""
    signatures: bool = True
    """Whether signatures are still checked."""
    evm_keys: KeyRing = KeyRing()
    """Those of ``keys`` that are on a keyring by which the kernel checks EVM signatures."""


@dataclass(frozen=True, slots=True)
class SignatureRule:
    """Whose signatures count."""

    keys: KeyRing
    rule: str = EITHER
    """``either``: a valid signature does in place of a digest. ``both``: it is needed besides."""
    hashes: frozenset[str] = frozenset(HASHLIB_NAMES) - {"md5", "sha1"}
    """Algorithms of digests whose signatures count."""


class _Signed(NamedTuple):
    """What signatures say about an entry."""

    rule: str
    """The rule whose signature is there, or is lacking."""
    lacking: str
    """Code of the finding when a signature is needed and not there."""
    vouched: bool
    """Whether a signature does in place of a digest."""
    learned: bool
    """Whether that rests on learned keys."""
    why: str
    """Why signatures are not there."""


@dataclass(frozen=True, slots=True)
class RuntimePolicy:
    """Which files, keys and buffers may be measured."""

    digests: Mapping[bytes, Allowed]
    """Path -> allowed digests."""
    excludes: Any = None
    """One RE2 expression for all excludes, or None. Its time is linear in the path, whatever the expressions are."""
    deny_paths: Any = None
    """One RE2 expression for all paths that are never allowed, or None."""
    deny_digests: frozenset[bytes] = frozenset()
    signatures: SignatureRule | None = None
    evm: SignatureRule | None = None
    """Whose portable EVM signatures count."""
    keyrings: Mapping[bytes, Allowed] = field(default_factory=dict)
    """Keyring -> digests of the keys that it may get. Such keys then sign files."""
    ignored_keyrings: frozenset[bytes] = frozenset()
    """Keyrings that may get any key. Such keys sign nothing."""
    buffers: Mapping[bytes, Allowed | None] = field(default_factory=dict)
    """Name of a measured buffer -> allowed digests; None for any."""
    violations: str = "warn"
    devices: DevicePolicy | None = None
    any_algorithm: bool = False
    """Whether reference values are bare digests, to be compared with those of any algorithm."""
    excludes_cover_buffers: bool = False
    """Whether an exclude that matches the name of a keyring or buffer allows it, too."""

    @property
    def by_digest_alone(self) -> bool:
        """Whether a listed digest is all that an entry needs."""
        both = any(rule is not None and rule.rule == BOTH for rule in (self.signatures, self.evm))
        return not (both or self.any_algorithm or self.deny_digests or self.deny_paths is not None)

    def decide(self, entry: Entry, proofs: Proofs) -> Decision:
        """Return the decision on an entry that is neither a violation nor a device mapper event."""
        return self._decide_file(entry, proofs) if entry.buffer is None else self._decide_buffer(entry, entry.buffer)

    def _decide_file(self, entry: Entry, proofs: Proofs) -> Decision:
        if self.deny_paths is not None and self.deny_paths.fullmatch(entry.path) is not None:
            return Decision("runtime.deny.paths", "runtime.denied", "The rule runtime.deny.paths forbids this path.")
        if entry.digest in self.deny_digests:
            return Decision("runtime.deny.digests", "runtime.denied", "The rule runtime.deny.digests forbids this content.")
        allowed = self.digests.get(entry.path)
        aggregates = proofs.boot_aggregates if entry.path == BOOT_AGGREGATE else frozenset()
        derived = self._among(entry.digest, aggregates)
        listed = derived or (allowed is not None and self._among(entry.digest, allowed))
        signed = self._signed(entry, proofs, listed=listed)
        if not signed.lacking and (listed or signed.vouched):
            rule = signed.rule or ("boot log" if derived else "runtime.digests")
            return Decision(rule, lasting=not (signed.learned or derived))
        # An exclude only ever allows, so asking it last gives the same answer and keeps it out of the hot path.
        if self.excludes is not None and self.excludes.fullmatch(entry.path) is not None:
            return Decision("runtime.excludes")
        if signed.lacking and (listed or signed.vouched):
            return Decision(signed.rule, signed.lacking, f"It needs a valid signature: {signed.why}.")
        return _refused(entry, known=allowed is not None or bool(aggregates), why=signed.why)

    def _signed(self, entry: Entry, proofs: Proofs, *, listed: bool) -> _Signed:
        """Return what signatures say about the entry: those that are needed, and if it is not ``listed`` those that do."""
        rule_name, lacking, vouched, learned, whys = "", "", False, False, []
        for name, code, rule, check in (
            ("runtime.signatures", "runtime.signature-missing", self.signatures, self._signature),
            ("runtime.evm", "runtime.evm-signature", self.evm, self._evm_signature),
        ):
            # The kernel has no file for the boot aggregate, and so no attributes.
            needless = name == "runtime.evm" and listed and entry.path == BOOT_AGGREGATE
            if rule is None or needless or (rule.rule == EITHER and (listed or vouched)):
                continue
            good, why, by_learned = check(entry, rule, proofs)
            if good:
                learned = learned or by_learned
                vouched = vouched or rule.rule == EITHER
                rule_name = rule_name if lacking else name
                continue
            whys.append(why)
            if rule.rule == BOTH and not lacking:
                rule_name, lacking, whys = name, code, [why]
        return _Signed(rule_name, lacking, vouched, learned, ", and ".join(whys))

    def _evm_signature(self, entry: Entry, rule: SignatureRule, proofs: Proofs) -> tuple[bool, str, bool]:
        if not proofs.signatures:
            return False, _TOO_MANY, False
        file_keys = (rule.keys,) if self.signatures is None else (rule.keys, self.signatures.keys)
        fields = dict(zip(more_fields(entry.template), entry.more, strict=True))
        why = why_unproven(fields, entry.digest, Trust((rule.keys,), file_keys, rule.hashes), proofs.memo)
        if not why or not proofs.keys:
            return not why, why, False
        learned = Trust((rule.keys, proofs.evm_keys), (*file_keys, proofs.keys), rule.hashes)
        why = why_unproven(fields, entry.digest, learned, proofs.memo)
        return not why, why, True

    def _signature(self, entry: Entry, rule: SignatureRule, proofs: Proofs) -> tuple[bool, str, bool]:
        """Return whether the entry's signature is valid, why not, and whether that rests on learned keys."""
        if not proofs.signatures:
            return False, _TOO_MANY, False
        if entry.template == b"ima-modsig" and not entry.signature and len(entry.more) == 2 and entry.more[1]:
            for learned, keys in ((False, rule.keys), (True, proofs.keys)):
                if verify_appended(entry.more[1], entry.more[0], keys, rule.hashes):
                    return True, "", learned
            return False, "its appended signature is by none of the keys", False
        if not entry.signature:
            return False, "it has no signature", False
        try:
            signature = parse_signature(entry.signature)
        except MalformedError as error:
            return False, f"its signature can not be read: {error.message}", False
        if signature.hash_name not in rule.hashes:
            return False, f"its signature is over {signature.hash_name}, which does not count", False
        verdict = SignatureVerdict.NO_KEY
        for learned, keys in ((False, rule.keys), (True, proofs.keys)):
            found = verify_signature(signature, entry.digest, keys, proofs.memo)
            if found is SignatureVerdict.VALID:
                return True, "", learned
            verdict = found if found is SignatureVerdict.INVALID else verdict
        if verdict is SignatureVerdict.NO_KEY:
            return False, f"no key has the id {signature.keyid.hex()} of its signature", False
        return False, "its signature is not valid", False

    def _decide_buffer(self, entry: Entry, buffer: bytes) -> Decision:
        algorithm, value = split_digest(entry.digest)
        name = HASHLIB_NAMES.get(algorithm)
        if not self.any_algorithm and (name is None or hashlib.new(name, buffer, usedforsecurity=False).digest() != value):
            return Decision("", "runtime.buffer-altered")
        try:
            key = load_key(buffer) if looks_like_key(buffer) else None
        except UnsupportedError as error:
            return Decision("", "runtime.key-unsupported", f"The key can not be judged: {error.message}.")
        except MalformedError:
            key = None
        return self._decide_plain_buffer(entry) if key is None else self._decide_key(entry, key)

    def _decide_key(self, entry: Entry, key: SigningKey) -> Decision:
        if ANY_KEYRING in self.ignored_keyrings or entry.path in self.ignored_keyrings:
            return Decision("runtime.ignored_keyrings")
        allowed = self.keyrings.get(entry.path)
        if (allowed is not None and self._among(entry.digest, allowed)) or self._excluded_buffer(entry):
            return Decision("runtime.keyrings", key=key, lasting=False)
        return Decision("", "runtime.keyring-unknown" if allowed is None else "runtime.key-unknown")

    def _decide_plain_buffer(self, entry: Entry) -> Decision:
        allowed = self.buffers.get(entry.path, frozenset())
        if allowed is None or self._among(entry.digest, allowed) or self._excluded_buffer(entry):
            return Decision("runtime.buffers")
        return Decision("", "runtime.buffer-content" if entry.path in self.buffers else "runtime.buffer-unknown")

    def _excluded_buffer(self, entry: Entry) -> bool:
        return self.excludes_cover_buffers and self.excludes is not None and self.excludes.fullmatch(entry.path) is not None

    def _among(self, digest: bytes, allowed: Allowed) -> bool:
        if self.any_algorithm:
            digest = digest.partition(b":\x00")[2]
        return digest == allowed if isinstance(allowed, bytes) else digest in allowed


def _refused(entry: Entry, *, known: bool, why: str) -> Decision:
    besides = f", and {why}" if why else ""
    if known:
        text = f"Its content has digest {digest_text(entry.digest)}, which runtime.digests does not list for it{besides}."
        return Decision("runtime.digests", "runtime.digest-unknown", text)
    return Decision("", "runtime.path-unknown", f"No rule of the policy knows it{besides}.")
