"""The form of the incumbent's runtime policy, version 1: which documents it accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from attestream.appraisal.document import shown
from attestream.errors import PolicyError

VERSION: Final = 1
LOG_HASHES: Final = ("sha1", "sha256", "sha384", "sha512")
MAX_GENERATOR: Final = 3
UNKNOWN, EMPTY, COMPATIBLE, LEGACY = range(MAX_GENERATOR + 1)
"""What ``meta.generator`` says about how a policy was made."""

KEYS: Final = ("meta", "release", "digests", "excludes", "keyrings", "ima", "ima-buf", "verification-keys")
"""Top-level keys, all of them needed. Others are let through."""

_DIGEST: Final = re.compile(r"[0-9a-f]{40,128}")

Check = Callable[[Any, str], None]


def check_runtime_policy(policy: Any) -> None:
    """Check that ``policy``, parsed JSON, has the form of a runtime policy.

    :raises PolicyError: naming the place of what is wrong.
    """
    _object(policy, "the policy", KEYS)
    for key, check in _CHECKS.items():
        check(policy[key], key)


def empty_policy() -> dict[str, Any]:
    """Return the policy that allows nothing."""
    return {
        "meta": {"version": VERSION, "generator": EMPTY},
        "release": 0,
        "digests": {},
        "excludes": [],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": {},
        "verification-keys": "",
    }


def check_keyring(ring: Any, place: str) -> None:
    """Check that ``ring``, parsed JSON, has the form of a ring of verification keys.

    :raises PolicyError: naming the place of what is wrong.
    """
    _object(ring, place, ("keyids", "pubkeys"))
    if "meta" in ring:
        _object(ring["meta"], f"{place}.meta", ("version",))
        _integer(ring["meta"]["version"], f"{place}.meta.version", 1)
    for number, keyid in enumerate(_list(ring["keyids"], f"{place}.keyids")):
        _integer(keyid, f"{place}.keyids[{number}]")
    _strings(ring["pubkeys"], f"{place}.pubkeys")


def _object(value: Any, place: str, needed: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{place}: must be a JSON object")
    for key in needed:
        if key not in value:
            raise PolicyError(f"{place}: lacks the key {key!r}")
    return value


def _integer(value: Any, place: str, least: int | None = None, most: int | None = None) -> None:
    # JSON Schema: a number without fraction is an integer however it is written, and a truth value is none.
    whole = not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    if not whole:
        raise PolicyError(f"{place}: must be an integer, not {shown(value)}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise PolicyError(f"{place}: must be at least {least}" + (f" and at most {most}" if most is not None else ""))


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{place}: must be a string, not {shown(value)}")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise PolicyError(f"{place}: must be a list")
    return value


def _strings(value: Any, place: str) -> None:
    for number, item in enumerate(_list(value, place)):
        _text(item, f"{place}[{number}]")


def _digests(value: Any, place: str) -> None:
    for name, listed in _object(value, place).items():
        if not isinstance(listed, list) or not listed:
            raise PolicyError(f"{place}[{shown(name)}]: must be a list with at least one digest")
        for item in listed:
            if not isinstance(item, str) or not _DIGEST.fullmatch(item):
                raise PolicyError(f"{place}[{shown(name)}]: {shown(item)} is not a digest: 40 to 128 lower-case hex digits")


def _meta(value: Any, place: str) -> None:
    _object(value, place, ("version", "generator"))
    _integer(value["version"], f"{place}.version", 0)
    _integer(value["generator"], f"{place}.generator", 0, MAX_GENERATOR)
    if "timestamp" in value:
        _text(value["timestamp"], f"{place}.timestamp")


def _release(value: Any, place: str) -> None:
    _integer(value, place, 0)


def _ima(value: Any, place: str) -> None:
    _object(value, place, ("ignored_keyrings", "log_hash_alg", "dm_policy"))
    _strings(value["ignored_keyrings"], f"{place}.ignored_keyrings")
    if value["log_hash_alg"] not in LOG_HASHES:
        raise PolicyError(f"{place}.log_hash_alg: must be one of {', '.join(LOG_HASHES)}")
    if value["dm_policy"] is not None:
        raise PolicyError(f"{place}.dm_policy: must be null")


def _verification_keys(value: Any, place: str) -> None:
    text = _text(value, place)
    if not text:
        return
    try:
        ring = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{place}: is not JSON in a string: {error}") from error
    check_keyring(ring, place)


_CHECKS: Final[Mapping[str, Check]] = {
    "meta": _meta,
    "release": _release,
    "digests": _digests,
    "excludes": _strings,
    "keyrings": _digests,
    "ima": _ima,
    "ima-buf": _digests,
    "verification-keys": _verification_keys,
}
