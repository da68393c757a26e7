"""What is odd about the ``boot`` of a valid policy document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from attestream.appraisal.boot_expectations import (
    APPLICATION_PCR,
    COMMAND_LINE_PCRS,
    FILE_PCR,
    KEY_VARIABLES,
    SECURE_BOOT_PCR,
    STUB_PCR,
    STUB_PCRS,
)
from attestream.appraisal.document import expression, shown
from attestream.appraisal.policy import CompiledPolicy
from attestream.uefi.policy.policies import AcceptAllPolicy, RejectAllPolicy

WARNING: Final = "warning"
NOTICE: Final = "notice"
RESETTABLE: Final = (16, 23)
"""PCRs that any program may reset (PC Client Platform TPM Profile, section 4.6)."""
_AGGREGATED: Final = range(10)
"""PCRs that the kernel's boot aggregate is over."""
_NEVER_MEASURED: Final = ".pcrsig"
"""The one section of a unified kernel image that systemd-stub leaves out: it signs what the others measure to."""
_KERNEL: Final = ".linux"
_PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")
"""Phases that systemd measures, in its order (systemd-pcrphase.service(8))."""
_PROBES: Final = (b"quiet", b"init=/bin/sh", b"root=/dev/sda1 ro ima_policy=tcb", b"\xc3\xa4")
"""Command lines that have nothing in common."""
_PCRS: Final = {
    "secure_boot": (SECURE_BOOT_PCR,),
    "keys": (SECURE_BOOT_PCR,),
    "dbx": (SECURE_BOOT_PCR,),
    "applications": (APPLICATION_PCR,),
    "sections": STUB_PCRS,
    "command_line": COMMAND_LINE_PCRS,
    "initrd": (FILE_PCR,),
    "load_options": (FILE_PCR,),
    "phases": (STUB_PCR,),
}
"""Setting -> PCRs that it judges."""
_TOGETHER: Final = (("applications",), ("sections", "command_line"), ("initrd", "load_options"))
"""Settings of a boot that mean something else without each other."""


class Remark(NamedTuple):
    """One oddity."""

    level: str
    """:data:`WARNING` for what is most likely a mistake, :data:`NOTICE` for what should be known."""
    code: str
    place: str
    message: str


def check_boot(boot: Mapping[str, Any], policy: CompiledPolicy) -> Iterator[Remark]:
    """Yield what is odd about ``boot``, of a document that compiles to ``policy``."""
    yield from _of_policy(boot)
    yield from _of_pcrs(boot, policy)
    yield from _of_keys(boot)
    boots: Sequence[Mapping[str, Any]] = boot.get("boots", [])
    for number, one in enumerate(boots):
        place = f"boot.boots[{number}]"
        yield from _of_boot(one, place)
        yield from _of_forbidden(one, place, boot, policy.bank)
        for other, wider in enumerate(boots):
            if number != other and _covers(wider, one) and (number > other or not _covers(one, wider)):
                text = f"boot.boots[{other}] allows all that this one allows: it decides nothing"
                yield Remark(WARNING, "boot-covered", place, text)
                break
    yield from _of_phases(boot)


def _of_policy(boot: Mapping[str, Any]) -> Iterator[Remark]:
    name = boot.get("policy", AcceptAllPolicy.name)
    states: list[Any] = boot.get("reference_states", [])
    if name == RejectAllPolicy.name:
        yield Remark(WARNING, "boot-rejected", "boot.policy", "no boot ever passes")
    if states and name in (AcceptAllPolicy.name, RejectAllPolicy.name):
        text = f"the boot policy {name} does not look at reference states: they decide nothing"
        yield Remark(WARNING, "states-idle", "boot.reference_states", text)
    seen: list[Any] = []
    for number, state in enumerate(states):
        if state in seen:
            yield Remark(NOTICE, "state-duplicate", f"boot.reference_states[{number}]", "it stands there twice")
        seen.append(state)
    if boot.get("secure_boot") is False:
        text = "`false` demands nothing: Secure Boot may be on or off"
        yield Remark(NOTICE, "secure-boot-open", "boot.secure_boot", text)


def _of_pcrs(boot: Mapping[str, Any], policy: CompiledPolicy) -> Iterator[Remark]:
    for pcr in boot.get("pcrs", []):
        if pcr in RESETTABLE:
            yield Remark(WARNING, "pcr-resettable", "boot.pcrs", f"any program on the machine may reset PCR {pcr}")
    used = {name for name in _PCRS if name in boot} | {name for one in boot.get("boots", []) for name in one}
    for pcr in policy.pcrs:
        judged = sorted(name for name in used if pcr in _PCRS[name])
        if pcr == STUB_PCR and boot.get("phases"):
            text = "the PCR changes with each of the phases, and only the values here pass"
            yield Remark(WARNING, "phases-fixed", f"pcrs.{pcr}", text)
        elif judged:
            text = f"whatever `{'`, `'.join(judged)}` of boot allow, only the values here pass"
            yield Remark(NOTICE, "pcr-twice", f"pcrs.{pcr}", text)
    quoted = set(policy.selection[policy.bank])
    missing = [pcr for pcr in _AGGREGATED if pcr not in quoted]
    runtime = policy.runtime
    if missing and runtime is not None and b"boot_aggregate" not in runtime.digests:
        text = (
            f"the boot aggregate is over PCRs 0 to 9, of which {', '.join(map(str, missing))} "
            f"{'is' if len(missing) == 1 else 'are'} not quoted: without a value of its own the first entry of every log "
            "is refused"
        )
        yield Remark(WARNING, "boot-aggregate-unquoted", "boot.pcrs", text)


def _of_keys(boot: Mapping[str, Any]) -> Iterator[Remark]:
    forbidden = {text.lower() for text in boot.get("dbx", [])}
    lists = {f"boot.keys.{name}": boot.get("keys", {}).get(name) for name in KEY_VARIABLES} | {"boot.dbx": boot.get("dbx")}
    for place, listed in lists.items():
        if listed is None:
            continue
        name = place.rpartition(".")[2]
        if len({text.lower() for text in listed}) < len(listed):
            yield Remark(NOTICE, "signature-duplicate", place, "a signature stands there twice")
        if name == "dbx":
            if not listed:
                yield Remark(NOTICE, "dbx-empty", place, "the log has to show dbx, and nothing has to be in it")
            continue
        if not listed and boot.get("secure_boot"):
            text = f"Secure Boot is never on with nothing in {name}: no boot ever passes"
            yield Remark(WARNING, "keys-none", place, text)
        images = [text for text in listed if text.startswith("image:")]
        if images and name != "db":
            text = f"{name} has keys only: {shown(images[0][:80])} is never in it"
            yield Remark(WARNING, "key-image", place, text)
        both = [text for text in listed if text.lower() in forbidden]
        if both and name == "db":
            text = f"{shown(both[0][:80])} is allowed here and demanded in dbx, which forbids it"
            yield Remark(WARNING, "key-forbidden", place, text)


def _of_boot(one: Mapping[str, Any], place: str) -> Iterator[Remark]:
    if one.get("applications") == []:
        yield Remark(WARNING, "applications-none", f"{place}.applications", "a firmware that starts no image boots nothing")
    sections = one.get("sections")
    if sections is not None:
        if _KERNEL not in sections:
            text = f"every unified kernel image has the section {_KERNEL}: no log ever fits"
            yield Remark(WARNING, "section-kernel", f"{place}.sections", text)
        for name in sections:
            if name == _NEVER_MEASURED or not name.startswith("."):
                text = f"systemd-stub measures no section {shown(name)}: no log ever fits"
                yield Remark(WARNING, "section-unmeasured", f"{place}.sections", text)
    if "command_line" in one:
        where = f"{place}.command_line"
        compiled = expression(one["command_line"], where)
        if all(compiled.fullmatch(probe) for probe in _PROBES):
            yield Remark(WARNING, "command-line-everything", where, "it matches every command line: it allows anything")
    if "initrd" in one and "load_options" not in one:
        text = "the kernel's EFI stub measures load options beside the initial RAM disk: a kernel that gets some never fits"
        yield Remark(NOTICE, "load-options-missing", f"{place}.initrd", text)


def _of_forbidden(one: Mapping[str, Any], place: str, boot: Mapping[str, Any], bank: str) -> Iterator[Remark]:
    """Images that dbx names by the digest that the policy starts them by; both are Authenticode digests with SHA-256."""
    if bank != "sha256" or not boot.get("secure_boot"):
        return
    forbidden = {text.lower() for text in boot.get("dbx", [])}
    for number, digest in enumerate(one.get("applications", [])):
        if f"image:{digest.lower()}" in forbidden:
            text = "dbx has to forbid this image, and with Secure Boot on it is never started"
            yield Remark(WARNING, "application-forbidden", f"{place}.applications[{number}]", text)


def _covers(wider: Mapping[str, Any], narrower: Mapping[str, Any]) -> bool:
    """Whether each boot that ``narrower`` allows is allowed by ``wider``, as far as that is plain to see."""
    return all(_part(wider, names) in ({}, _part(narrower, names)) for names in _TOGETHER)


def _part(boot: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: boot[name] for name in names if name in boot}


def _of_phases(boot: Mapping[str, Any]) -> Iterator[Remark]:
    phases: list[str] = boot.get("phases", [])
    known = [_PHASES.index(phase) for phase in phases if phase in _PHASES]
    if known != sorted(set(known)):
        yield Remark(
            WARNING, "phase-order", "boot.phases", f"systemd measures these once and in the order {', '.join(_PHASES)}"
        )
    if phases and not any("sections" in one for one in boot.get("boots", [])):
        text = f"nothing judges what was measured into PCR {STUB_PCR} before them: there are no `sections`"
        yield Remark(NOTICE, "phases-alone", "boot.phases", text)
