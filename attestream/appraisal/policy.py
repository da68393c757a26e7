"""Appraisal policies: reference values for PCRs and files, compiled once and shared by every agent of a worker.

The document is JSON::

    {"format": "attestream-policy/1",
     "description": "...",
     "bank": "sha256",
     "pcrs": {"0": ["<hex>", ...], "7": [...]},
     "boot": {"policy": "example", "reference_states": [{...}, ...]},
     "runtime": {"digests": {"/usr/bin/ls": ["sha256:<hex>", ...]}, "excludes": ["/tmp/.*"]},
     "layers": ["base@1", ...],
     "recovery": "operator",
     "severities": [{"code": "boot[.]pcr-value", "severity": "warning"}],
     "archive": {"keep": "failures", "days": 90},
     "allow_sha1": false}

``pcrs``, ``boot`` and ``runtime`` are optional, but one of them is needed. A PCR may have any of the listed values.
``boot``: see :mod:`attestream.appraisal.boot`. ``runtime``: see :mod:`attestream.appraisal.runtime_document`. ``layers``:
see :mod:`attestream.appraisal.layers`. ``recovery``: who ends a failure, the ``operator`` or the next good appraisal
(``automatic``). ``severities``: see :mod:`attestream.appraisal.severity`. ``archive``: see
:mod:`attestream.appraisal.keeping`; without it no evidence is kept. ``allow_sha1`` lets quotes be signed with SHA-1
and the ``bank`` be ``sha1``, for TPMs that have nothing better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from attestream.appraisal.boot import BootRules, compile_boot
from attestream.appraisal.document import MAX_DOCUMENT_BYTES as MAX_DOCUMENT_BYTES
from attestream.appraisal.document import check_keys, choice, hexadecimal, load, shown, truth, values
from attestream.appraisal.keeping import Keeping, compile_keeping
from attestream.appraisal.layers import layer_names, merge_layers
from attestream.appraisal.runtime_document import compile_runtime
from attestream.appraisal.runtime_policy import RuntimePolicy
from attestream.appraisal.severity import compile_severities
from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import digest_text
from attestream.ima.log import IMA_PCR, read_ascii, read_binary
from attestream.tpm.algorithms import hash_named
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy

FORMAT: Final = "attestream-policy/1"
BANKS: Final = ("sha256", "sha384", "sha512")
RECOVERIES: Final = ("operator", "automatic")
PCRS: Final = 24

_OPTIONAL: Final = {"description", "layers", "pcrs", "boot", "runtime", "recovery", "severities", "allow_sha1", "archive"}


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in the form in which it is applied."""

    digest: str
    """SHA-256 of the document, and of its layers if it has any, in hex."""
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
    boot: BootRules | None = None
    keeping: Keeping | None = None
    """What is kept of its agents' evidence; None: nothing."""


def compile_policy(
    document: bytes,
    layers: Mapping[str, bytes] | None = None,
    *,
    boot_policies: Mapping[str, BootPolicy] = BUILT_IN,
) -> CompiledPolicy:
    """Return the policy in ``document``.

    :param layers: ``name@version`` -> document of the layers that it names, see :mod:`attestream.appraisal.layers`.
    :param boot_policies: those that ``boot`` may name, see :func:`attestream.uefi.policy.policies.with_modules`.
    :raises PolicyError: when it is not valid; the message names the place.
    """
    digest = hashlib.sha256(document)
    top = load(document)
    if top.get("layers"):
        given = layers or {}
        top = load(merge_layers(document, given))
        for name in layer_names(document):
            digest.update(hashlib.sha256(given[name]).digest())
    return _compiled(top, digest.hexdigest(), boot_policies)


def _compiled(top: dict[str, Any], digest: str, boot_policies: Mapping[str, BootPolicy]) -> CompiledPolicy:
    check_keys(top, "the document", {"format", "bank"}, _OPTIONAL)
    if top["format"] != FORMAT:
        raise PolicyError(f"format: this is {shown(top['format'])}; {FORMAT!r} is understood")
    allow_sha1 = truth(top.get("allow_sha1", False), "allow_sha1")
    bank = choice(top["bank"], "bank", ("sha1", *BANKS) if allow_sha1 else BANKS)
    recovery = choice(top.get("recovery", "operator"), "recovery", RECOVERIES)
    if not isinstance(top.get("description", ""), str):
        raise PolicyError("description: must be a string")
    if not top.keys() & {"pcrs", "boot", "runtime"}:
        raise PolicyError("the document: needs `pcrs`, `boot` or `runtime`; a policy that demands nothing is not one")
    pcrs = _pcrs(top["pcrs"], hash_named(bank).size) if "pcrs" in top else {}
    runtime, files = compile_runtime(top["runtime"]) if "runtime" in top else (None, 0)
    boot = compile_boot(top["boot"], boot_policies, bank) if "boot" in top else None
    quoted = sorted({*pcrs, *(boot.pcrs if boot else ()), *([IMA_PCR] if runtime is not None else [])})
    return CompiledPolicy(
        digest=digest,
        bank=bank,
        selection={bank: quoted},
        signed_selection=((bank, tuple(quoted)),),
        pcrs=pcrs,
        runtime=runtime,
        recovery=recovery,
        entries=files + sum(map(len, pcrs.values())),
        severities=compile_severities(top.get("severities", [])),
        allow_sha1=allow_sha1,
        boot=boot,
        keeping=compile_keeping(top["archive"]) if "archive" in top else None,
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


def _pcrs(value: Any, size: int) -> dict[int, frozenset[bytes]]:
    if not isinstance(value, dict) or not value:
        raise PolicyError("pcrs: must be a JSON object with at least one PCR")
    pcrs: dict[int, frozenset[bytes]] = {}
    for index, listed in value.items():
        if not (index.isascii() and index.isdigit() and str(int(index[:3])) == index and int(index) < PCRS):
            raise PolicyError(f"pcrs[{shown(index)}]: is not a PCR; they are 0 to {PCRS - 1}")
        place = f"pcrs.{index}"
        if int(index) == IMA_PCR:
            raise PolicyError(f"{place}: changes with each measured file; use `runtime`")
        checked = [hexadecimal(item, f"{place}[{number}]") for number, item in enumerate(values(listed, place))]
        for number, item in enumerate(checked):
            if len(item) != size:
                raise PolicyError(f"{place}[{number}]: has {len(item)} bytes; a value of this bank has {size}")
        pcrs[int(index)] = frozenset(checked)
    return pcrs
