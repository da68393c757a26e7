"""What is odd about a valid policy document: what would never match, and what allows more than it seems to."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attestream.appraisal.document import expression, load, shown
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.appraisal.runtime_policy import EVM_KEYRINGS
from attestream.ima.digests import VERITY
from attestream.reference.boot_lint import NOTICE, RESETTABLE, WARNING, Remark, check_boot

_AGGREGATE: Final = "boot_aggregate"
_SHOWN: Final = 3
_PROBES: Final = (b"/usr/bin/a", b"/b.so", b"/opt/c_d/e", b"/x/y/z")
"""Paths that have nothing in common: an exclude that matches them all matches everything."""
_LITERAL_START: Final = re.compile(r"[A-Za-z0-9_~@%, -]")


def check_document(document: bytes, layers: Mapping[str, bytes] | None = None) -> list[Remark]:
    """Return what is odd about a policy document, warnings first.

    :param layers: ``name@version`` -> document of the layers that it names.
    :raises PolicyError: when it is not valid.
    """
    policy = compile_policy(document, layers)
    top = load(document)
    runtime = top.get("runtime")
    found = list(_of_document(top, policy))
    if "boot" in top:
        found += check_boot(top["boot"], policy)
    if isinstance(runtime, dict):
        found += [*_of_paths(runtime), *_of_digests(runtime), *_of_excludes(runtime), *_of_denials(runtime, policy)]
    return sorted(found, key=lambda remark: remark.level != WARNING)


def _of_document(top: Mapping[str, Any], policy: CompiledPolicy) -> Iterator[Remark]:
    if policy.allow_sha1:
        yield Remark(NOTICE, "sha1-allowed", "allow_sha1", "quotes may be signed with SHA-1, which can be forged")
    for pcr, values in policy.pcrs.items():
        place = f"pcrs.{pcr}"
        if pcr in RESETTABLE:
            yield Remark(WARNING, "pcr-resettable", place, "any program on the machine may reset this PCR")
        for value in sorted(values):
            if value in (bytes(len(value)), b"\xff" * len(value)):
                yield Remark(NOTICE, "pcr-unused", place, "this is the value of a PCR that nothing was measured into")
    runtime = policy.runtime
    if runtime is None:
        return
    if not runtime.digests and runtime.signatures is None:
        text = "no file has a reference value: only what the excludes cover can pass"
        yield Remark(WARNING, "allowlist-empty", "runtime.digests", text)
    elif _AGGREGATE.encode("ascii") not in runtime.digests and "boot" not in top:
        text = "there is neither a boot_aggregate nor `boot`: the first entry of every log is refused"
        yield Remark(WARNING, "boot-aggregate-missing", "runtime.digests", text)
    evm_keyrings = runtime.keyrings.keys() & set(EVM_KEYRINGS)
    for name, rule, keyrings in (("signatures", runtime.signatures, runtime.keyrings), ("evm", runtime.evm, evm_keyrings)):
        if rule is not None and not rule.keys and not keyrings:
            yield Remark(WARNING, "keys-missing", f"runtime.{name}.keys", "without a key no signature is ever valid")
    if runtime.keyrings and runtime.signatures is None and not (runtime.evm is not None and evm_keyrings):
        text = "keys on these keyrings sign nothing as long as there is no `signatures`, or no `evm` for those of EVM"
        yield Remark(NOTICE, "keyrings-idle", "runtime.keyrings", text)


def _of_paths(runtime: Mapping[str, Any]) -> Iterator[Remark]:
    place = "runtime.digests"
    paths: Sequence[str] = list(runtime["digests"])
    relative = [path for path in paths if not path.startswith("/") and path != _AGGREGATE]
    if relative:
        text = f"{_some(relative)} not absolute: the kernel logs files by absolute paths, so they never match"
        yield Remark(WARNING, "path-relative", place, text)
    if spaced := [path for path in paths if " " in path]:
        text = f"{_some(spaced)} written with spaces: the log has underscores for them, so they never match"
        yield Remark(WARNING, "path-space", place, text)
    odd = [path for path in paths if path.startswith("/") and posixpath.normpath(path) != path]
    if odd:
        yield Remark(WARNING, "path-unresolved", place, f"{_some(odd)} not written as the kernel resolves it: never matches")
    counted = Counter(posixpath.normpath(path).replace(" ", "_") for path in paths if path.startswith("/"))
    if twice := [path for path, count in counted.items() if count > 1]:
        yield Remark(WARNING, "path-duplicate", place, f"{_some(twice)} listed more than once in different spellings")


def _of_digests(runtime: Mapping[str, Any]) -> Iterator[Remark]:
    place = "runtime.digests"
    algorithms: Counter[str] = Counter()
    repeated = []
    weak = []
    for path, digests in runtime["digests"].items():
        names = {digest.rpartition(":")[0].removeprefix(VERITY.decode("ascii")) for digest in digests}
        algorithms.update(names)
        if len({digest.lower() for digest in digests}) < len(digests):
            repeated.append(path)
        if "sha1" in names:
            weak.append(path)
    if weak:
        text = f"{_some(weak)} known by SHA-1: two files with one digest can be made on purpose"
        yield Remark(WARNING, "digest-weak", place, text)
    if repeated:
        yield Remark(NOTICE, "digest-duplicate", place, f"{_some(repeated)} listed with one digest twice")
    if len(algorithms) > 1:
        text = ", ".join(f"{name} {count}" for name, count in algorithms.most_common())
        yield Remark(NOTICE, "digest-mixed", place, f"a machine logs by one algorithm, and the others never match: {text}")


def _of_excludes(runtime: Mapping[str, Any]) -> Iterator[Remark]:
    excludes = runtime.get("excludes", [])
    paths = [(path, path.encode("utf-8", "surrogateescape")) for path in runtime["digests"]]
    for number, text in enumerate(excludes):
        place = f"runtime.excludes[{number}]"
        compiled = expression(text, place)
        if text in excludes[:number]:
            yield Remark(NOTICE, "exclude-duplicate", place, f"{shown(text)} stands there twice")
        elif all(compiled.fullmatch(probe) for probe in _PROBES):
            yield Remark(
                WARNING, "exclude-everything", place, f"{shown(text)} matches every path: the policy allows anything"
            )
        elif _LITERAL_START.match(text) and text != _AGGREGATE:
            yield Remark(WARNING, "exclude-relative", place, f"{shown(text)} has no / at its start: it never matches a file")
        elif text.endswith("/"):
            yield Remark(WARNING, "exclude-directory", place, f"{shown(text)} matches no file; write {shown(text + '.*')}")
        elif covered := [path for path, name in paths if compiled.fullmatch(name)]:
            told = f"{_some(covered)} covered by {shown(text)}: any content passes, and the listed digests decide nothing"
            yield Remark(WARNING, "exclude-covers-listed", place, told)


def _of_denials(runtime: Mapping[str, Any], policy: CompiledPolicy) -> Iterator[Remark]:
    denied = policy.runtime.deny_paths if policy.runtime is not None else None
    if denied is not None:
        never = [path for path in runtime["digests"] if denied.fullmatch(path.encode("utf-8", "surrogateescape"))]
        if never:
            yield Remark(WARNING, "denied-path", "runtime.deny.paths", f"{_some(never)} listed and denied: never passes")
    refused = {digest.lower() for digest in runtime.get("deny", {}).get("digests", ())}
    both = [path for path, digests in runtime["digests"].items() if refused & {digest.lower() for digest in digests}]
    if both:
        yield Remark(WARNING, "denied-digest", "runtime.deny.digests", f"{_some(both)} listed with a digest that is denied")


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:_SHOWN])
    if len(names) <= _SHOWN:
        return f"{listed} {'is' if len(names) == 1 else 'are'}"
    return f"{listed} and {len(names) - _SHOWN} more are"
