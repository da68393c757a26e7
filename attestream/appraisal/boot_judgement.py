"""Compares the proven claims of a boot with what a policy expects (:mod:`attestream.appraisal.boot_expectations`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from attestream.appraisal.boot_expectations import (
    APPLICATION_PCR,
    FILE_PCR,
    STUB_PCR,
    STUB_PCRS,
    Expectations,
    ExpectedBoot,
    Signature,
    signature_text,
)
from attestream.appraisal.collector import Collector
from attestream.appraisal.text import printable
from attestream.uefi import claim_kinds as claim
from attestream.uefi import kinds
from attestream.uefi.claims import BootClaims
from attestream.uefi.guid import CERT_X509
from attestream.uefi.log import Event, EventLog
from attestream.uefi.replay import digest_in, replay_bank, reset_value

_READABLE: Final = frozenset({kinds.IPL, kinds.EVENT_TAG})
"""Types of events that boot loaders and the kernel's stub measure files and sections with."""
_SHOWN: Final = 80


class Difference(NamedTuple):
    """What is not as expected: code, culprit and message of the finding."""

    code: str
    culprit: str
    message: str


def signatures_of(database: claim.SignatureDatabase) -> frozenset[Signature]:
    """Return all signatures in ``database``, of whatever list and type; a certificate stands as its SHA-256."""
    return frozenset(
        (found.kind, hashlib.sha256(data).digest() if found.kind == CERT_X509 else data)
        for found in database.lists
        for _owner, data in found.pairs()
    )


def before_phases(log: EventLog, bank: str, quoted: bytes, phases: tuple[str, ...]) -> bytes:
    """Return the value that PCR 11 had at the end of ``log``, when ``quoted`` is that value after some of ``phases``.

    The system measures each phase that it reaches behind the log (systemd-pcrphase.service(8)). Returns ``quoted`` when it
    can not be reached so.

    :raises MalformedError: when the log contradicts itself about the startup locality.
    """
    replayed = (replay_bank(log, bank) or {}).get(STUB_PCR) or reset_value(STUB_PCR, len(quoted))
    value = replayed
    for phase in phases:
        if value == quoted:
            break
        value = digest_in(bank, value + digest_in(bank, phase.encode("utf-8", "surrogatepass")))
    return replayed if value == quoted else quoted


def judge_expectations(expected: Expectations, log: EventLog, claims: BootClaims, findings: Collector) -> bool:
    """Add to ``findings`` where ``claims``, those of ``log``, are not as expected; return whether they are."""
    found = [*_secure_boot(expected, claims), *_keys(expected, claims), *_forbidden(expected, claims)]
    if expected.boots:
        by_boot = [list(_boot(boot, log, claims)) for boot in expected.boots]
        # Of several good boots, the one that comes nearest explains best what is wrong.
        nearest: list[Difference] = min(by_boot, key=len)
        found += nearest
    for difference in found:
        findings.add(difference.code, printable(difference.culprit), printable(difference.message))
    return not found


def _secure_boot(expected: Expectations, claims: BootClaims) -> Iterator[Difference]:
    if not expected.secure_boot or claims.secure_boot is True:
        return
    switches = claims.of(claim.SecureBoot)
    if switches:
        yield Difference("boot.secure-boot", _place(switches[0]), "Secure Boot was off.")
    else:
        yield Difference("boot.secure-boot", "SecureBoot", "The log does not show whether Secure Boot was on.")


def _database(claims: BootClaims, name: str) -> claim.SignatureDatabase | None:
    # There is at most one: a second value of a variable is no claim.
    return next(
        (found for found in claims.claims if isinstance(found, claim.SignatureDatabase) and found.name == name), None
    )


def _keys(expected: Expectations, claims: BootClaims) -> Iterator[Difference]:
    for name, allowed in expected.keys.items():
        database = _database(claims, name)
        if database is None:
            yield Difference("boot.key-unknown", name, f"The log does not show what is in {name}.")
            continue
        for signature in sorted(signatures_of(database) - allowed):
            text = signature_text(signature)[:_SHOWN]
            yield Difference("boot.key-unknown", f"{_place(database)}: {name}", f"{name} has {text}, which is not allowed.")


def _forbidden(expected: Expectations, claims: BootClaims) -> Iterator[Difference]:
    if expected.dbx is None:
        return
    database = _database(claims, "dbx")
    if database is None:
        yield Difference("boot.not-forbidden", "dbx", "The log does not show what is in dbx.")
        return
    missing = sorted(expected.dbx - signatures_of(database))
    if missing:
        text = f"dbx lacks {len(missing)} of {len(expected.dbx)}, the first is {signature_text(missing[0])[:_SHOWN]}."
        yield Difference("boot.not-forbidden", f"{_place(database)}: dbx", text)


def _boot(boot: ExpectedBoot, log: EventLog, claims: BootClaims) -> Iterator[Difference]:
    if boot.applications is not None:
        yield from _applications(boot.applications, claims)
    if boot.sections is not None:
        yield from _unreadable(log, STUB_PCRS)
        yield from _sections(boot.sections, claims)
        yield from _parameters(claims, lines=boot.command_line is not None)
    if boot.command_line is not None:
        yield from _command_lines(boot, claims)
    if boot.files is not None:
        yield from _unreadable(log, (FILE_PCR,))
        yield from _files(boot.files, claims)


def _applications(expected: tuple[bytes, ...], claims: BootClaims) -> Iterator[Difference]:
    images = [found for found in claims.claims if isinstance(found, claim.ImageLoad) and found.pcr == APPLICATION_PCR]
    for place, image in enumerate(images):
        if place >= len(expected) or image.digest != expected[place]:
            text = f"Image {place + 1} that was started, {image.path or 'of no path'}, has digest {image.digest.hex()}."
            yield Difference("boot.application", _place(image), text)
            return
    if len(images) < len(expected):
        text = f"The log shows {len(images)} images that were started instead of {len(expected)}."
        yield Difference("boot.application", f"PCR {APPLICATION_PCR}", text)


def _sections(expected: Mapping[str, bytes], claims: BootClaims) -> Iterator[Difference]:
    missing = dict(expected)
    for found in claims.claims:
        if found.pcr != STUB_PCR:
            continue
        if not isinstance(found, claim.ImageSection):
            yield Difference("boot.section", _place(found), "It is no section of a unified kernel image.")
        elif missing.pop(found.name, None) != found.digest:
            text = f"The section {found.name} of the kernel image has digest {found.digest.hex()}."
            yield Difference("boot.section", f"{_place(found)}: {found.name}", text)
    for name in missing:
        yield Difference("boot.section", name, f"The log shows no section {name} of a kernel image.")


def _parameters(claims: BootClaims, *, lines: bool) -> Iterator[Difference]:
    """Yield what was passed to a unified kernel image beside a command line that is judged by itself."""
    for found in claims.claims:
        if found.pcr in STUB_PCRS[1:] and not (lines and isinstance(found, claim.KernelCommandLine)):
            code = "boot.command-line" if isinstance(found, claim.KernelCommandLine) else "boot.file"
            yield Difference(code, _place(found), "It was passed to the kernel image, and the policy allows nothing there.")


def _command_lines(boot: ExpectedBoot, claims: BootClaims) -> Iterator[Difference]:
    found = [one for one in claims.claims if isinstance(one, claim.KernelCommandLine)]
    for line in found:
        try:
            matches = boot.command_line.fullmatch(line.text.encode("utf-8")) is not None
        except UnicodeEncodeError:  # a lone surrogate is no text of an expression
            matches = False
        if not matches:
            yield Difference("boot.command-line", _place(line), f"The kernel's command line is {line.text}")
    # The command line within a unified kernel image is one of its sections; another one is there only when it was given.
    if not found and boot.sections is None:
        yield Difference("boot.command-line", "kernel command line", "The log shows no command line of a kernel.")


def _files(expected: tuple[frozenset[bytes], ...], claims: BootClaims) -> Iterator[Difference]:
    missing = list(expected)
    for found in claims.claims:
        if found.pcr != FILE_PCR or not isinstance(found, claim.LoadedFile | claim.TaggedEvent):
            continue
        fitting = next((digests for digests in missing if found.digest in digests), None)
        if fitting is None:
            name = found.name if isinstance(found, claim.LoadedFile) else found.text
            yield Difference("boot.file", _place(found), f"{name or 'Something'} has digest {found.digest.hex()}.")
        else:
            missing.remove(fitting)
    if missing:
        text = f"The log lacks {len(missing)} of {len(expected)} measurements of the kernel's EFI stub."
        yield Difference("boot.file", f"PCR {FILE_PCR}", text)


def _unreadable(log: EventLog, pcrs: tuple[int, ...]) -> Iterator[Difference]:
    for event in log.events:
        if event.pcr in pcrs and event.kind not in _READABLE and event.kind != kinds.NO_ACTION:
            yield Difference("boot.file", _event(event), "No boot loader measures with events of this type.")


def _place(found: claim.Claim) -> str:
    return f"event {found.event} (PCR {found.pcr}, {type(found).__name__})"


def _event(event: Event) -> str:
    return f"event {event.number} (PCR {event.pcr}, {kinds.kind_name(event.kind)})"
