"""Appraisal policies: reference values for PCRs and files, compiled once and shared by every agent of a worker.

The document is JSON::

    {"format": "attestream-policy/1",
     "description": "...",
     "bank": "sha256",
     "pcrs": {"0": ["<hex>", ...], "7": [...]},
     "runtime": {"digests": {"/usr/bin/ls": ["sha256:<hex>", ...], "boot_aggregate": [...]},
                 "excludes": ["/tmp/.*"]},
     "recovery": "operator",
     "severities": [{"code": "boot[.]pcr-value", "severity": "warning"}],
     "allow_sha1": false}

``pcrs`` and ``runtime`` are optional, but one of them is needed. A PCR may have any of the listed values. ``excludes`` are
RE2 expressions that must match the whole path. ``recovery``: who ends a failure, the ``operator`` or the next good appraisal
(``automatic``). ``severities``: see :mod:`attestream.appraisal.severity`. ``allow_sha1`` lets quotes be signed with
SHA-1 and the ``bank`` be ``sha1``, for TPMs that have nothing better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import re2

from attestream.appraisal.severity import compile_severities
from attestream.appraisal.text import printable
from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import digest_field, digest_text
from attestream.ima.log import IMA_PCR, read_ascii, read_binary
from attestream.ima.templates import MAX_PATH_BYTES
from attestream.tpm.algorithms import hash_named

FORMAT: Final = "attestream-policy/1"
BANKS: Final = ("sha256", "sha384", "sha512")
RECOVERIES: Final = ("operator", "automatic")
MAX_DOCUMENT_BYTES: Final = 64 << 20
MAX_VALUES: Final = 4_000_000
"""Reference values of one policy."""
MAX_VALUES_PER_NAME: Final = 4096
MAX_EXCLUDES: Final = 1000
MAX_EXPRESSION: Final = 1024
"""Characters of one exclude."""
PCRS: Final = 24

_OPTIONAL: Final = {"description", "pcrs", "runtime", "recovery", "severities", "allow_sha1"}
_WEAK: Final = frozenset({"md4", "md5", "rmd128", "tgr128"})


@dataclass(frozen=True, slots=True)
class RuntimePolicy:
    """Which files may be measured."""

    digests: Mapping[bytes, bytes | frozenset[bytes]]
    """Path -> the allowed ``d-ng`` field, or several. A single one is not wrapped: it saves memory."""
    excludes: Any
    """One RE2 expression for all excludes, or None. Its time is linear in the path, whatever the expressions are."""

    def judge(self, path: bytes, digest: bytes) -> str:
        """Return the code of the finding about a measured file; empty when the file is allowed."""
        allowed = self.digests.get(path)
        if allowed is not None and (digest == allowed if type(allowed) is bytes else digest in allowed):
            return ""
        # An exclude only ever allows, so asking it last gives the same answer and keeps it out of the hot path.
        if self.excludes is not None and self.excludes.fullmatch(path) is not None:
            return ""
        return "runtime.path-unknown" if allowed is None else "runtime.digest-unknown"


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in the form in which it is applied."""

    digest: str
    """SHA-256 of the document in hex."""
    bank: str
    selection: dict[str, list[int]]
    """PCR bank -> PCRs that a challenge asks for, ascending."""
    signed_selection: tuple[tuple[str, tuple[int, ...]], ...]
    """The same as a quote carries it."""
    pcrs: dict[int, frozenset[bytes]]
    runtime: RuntimePolicy | None
    recovery: str
    entries: int
    """Number of reference values."""
    severities: Mapping[str, str] = field(default_factory=dict)
    """Code -> severity of findings where the policy changes it."""
    allow_sha1: bool = False


def compile_policy(document: bytes) -> CompiledPolicy:
    """Return the policy in ``document``.

    :raises PolicyError: when it is not valid; the message names the place.
    """
    top = _load(document)
    _check_keys(top, "the document", {"format", "bank"}, _OPTIONAL)
    if top["format"] != FORMAT:
        raise PolicyError(f"format: this is {_shown(top['format'])}; {FORMAT!r} is understood")
    allow_sha1 = top.get("allow_sha1", False)
    if not isinstance(allow_sha1, bool):
        raise PolicyError("allow_sha1: must be true or false")
    bank = _choice(top["bank"], "bank", ("sha1", *BANKS) if allow_sha1 else BANKS)
    recovery = _choice(top.get("recovery", "operator"), "recovery", RECOVERIES)
    if not isinstance(top.get("description", ""), str):
        raise PolicyError("description: must be a string")
    if "pcrs" not in top and "runtime" not in top:
        raise PolicyError("the document: needs `pcrs` or `runtime`; a policy that demands nothing is not one")
    pcrs = _pcrs(top["pcrs"], hash_named(bank).size) if "pcrs" in top else {}
    runtime, files = _runtime(top["runtime"]) if "runtime" in top else (None, 0)
    quoted = sorted({*pcrs, *([IMA_PCR] if runtime is not None else [])})
    return CompiledPolicy(
        digest=hashlib.sha256(document).hexdigest(),
        bank=bank,
        selection={bank: quoted},
        signed_selection=((bank, tuple(quoted)),),
        pcrs=pcrs,
        runtime=runtime,
        recovery=recovery,
        entries=files + sum(map(len, pcrs.values())),
        severities=compile_severities(top.get("severities", [])),
        allow_sha1=allow_sha1,
    )


def policy_from_log(
    log: bytes,
    *,
    ascii_form: bool = False,
    bank: str = "sha256",
    excludes: Iterable[str] = (),
    description: str = "",
    recovery: str = "operator",
) -> dict[str, Any]:
    """Return a policy document that allows what an IMA log of a machine in good order shows; violations are left out.

    :param log: ``binary_runtime_measurements``, or ``ascii_runtime_measurements`` with ``ascii_form``.
    :raises MalformedError: when the log can not be read, or an entry's template digest is not that of its data.
    """
    digests: dict[str, list[str]] = {}
    for number, entry in enumerate((read_ascii if ascii_form else read_binary)(log, bank)):
        if not entry.consistent:
            raise MalformedError(f"entry {number} of the log has a template digest that is not that of its data")
        if entry.violation:
            continue
        # Bytes that are not UTF-8 travel as lone surrogates, which JSON can escape.
        allowed = digests.setdefault(entry.path.decode("utf-8", "surrogateescape"), [])
        text = digest_text(entry.digest)
        if text not in allowed:
            allowed.append(text)
    return {
        "format": FORMAT,
        "description": description,
        "bank": bank,
        "runtime": {"digests": digests, "excludes": list(excludes)},
        "recovery": recovery,
    }


def _load(document: bytes) -> dict[str, Any]:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise PolicyError(f"the document: has {len(document)} bytes; the limit is {MAX_DOCUMENT_BYTES}")
    try:
        # The standard library's parser, because it shows repeated keys: the last would silently win.
        top = json.loads(document.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the document: is not JSON: {error}") from error
    if not isinstance(top, dict):
        raise PolicyError("the document: must be a JSON object")
    return top


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise PolicyError(f"the document: the key {_shown(key)} stands twice in one object")
        made[key] = value
    return made


def _check_keys(value: Any, place: str, needed: set[str], allowed: set[str]) -> None:
    if not isinstance(value, dict):
        raise PolicyError(f"{place}: must be a JSON object")
    if unknown := sorted(value.keys() - needed - allowed):
        raise PolicyError(
            f"{place}: does not know the key {_shown(unknown[0])}; known are {', '.join(sorted(needed | allowed))}"
        )
    if missing := sorted(needed - value.keys()):
        raise PolicyError(f"{place}: lacks the key {missing[0]!r}")


def _choice(value: Any, place: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise PolicyError(f"{place}: must be one of {', '.join(allowed)}, not {_shown(value)}")
    return value


def _values(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise PolicyError(f"{place}: must be a list with at least one value")
    if len(value) > MAX_VALUES_PER_NAME:
        raise PolicyError(f"{place}: has {len(value)} values; the limit is {MAX_VALUES_PER_NAME}")
    return value


def _pcrs(value: Any, size: int) -> dict[int, frozenset[bytes]]:
    if not isinstance(value, dict) or not value:
        raise PolicyError("pcrs: must be a JSON object with at least one PCR")
    pcrs: dict[int, frozenset[bytes]] = {}
    for index, values in value.items():
        if not (index.isascii() and index.isdigit() and str(int(index[:3])) == index and int(index) < PCRS):
            raise PolicyError(f"pcrs[{_shown(index)}]: is not a PCR; they are 0 to {PCRS - 1}")
        place = f"pcrs.{index}"
        if int(index) == IMA_PCR:
            raise PolicyError(f"{place}: changes with each measured file; use `runtime`")
        checked = [_hex(item, f"{place}[{number}]") for number, item in enumerate(_values(values, place))]
        for number, item in enumerate(checked):
            if len(item) != size:
                raise PolicyError(f"{place}[{number}]: has {len(item)} bytes; a value of this bank has {size}")
        pcrs[int(index)] = frozenset(checked)
    return pcrs


def _runtime(value: Any) -> tuple[RuntimePolicy, int]:
    _check_keys(value, "runtime", {"digests"}, {"excludes"})
    table = value["digests"]
    if not isinstance(table, dict):
        raise PolicyError("runtime.digests: must be a JSON object")
    digests: dict[bytes, bytes | frozenset[bytes]] = {}
    count = 0
    for path, values in table.items():
        try:
            name = _path(path)
            fields = frozenset(_digest(item, f"[{number}]") for number, item in enumerate(_values(values, "")))
        except PolicyError as error:
            # Named here and not before: for 100,000 good paths it would take longer than everything else.
            raise PolicyError(f"runtime.digests[{_shown(path)}]{error.message}") from error
        digests[name] = next(iter(fields)) if len(fields) == 1 else fields
        count += len(fields)
        if count > MAX_VALUES:
            raise PolicyError(f"runtime.digests: has more than {MAX_VALUES} values")
    return RuntimePolicy(digests, _excludes(value.get("excludes", []))), count


def _path(text: str) -> bytes:
    try:
        path = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PolicyError(f": is not a path: {error.reason}") from error
    if not path or b"\x00" in path or len(path) > MAX_PATH_BYTES:
        raise PolicyError(f": a path has 1 to {MAX_PATH_BYTES} bytes and no NUL")
    return path


def _digest(text: Any, place: str) -> bytes:
    algorithm, _, digest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if algorithm in _WEAK:
        raise PolicyError(f"{place}: {algorithm} is too weak to tell files apart")
    try:
        return digest_field(algorithm, _hex(digest, place))
    except MalformedError as error:
        raise PolicyError(f"{place}: must be `algorithm:hex`, for example sha256:...: {error.message}") from error


def _hex(text: Any, place: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except (TypeError, ValueError):
        value = b""
    # fromhex lets white space through.
    if not value or 2 * len(value) != len(text):
        raise PolicyError(f"{place}: {_shown(text)} is not hexadecimal")
    return value


def _excludes(value: Any) -> Any:
    if not isinstance(value, list) or len(value) > MAX_EXCLUDES:
        raise PolicyError(f"runtime.excludes: must be a list of at most {MAX_EXCLUDES} expressions")
    options = re2.Options()
    options.log_errors = False
    for number, expression in enumerate(value):
        place = f"runtime.excludes[{number}]"
        if not isinstance(expression, str) or not 1 <= len(expression) <= MAX_EXPRESSION:
            raise PolicyError(f"{place}: must be a string of 1 to {MAX_EXPRESSION} characters")
        # Alone first: two broken halves such as `(` and `)` could make one valid whole.
        _expression(expression, place, options)
    if not value:
        return None
    return _expression("|".join(f"(?:{expression})" for expression in value), "runtime.excludes", options)


def _expression(text: str, place: str, options: Any) -> Any:
    try:
        return re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise PolicyError(f"{place}: is not an RE2 expression: {printable(reason, 200)}") from error


def _shown(value: Any) -> str:
    return repr(printable(value, 100)) if isinstance(value, str) else printable(json.dumps(value), 100)
