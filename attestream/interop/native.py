"""Turns the incumbent's runtime policies into policy documents of ours."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from attestream.appraisal.document import shown
from attestream.appraisal.policy import FORMAT
from attestream.errors import PolicyError
from attestream.ima.digests import DIGEST_SIZES
from attestream.ima.keys import derived_keyid
from attestream.interop.excludes import compile_excludes, native_excludes
from attestream.interop.runtime_conversion import Converted, read_keyring
from attestream.interop.runtime_schema import EMPTY, check_runtime_policy

ALGORITHMS: Final[Mapping[int, str]] = {40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
"""Characters of a digest -> the algorithm that it is taken for, because the old format does not tell."""


def native_document(
    policy: dict[str, Any], *, bank: str = "sha256", algorithms: Mapping[int, str] = ALGORITHMS, description: str = ""
) -> Converted:
    """Return a document in the form of :mod:`attestream.appraisal.policy` that allows what ``policy`` does.

    Digests get their algorithm from their size. Excludes are rewritten to match whole paths.

    :raises PolicyError: when ``policy`` is not a valid runtime policy, a digest has a size of its own, or an exclude can not
        be expressed in RE2.
    """
    check_runtime_policy(policy)
    compile_excludes(policy["excludes"])
    runtime: dict[str, Any] = {
        "digests": _named(policy["digests"], "digests", algorithms),
        "excludes": native_excludes(policy["excludes"]),
    }
    for ours, theirs in (("keyrings", "keyrings"), ("buffers", "ima-buf")):
        if policy[theirs]:
            runtime[ours] = _named(policy[theirs], theirs, algorithms)
    if policy["ima"]["ignored_keyrings"]:
        runtime["ignored_keyrings"] = policy["ima"]["ignored_keyrings"]
    remarks = [f"it was made by generator {policy['meta']['generator']}"] if policy["meta"]["generator"] <= EMPTY else []
    keys = read_keyring(policy["verification-keys"])
    if keys:
        runtime["signatures"] = {"keys": [base64.b64encode(key.der).decode("ascii") for key in keys], "hashes": _hashes()}
        remarks += [
            f"key {key.keyid:08x} had its id from a certificate: put the certificate in its place, or it signs nothing"
            for key in keys
            if key.keyid != derived_keyid(key.public)
        ]
    return Converted({"format": FORMAT, "description": description, "bank": bank, "runtime": runtime}, tuple(remarks))


def _hashes() -> list[str]:
    return ["sha1", "sha224", "sha256", "sha384", "sha512"]


def _named(table: Mapping[str, list[str]], place: str, algorithms: Mapping[int, str]) -> dict[str, list[str]]:
    return {
        name: list(dict.fromkeys(named_digest(item, f"{place}[{shown(name)}]", algorithms) for item in listed))
        for name, listed in table.items()
    }


def named_digest(digest: str, place: str, algorithms: Mapping[int, str] = ALGORITHMS) -> str:
    """Return ``digest`` as ``algorithm:hex``; one that names its algorithm keeps it.

    :raises PolicyError: naming ``place``, when the algorithm can not be told.
    """
    name, colon, value = digest.rpartition(":")
    if colon:
        if DIGEST_SIZES.get(name.encode("utf-8", "replace"), -1) * 2 != len(value):
            raise PolicyError(f"{place}: {shown(digest)} is not a digest of a known algorithm")
        return f"{name}:{value.lower()}"
    if len(digest) not in algorithms:
        raise PolicyError(f"{place}: a digest of {len(digest)} hex digits does not tell its algorithm")
    return f"{algorithms[len(digest)]}:{digest.lower()}"
