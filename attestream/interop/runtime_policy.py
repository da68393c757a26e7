"""Runtime policies of version 1, compiled into our rules so that verdicts are the same.

Differences that the compiled form carries: reference values are bare digests that hold for every algorithm; excludes are
Python expressions that match from the start of a path, and cover keyrings and buffers; a key on an ignored keyring is not
learned.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestream.appraisal.device_policy import DEVICE_FIELDS, DevicePolicy, compile_devices
from attestream.appraisal.document import check_object, shown
from attestream.appraisal.runtime_policy import Allowed, RuntimePolicy, SignatureRule
from attestream.errors import MalformedError, PolicyError, UnsupportedError
from attestream.ima.digests import HASHLIB_NAMES
from attestream.ima.hashing import HASHES
from attestream.ima.keys import KeyRing, SigningKey, load_key
from attestream.interop.excludes import compile_excludes
from attestream.interop.expressions import compile_matching, to_re2

DEFAULT_LOG_HASH: Final = "sha1"
EMPTY: Final = RuntimePolicy({}, any_algorithm=True, excludes_cover_buffers=True)

_LOWER_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_TABLES: Final = ("digests", "keyrings", "ima-buf")


@dataclass(frozen=True, slots=True)
class ConvertedPolicy:
    """A policy of the incumbent in our form."""

    rules: RuntimePolicy
    """Without signatures: whose count depends on the keys that are at hand, see :meth:`with_keys`."""
    log_hash: str
    """Of the template digests in the ASCII log."""
    keys: KeyRing
    """``verification-keys``."""

    def with_keys(self, keys: KeyRing | None) -> RuntimePolicy:
        """Return the rules under which signatures by ``keys`` count; None: signatures are not looked at."""
        return self.rules if keys is None else dataclasses.replace(self.rules, signatures=signature_rule(keys))


def signature_rule(keys: KeyRing) -> SignatureRule:
    """Return the rule of signatures: one by any of ``keys`` does in place of a digest, whatever its hash."""
    return SignatureRule(keys, hashes=frozenset(HASHLIB_NAMES))


def convert_runtime_policy(policy: Mapping[str, Any], *, strict: bool = True) -> ConvertedPolicy:
    """Return ``policy`` in our form.

    :param policy: the parsed JSON; its shape is for :mod:`attestream.interop.runtime_schema` to check.
    :param strict: refuse what the incumbent takes and then does not apply. Otherwise excludes of which one is not valid are
        dropped as a whole, and a log hash that is not known is the default.
    :raises PolicyError: when it is not such a policy; the message names the place.
    :raises UnsupportedError: when an expression can not be expressed in RE2.
    """
    digests, keyrings, buffers = (_table(policy.get(name, {}), name) for name in _TABLES)
    ima = check_object(policy.get("ima", {}), "ima")
    ignored = ima.get("ignored_keyrings") or []
    if not isinstance(ignored, list) or not all(isinstance(name, str) for name in ignored):
        raise PolicyError("ima.ignored_keyrings: must be a list of strings")
    devices = ima.get("dm_policy")
    rules = dataclasses.replace(
        EMPTY,
        digests=digests,
        excludes=_excludes(policy.get("excludes"), strict=strict),
        keyrings=keyrings,
        ignored_keyrings=frozenset(_name(name) for name in ignored),
        buffers=dict(buffers),
        devices=None if devices is None else convert_device_policy(devices),
    )
    log_hash = ima.get("log_hash_alg", DEFAULT_LOG_HASH)
    if not isinstance(log_hash, str) or log_hash not in HASHES:
        if strict:
            raise PolicyError(f"ima.log_hash_alg: must be one of {', '.join(HASHES)}, not {shown(log_hash)}")
        log_hash = DEFAULT_LOG_HASH
    return ConvertedPolicy(rules, log_hash, read_verification_keys(policy.get("verification-keys") or ""))


def read_verification_keys(text: Any) -> KeyRing:
    """Return the keys in ``verification-keys``: a JSON text, at times within another, of base64 keys and their ids.

    :raises PolicyError: when it is not one.
    """
    if not text:
        return KeyRing()
    try:
        ring = json.loads(text)
        ring = json.loads(ring) if isinstance(ring, str) else ring
    except (ValueError, TypeError, RecursionError) as error:
        raise PolicyError("verification-keys: must be a JSON text") from error
    if not ring:
        return KeyRing()
    ids, keys = (check_object(ring, "verification-keys").get(name, []) for name in ("keyids", "pubkeys"))
    if not isinstance(ids, list) or not isinstance(keys, list):
        raise PolicyError("verification-keys: needs the lists keyids and pubkeys")
    return KeyRing(_key(key, ids[number] if number < len(ids) else None, number) for number, key in enumerate(keys))


def _key(text: Any, keyid: Any, number: int) -> SigningKey:
    place = f"verification-keys.pubkeys[{number}]"
    if not isinstance(text, str) or not (keyid is None or (isinstance(keyid, int) and 0 <= keyid < 1 << 32)):
        raise PolicyError(f"{place}: must be base64, with a number as id")
    try:
        key = load_key(base64.b64decode(text))
    except (binascii.Error, ValueError) as error:
        raise PolicyError(f"{place}: must be base64") from error
    except MalformedError as error:
        raise PolicyError(f"{place}: {error.message}") from error
    return SigningKey(key.public, keyid or None)


def _excludes(excludes: Any, *, strict: bool) -> Any:
    try:
        combined = compile_excludes(excludes)
        return None if combined is None else compile_matching(combined, whole=False)
    except UnsupportedError as error:
        raise UnsupportedError(f"excludes: {error.message}") from error
    except PolicyError:
        if strict:
            raise
        return None


def _table(value: Any, place: str) -> dict[bytes, Allowed]:
    table: dict[bytes, Allowed] = {}
    for name, listed in check_object(value, place).items():
        if not isinstance(listed, list):
            raise PolicyError(f"{place}[{shown(name)}]: must be a list of digests")
        # What is not lower-case hexadecimal matches nothing, but its path is a known one.
        values = [bytes.fromhex(item) for item in listed if isinstance(item, str) and _LOWER_HEX.fullmatch(item)]
        table[_name(name)] = values[0] if len(values) == 1 else frozenset(values)
    return table


def _name(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def convert_device_policy(policy: Any) -> DevicePolicy:
    """Return a device mapper policy in our form.

    :raises PolicyError: when it is not one; the message names the place in our form of it.
    :raises UnsupportedError: when an expression can not be expressed in RE2.
    """
    place = "ima.dm_policy"
    rules = check_object(check_object(policy, place).get("rules", {}), f"{place}.rules")
    try:
        made = {name: _device_rule(rule) for name, rule in rules.items()}
    except (KeyError, TypeError) as error:
        raise PolicyError(f"{place}.rules: a rule is not complete: {error}") from error
    return compile_devices({"match_on": policy.get("match_on"), "rules": made}, place)


def _device_rule(rule: Any) -> dict[str, Any]:
    load, rename = rule["table_load"], rule["device_rename"]
    return {
        "required": rule["required"],
        "resume_required": rule["device_resume_required"],
        "allow_clear": rule["allow_clear"],
        "allow_removal": rule["device_remove"]["allow_removal"],
        "rename": {"name": _reference(rename["valid_name"]), "uuid": _reference(rename["valid_uuid"])},
        "load": {
            "allow_again": load["allow_multiple_loads"],
            **{field: _reference(load[field]) for field in DEVICE_FIELDS},
            "targets": [{key: _reference(value) for key, value in target.items()} for target in load["targets"]],
        },
    }


def _reference(value: Any) -> Any:
    return f"(?:{to_re2(value)})" if isinstance(value, str) else value
