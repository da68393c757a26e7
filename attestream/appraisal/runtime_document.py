"""The part ``runtime`` of a policy document: what may be run, read and measured otherwise.

::

    {"digests": {"/usr/bin/ls": ["sha256:<hex>", "verity:sha256:<hex>"], "boot_aggregate": [...]},
     "excludes": ["/tmp/.*"],
     "deny": {"paths": ["/usr/bin/nc"], "digests": ["sha256:<hex>"]},
     "signatures": {"keys": ["<PEM or base64 of DER>", ...], "rule": "either", "hashes": ["sha256", "sha512"]},
     "evm": {"keys": [...], "rule": "either", "hashes": ["sha256"]},
     "keyrings": {".ima": ["sha256:<hex>"]},
     "ignored_keyrings": [".builtin_trusted_keys"],
     "buffers": {"kexec-cmdline": ["sha256:<hex>"], "selinux-state": ["*"]},
     "violations": "warn",
     "device_mapper": {...}}

Only ``digests`` is needed. Expressions are RE2 and must match the whole path. ``deny`` goes before everything else. A key
that the kernel puts on one of ``keyrings`` signs files from then on, if there are ``signatures``. ``evm`` is the same for
portable EVM signatures, which entries of the template ``evm-sig`` carry; with the rule ``both`` each file needs one. Of
``keyrings`` only keys on ``.evm`` and ``_evm`` make such signatures.
``device_mapper``: see :mod:`attestream.appraisal.device_policy`; without it, its events are judged as ``buffers``.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from attestream.appraisal.device_policy import compile_devices
from attestream.appraisal.document import (
    check_keys,
    check_object,
    choice,
    digest,
    expressions,
    name_bytes,
    shown,
    texts,
    values,
)
from attestream.appraisal.runtime_policy import BOTH, EITHER, Allowed, RuntimePolicy, SignatureRule
from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import DIGEST_SIZES, HASHLIB_NAMES, WEAK
from attestream.ima.keys import MAX_KEY_BYTES, KeyRing, SigningKey, load_key
from attestream.ima.templates import MAX_PATH_BYTES

MAX_VALUES: Final = 4_000_000
"""Reference values of one policy."""
MAX_EXCLUDES: Final = 1000
MAX_KEYS: Final = 1000
MAX_KEYRINGS: Final = 256
VIOLATIONS: Final = ("warn", "fail", "ignore")
ANY_CONTENT: Final = "*"

_OPTIONAL: Final = {
    "excludes",
    "deny",
    "signatures",
    "evm",
    "keyrings",
    "ignored_keyrings",
    "buffers",
    "violations",
    "device_mapper",
}
# Prefix of a digest -> characters of its hexadecimal part: what nearly every reference value of a large policy looks like.
_PLAIN: Final = {
    f"{name.decode('ascii')}:": (name + b":\x00", 2 * size)
    for name, size in DIGEST_SIZES.items()
    if name.decode("ascii") not in WEAK
}


def compile_runtime(value: Any) -> tuple[RuntimePolicy, int]:
    """Return the policy in ``value`` and the number of its reference values.

    :raises PolicyError: when it is not valid; the message names the place.
    """
    check_keys(value, "runtime", {"digests"}, _OPTIONAL)
    deny = value.get("deny", {})
    check_keys(deny, "runtime.deny", set(), {"paths", "digests"})
    digests, count = _table(value["digests"], "runtime.digests")
    keyrings, keys = _table(value.get("keyrings", {}), "runtime.keyrings")
    buffers, contents = _buffers(value.get("buffers", {}))
    denied = deny.get("digests", [])
    if not isinstance(denied, list) or len(denied) > MAX_VALUES:
        raise PolicyError(f"runtime.deny.digests: must be a list of at most {MAX_VALUES} digests")
    policy = RuntimePolicy(
        digests,
        excludes=expressions(value.get("excludes", []), "runtime.excludes", MAX_EXCLUDES),
        deny_paths=expressions(deny.get("paths", []), "runtime.deny.paths", MAX_EXCLUDES),
        deny_digests=frozenset(digest(item, f"runtime.deny.digests[{number}]") for number, item in enumerate(denied)),
        signatures=_signatures(value["signatures"], "runtime.signatures") if "signatures" in value else None,
        evm=_signatures(value["evm"], "runtime.evm") if "evm" in value else None,
        keyrings=keyrings,
        ignored_keyrings=_keyring_names(value.get("ignored_keyrings", [])),
        buffers=buffers,
        violations=choice(value.get("violations", "warn"), "runtime.violations", VIOLATIONS),
        devices=compile_devices(value["device_mapper"], "runtime.device_mapper") if "device_mapper" in value else None,
    )
    return policy, count + keys + contents + len(denied)


def _table(value: Any, place: str) -> tuple[dict[bytes, Allowed], int]:
    table: dict[bytes, Allowed] = {}
    count = 0
    for path, listed in check_object(value, place).items():
        try:
            name = name_bytes(path, MAX_PATH_BYTES)
            if type(listed) is list and len(listed) == 1:
                table[name] = _field(listed[0], "[0]")
                count += 1
                continue
            fields = frozenset([_field(item, f"[{number}]") for number, item in enumerate(values(listed, ""))])
        except PolicyError as error:
            # Named here and not before: for 100,000 good paths it would take longer than everything else.
            raise PolicyError(f"{place}[{shown(path)}]{error.message}") from error
        table[name] = next(iter(fields)) if len(fields) == 1 else fields
        count += len(fields)
        if count > MAX_VALUES:
            raise PolicyError(f"{place}: has more than {MAX_VALUES} values")
    return table, count


def _field(text: Any, place: str) -> bytes:
    if type(text) is str:
        colon = text.find(":") + 1
        plain = _PLAIN.get(text[:colon])
        if plain is not None and len(text) - colon == plain[1]:
            try:
                value = bytes.fromhex(text[colon:])
            except ValueError:
                value = b""
            # fromhex lets white space through.
            if 2 * len(value) == plain[1]:
                return plain[0] + value
    return digest(text, place)


def _buffers(value: Any) -> tuple[dict[bytes, Allowed | None], int]:
    listed = check_object(value, "runtime.buffers")
    table, count = _table({name: items for name, items in listed.items() if items != [ANY_CONTENT]}, "runtime.buffers")
    buffers: dict[bytes, Allowed | None] = {**table}
    for name, items in listed.items():
        if items == [ANY_CONTENT]:
            try:
                buffers[name_bytes(name, MAX_PATH_BYTES)] = None
            except PolicyError as error:
                raise PolicyError(f"runtime.buffers[{shown(name)}]{error.message}") from error
    return buffers, count


def _keyring_names(value: Any) -> frozenset[bytes]:
    names = []
    for number, text in enumerate(texts(value, "runtime.ignored_keyrings", limit=MAX_KEYRINGS, length=MAX_PATH_BYTES)):
        try:
            names.append(name_bytes(text, MAX_PATH_BYTES))
        except PolicyError as error:
            raise PolicyError(f"runtime.ignored_keyrings[{number}]{error.message}") from error
    return frozenset(names)


def _signatures(value: Any, place: str) -> SignatureRule:
    check_keys(value, place, {"keys"}, {"rule", "hashes"})
    listed = texts(value["keys"], f"{place}.keys", limit=MAX_KEYS, length=2 * MAX_KEY_BYTES)
    keys = KeyRing(_key(text, f"{place}.keys[{number}]") for number, text in enumerate(listed))
    rule = choice(value.get("rule", EITHER), f"{place}.rule", (EITHER, BOTH))
    if "hashes" not in value:
        return SignatureRule(keys, rule)
    known = tuple(name for name in HASHLIB_NAMES if name not in WEAK)
    names = texts(value["hashes"], f"{place}.hashes", limit=len(known), length=32)
    return SignatureRule(
        keys, rule, frozenset(choice(name, f"{place}.hashes[{number}]", known) for number, name in enumerate(names))
    )


def _key(text: str, place: str) -> SigningKey:
    try:
        data = text.encode("ascii") if "-----BEGIN " in text else base64.b64decode(text, validate=True)
        return load_key(data)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise PolicyError(f"{place}: must be PEM, or DER in base64") from error
    except MalformedError as error:
        raise PolicyError(f"{place}: {error.message}") from error
