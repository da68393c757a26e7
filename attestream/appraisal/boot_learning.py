"""Makes the expectations of a policy document from the boot log of a machine in good order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, NamedTuple

import re2

from attestream.appraisal.boot import appraise_boot_log, compile_boot
from attestream.appraisal.boot_expectations import APPLICATION_PCR, FILE_PCR, KEY_VARIABLES, STUB_PCR, signature_text
from attestream.appraisal.boot_judgement import signatures_of
from attestream.appraisal.collector import Collector
from attestream.errors import PolicyError
from attestream.uefi import claim_kinds as claim
from attestream.uefi.claims import BootClaims, draw_claims
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay_bank, reset_value

Part = Literal["keys", "dbx", "applications", "sections", "files"]
"""What is learnt and can be left out."""
_INITRD_TAG: Final = 0x8F3B22EC
"""``INITRD_EVENT_TAG_ID`` of Linux ``drivers/firmware/efi/libstub/efistub.h``."""
_LOAD_OPTIONS_TAG: Final = 0x8F3B22ED
"""``LOAD_OPTIONS_EVENT_TAG_ID``, there."""


class Given(NamedTuple):
    """What a log does not tell, or what should be judged otherwise than by what it tells."""

    without: Collection[Part] = ()
    """What is not to be judged."""
    without_secure_boot: bool = False
    """Accept a log that shows Secure Boot off; then it is not judged."""
    command_line: str = ""
    """RE2 expression for the kernel's command lines; empty: they are not judged by themselves."""
    logged_command_lines: bool = False
    """Allow the kernel's command lines that the log shows, and no others."""
    load_options: str = ""
    """Text of the load options of a kernel that the firmware started: the log has only its digest."""
    phases: Sequence[str] = ()
    """What the system measures into PCR 11 behind the log."""


class Learnt(NamedTuple):
    """What to add to ``boot`` of a policy."""

    settings: dict[str, Any]
    remarks: list[str]
    """What the log shows and the settings leave open."""


def expectations_from_log(log: bytes, bank: str = "sha256", given: Given = Given()) -> Learnt:  # noqa: B008  # a constant
    """Return what allows the boot that ``log`` tells of.

    The log is taken as it is: make it from a machine that is known to be good.

    :raises MalformedError: when the log can not be read.
    :raises PolicyError: when it has no digests for ``bank``, or data that is not what was measured; when Secure Boot is off
        and that is not accepted; when ``given`` does not fit the log.
    """
    parsed = parse_log(log)
    values = replay_bank(parsed, bank)
    if values is None:
        raise PolicyError(f"the log has no digests for the bank {bank}")
    found = draw_claims(parsed, bank, values)
    if found.rejected:
        raise PolicyError(f"the log contradicts itself: {found.rejected[0].reason}")
    if not found.secure_boot and not given.without_secure_boot:
        raise PolicyError(
            f"the log {'shows that Secure Boot is off' if found.of(claim.SecureBoot) else 'does not tell of Secure Boot'}",
            remedy="Turn it on, or accept the machine as it is: --without-secure-boot.",
        )
    remarks: list[str] = []
    settings = _settings(found, given, remarks)
    if not settings:
        raise PolicyError("nothing of the boot is left to be judged")
    _check_fits(log, bank, settings, values)
    return Learnt(settings, remarks)


def _settings(found: BootClaims, given: Given, remarks: list[str]) -> dict[str, Any]:
    databases = {one.name: one for one in found.claims if isinstance(one, claim.SignatureDatabase)}
    listed = {name: sorted(map(signature_text, signatures_of(database))) for name, database in databases.items()}
    made: dict[str, Any] = {} if given.without_secure_boot else {"secure_boot": True}
    keys = {name: listed[name] for name in KEY_VARIABLES if name in listed}
    if keys and "keys" not in given.without:
        made["keys"] = keys
    if "dbx" in listed and "dbx" not in given.without:
        made["dbx"] = listed["dbx"]
    if boot := _boot(found, given, remarks):
        made["boots"] = [boot]
    if given.phases:
        made["phases"] = list(given.phases)
    return made


def _boot(found: BootClaims, given: Given, remarks: list[str]) -> dict[str, Any]:
    boot: dict[str, Any] = {}
    images = [one.digest.hex() for one in found.claims if isinstance(one, claim.ImageLoad) and one.pcr == APPLICATION_PCR]
    sections = {
        one.name: one.digest.hex() for one in found.claims if isinstance(one, claim.ImageSection) and one.pcr == STUB_PCR
    }
    if images and "applications" not in given.without:
        boot["applications"] = images
    if sections and "sections" not in given.without:
        boot["sections"] = sections
    if given.logged_command_lines:
        boot["command_line"] = _command_lines(found)
    elif given.command_line:
        boot["command_line"] = given.command_line
    if "files" not in given.without:
        boot |= _files(found, given, remarks)
    return boot


def _command_lines(found: BootClaims) -> str:
    lines = dict.fromkeys(one.text for one in found.claims if isinstance(one, claim.KernelCommandLine))
    if not lines:
        raise PolicyError("the log shows no command line of a kernel")
    return "|".join(re2.escape(line) for line in lines)


def _files(found: BootClaims, given: Given, remarks: list[str]) -> dict[str, str]:
    """Return what a kernel that the firmware starts was given."""
    tagged = {one.tag: one for one in found.claims if isinstance(one, claim.TaggedEvent) and one.pcr == FILE_PCR}
    if _LOAD_OPTIONS_TAG in tagged and not given.load_options:
        raise PolicyError(
            "the log has the kernel's load options by digest only",
            remedy="Give their text (/proc/cmdline) with --load-options, or leave them open: --without files.",
        )
    if any(isinstance(one, claim.LoadedFile) and one.pcr == FILE_PCR for one in found.claims):
        remarks.append(f"files that the boot loader read (PCR {FILE_PCR}) are not judged: that takes a reference state")
    made = {"initrd": tagged[_INITRD_TAG].digest.hex()} if _INITRD_TAG in tagged else {}
    return made | ({"load_options": given.load_options} if given.load_options else {})


def _check_fits(log: bytes, bank: str, settings: dict[str, Any], values: dict[int, bytes]) -> None:
    """Check that the boot itself is good by ``settings``; that it would not be is better said now."""
    rules = compile_boot(settings, bank=bank)
    size = len(next(iter(values.values()), b""))
    quoted = {pcr: values.get(pcr) or reset_value(pcr, size) for pcr in rules.pcrs}
    findings = Collector()
    if not appraise_boot_log(log, quoted, bank=bank, rules=rules, findings=findings):
        first = findings.all()[0]
        raise PolicyError(f"the settings would refuse this very log: {first.code} at {first.culprit}: {first.message}")
