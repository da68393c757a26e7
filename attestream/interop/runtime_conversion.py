"""Conversion of what came before runtime policies: flat and JSON allowlists, verification keys, measurement lists."""

from __future__ import annotations

import base64
import binascii
import copy
import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import DIGEST_SIZES
from attestream.ima.keys import SigningKey, load_key, load_public_der
from attestream.interop.runtime_schema import (
    COMPATIBLE,
    KEYS,
    LEGACY,
    VERSION,
    check_keyring,
    check_runtime_policy,
    empty_policy,
)

MAX_TEXT: Final = 64 << 20
"""Characters of a list."""

_KEYRING: Final = "%keyring:"
_LOG_ALGORITHMS: Final = {
    **{name: DIGEST_SIZES[name.encode("ascii")] for name in ("sha1", "sha256", "sha384", "sha512")},
    "sm3_256": 32,
}
_LOG_TEMPLATES: Final = ("ima-ng", "ima-sig")


class Converted(NamedTuple):
    """A runtime policy, and what could not be taken over."""

    policy: dict[str, Any]
    remarks: tuple[str, ...] = ()


def convert_allowlist(text: str, *, timestamp: str = "") -> Converted:
    """Return the runtime policy for an allowlist, flat or JSON.

    :param timestamp: for ``meta.timestamp``; none when empty.
    :raises PolicyError: when it is JSON and not an allowlist, for example because it is a runtime policy already.
    """
    if len(text) > MAX_TEXT:
        raise PolicyError(f"the allowlist: has more than {MAX_TEXT} characters")
    policy = _policy(LEGACY, timestamp)
    try:
        listed = json.loads(text)
    except ValueError:
        return Converted(policy, _read_flat(text, policy))
    except RecursionError as error:
        raise PolicyError("the allowlist: is JSON that nests too deep") from error
    if isinstance(listed, dict) and listed.get("hashes"):
        policy["digests"] = listed["hashes"]
        policy.update({key: listed[key] for key in KEYS if key not in ("meta", "digests") and listed.get(key)})
        return Converted(policy)
    if isinstance(listed, dict) and listed.get("digests"):
        raise PolicyError("the allowlist: is a runtime policy already")
    raise PolicyError("the allowlist: is JSON without a table `hashes`")


def _policy(generator: int, timestamp: str) -> dict[str, Any]:
    policy = empty_policy()
    policy["meta"]["generator"] = generator
    if timestamp:
        policy["meta"]["timestamp"] = timestamp
    return policy


def _read_flat(text: str, policy: dict[str, Any]) -> tuple[str, ...]:
    remarks = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        pieces = line.strip().split(None, 1)
        if len(pieces) != 2:
            remarks.append(f"line {number} is not a digest and a path; it is left out")
            continue
        digest, path = pieces
        table = policy["digests"]
        if path.startswith(_KEYRING):
            table, path = policy["keyrings"], path.removeprefix(_KEYRING)
        table.setdefault(path, []).append(digest)
    return tuple(remarks)


def update_policy(
    policy: dict[str, Any], *, excludes: Iterable[str] = (), keys: Iterable[tuple[str, bytes]] = (), timestamp: str = ""
) -> Converted:
    """Return ``policy`` in the current version, with more excludes and verification keys.

    :param keys: name and content of files with keys or certificates. One that is not a key is left out, with a remark.
    :raises PolicyError: when ``policy`` is not a runtime policy that can be brought up to date.
    """
    made = copy.deepcopy(policy)
    try:
        if made["meta"]["version"] < VERSION:
            old, made = made, _policy(COMPATIBLE, timestamp)
            made.update({key: old[key] for key in KEYS if key != "meta" and old.get(key)})
        made["excludes"] = [*made["excludes"], *excludes]
    except (KeyError, TypeError) as error:
        raise PolicyError("the policy: lacks its version or its excludes, or they are of the wrong kind") from error
    remarks = _add_keys(made, list(keys))
    return Converted(made, remarks)


def _add_keys(policy: dict[str, Any], files: list[tuple[str, bytes]]) -> tuple[str, ...]:
    if not files:
        return ()
    remarks = []
    ring = {key.keyid: key for key in read_keyring(policy.get("verification-keys") or "")}
    for name, content in files:
        try:
            key = load_key(content)
        except MalformedError as error:
            remarks.append(f"{name} is left out: {error.message}")
            continue
        ring[key.keyid] = key
    policy["verification-keys"] = json.dumps(
        {"pubkeys": [base64.b64encode(key.der).decode("ascii") for key in ring.values()], "keyids": list(ring)}
    )
    return tuple(remarks)


def read_keyring(text: str) -> list[SigningKey]:
    """Return the keys in ``verification-keys``; a key without id has the one that follows from it.

    :raises PolicyError: when it is not a ring of keys.
    """
    if not text:
        return []
    place = "verification-keys"
    try:
        ring = json.loads(text)
        # Some stored it encoded twice.
        ring = json.loads(ring) if isinstance(ring, str) else ring
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{place}: is not JSON in a string") from error
    check_keyring(ring, place)
    keyids = [int(keyid) for keyid in ring["keyids"]]
    keys = []
    for number, encoded in enumerate(ring["pubkeys"]):
        try:
            der = base64.b64decode(encoded, validate=True)
            keyid = keyids[number] if number < len(keyids) else 0
            keys.append(load_public_der(der, keyid) if keyid else load_key(der))
        except (binascii.Error, ValueError, MalformedError) as error:
            raise PolicyError(f"{place}.pubkeys[{number}]: is not a public key in base64 of DER") from error
    return keys


def policy_from_measurements(text: str, *, timestamp: str = "") -> Converted:
    """Return the runtime policy that allows what an ASCII measurement list shows.

    The first entry must be the boot aggregate with an algorithm that is known. Only ``ima-ng`` and ``ima-sig`` count, and
    template digests are not looked at; ``attestream.reference`` is stricter.

    :raises PolicyError: when the first entry is not such a boot aggregate, or an entry has no digest of a known
        size.
    """
    lines = text.splitlines()
    _check_aggregate(lines[0] if lines else "")
    found: dict[str, set[str]] = {}
    remarks = []
    for number, line in enumerate(lines, 1):
        pieces = line.split(" ")
        if len(pieces) < 5 or pieces[2] not in _LOG_TEMPLATES:
            remarks.append(f"line {number} is no entry of {' or '.join(_LOG_TEMPLATES)}; it is left out")
            continue
        _, colon, digest = pieces[3].partition(":")
        if not colon:
            raise PolicyError(f"line {number} of the measurement list has no algorithm before its digest")
        found.setdefault(pieces[4], set()).add(digest.partition(":")[0])
    policy = _policy(LEGACY, timestamp)
    policy["digests"] = {path: sorted(digests) for path, digests in found.items()}
    check_runtime_policy(policy)
    return Converted(policy, tuple(remarks))


def _check_aggregate(line: str) -> None:
    pieces = line.split(" ")
    known = len(pieces) >= 5 and pieces[2] in (*_LOG_TEMPLATES, "ima") and pieces[4] == "boot_aggregate"
    algorithm, colon, digest = pieces[3].partition(":") if known else ("", "", "")
    if known and not colon:
        known = len(algorithm) in {2 * size for size in _LOG_ALGORITHMS.values()}
    elif known:
        known = len(digest) == 2 * _LOG_ALGORITHMS.get(algorithm, -1)
    if not known:
        raise PolicyError("the measurement list does not start with a boot aggregate whose algorithm is known")
