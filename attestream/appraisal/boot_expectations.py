"""What a boot must be like, without a boot policy's language: the state of Secure Boot, keys, and what was started.

In the ``boot`` of a policy document::

    "secure_boot": true,
    "keys": {"PK": ["certificate:<hex>"], "KEK": [...], "db": ["certificate:<hex>", "image:<hex>"]},
    "dbx": ["image:<hex>", ...],
    "boots": [{"applications": ["<hex>", ...], "sections": {".linux": "<hex>", ...}, "command_line": "<RE2>",
               "initrd": "<hex>", "load_options": "<text>"}, ...],
    "phases": ["enter-initrd", "leave-initrd", "sysinit", "ready"]

A signature is ``certificate:`` and the SHA-256 of a certificate, ``image:`` and the SHA-256 of an image, or the GUID of
another type, ``:`` and the data. ``keys`` are those that may be enrolled, ``dbx`` those that must be forbidden. All parts of
one of the ``boots`` must fit. Digests are those of the policy's bank. Sources: UEFI 2.10, section 32.4.1; systemd
``src/boot/stub.c`` and ``src/pcrextend`` (phases); Linux ``drivers/firmware/efi/libstub/efi-stub-helper.c``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestream.appraisal.document import check_keys, check_object, expression, hexadecimal, shown, texts, truth
from attestream.errors import PolicyError
from attestream.tpm.algorithms import hash_named
from attestream.uefi.guid import CERT_SHA256, CERT_X509

SETTINGS: Final = frozenset({"secure_boot", "keys", "dbx", "boots", "phases"})
"""Keys of ``boot`` that are read here."""
KEY_VARIABLES: Final = ("PK", "KEK", "db")
APPLICATION_PCR: Final = 4
SECURE_BOOT_PCR: Final = 7
FILE_PCR: Final = 9
STUB_PCR: Final = 11
"""Sections of a unified kernel image."""
STUB_PCRS: Final = (11, 12, 13)
"""Sections, parameters and extensions of a unified kernel image."""
COMMAND_LINE_PCRS: Final = (8, 12)

MAX_SIGNATURES: Final = 10_000
MAX_BOOTS: Final = 64
MAX_APPLICATIONS: Final = 32
MAX_SECTIONS: Final = 64
MAX_PHASES: Final = 16
MAX_TEXT: Final = 8192

_KINDS: Final = {"certificate": CERT_X509, "image": CERT_SHA256}
_GUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Signature = tuple[str, bytes]
"""GUID of the type, and the data; of a certificate its SHA-256."""


@dataclass(frozen=True, slots=True)
class ExpectedBoot:
    """One good boot. What is None is not judged."""

    applications: tuple[bytes, ...] | None
    """Digests of the images that were started, in their order (PCR 4)."""
    sections: Mapping[str, bytes] | None
    """Digests of the measured sections of a unified kernel image by name (PCR 11)."""
    command_line: Any
    """RE2 expression for each command line of a kernel."""
    files: tuple[frozenset[bytes], ...] | None
    """For each thing that the kernel's EFI stub measures (PCR 9) the digests that it may have."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a policy document says about a boot beside its boot policy, compiled."""

    secure_boot: bool
    keys: Mapping[str, frozenset[Signature]]
    """Variable -> signatures that may be in it."""
    dbx: frozenset[Signature] | None
    """Signatures that must be in dbx."""
    boots: tuple[ExpectedBoot, ...]
    phases: tuple[str, ...]
    """What the system measures into PCR 11 in this order, behind the log."""
    pcrs: frozenset[int]
    """PCRs that must be quoted."""


def compile_expectations(value: Mapping[str, Any], bank: str) -> Expectations | None:
    """Return what the ``boot`` of a policy document expects; None when it has none of :data:`SETTINGS`.

    :raises PolicyError: naming the place that is not valid.
    """
    if not value.keys() & SETTINGS:
        return None
    size = hash_named(bank).size
    keys = check_object(value.get("keys", {}), "boot.keys")
    check_keys(keys, "boot.keys", set(), set(KEY_VARIABLES))
    listed = value.get("boots", [])
    if not isinstance(listed, list) or len(listed) > MAX_BOOTS or (not listed and "boots" in value):
        raise PolicyError(f"boot.boots: must be a list of 1 to {MAX_BOOTS} boots")
    boots = tuple(_boot(boot, f"boot.boots[{number}]", size, bank) for number, boot in enumerate(listed))
    phases = tuple(texts(value.get("phases", []), "boot.phases", limit=MAX_PHASES, length=MAX_TEXT))
    secure_boot = truth(value.get("secure_boot", False), "boot.secure_boot")
    made = Expectations(
        secure_boot=secure_boot,
        keys={name: _signatures(keys[name], f"boot.keys.{name}") for name in keys},
        dbx=_signatures(value["dbx"], "boot.dbx") if "dbx" in value else None,
        boots=boots,
        phases=phases,
        pcrs=frozenset(
            {
                *((SECURE_BOOT_PCR,) if secure_boot or keys or "dbx" in value else ()),
                *((STUB_PCR,) if phases else ()),
                *(pcr for boot in boots for pcr in _pcrs(boot)),
            }
        ),
    )
    if not made.pcrs:
        raise PolicyError("boot: expects nothing: `secure_boot` is false, and nothing else is given")
    return made


def _pcrs(boot: ExpectedBoot) -> tuple[int, ...]:
    return (
        *((APPLICATION_PCR,) if boot.applications is not None else ()),
        *(STUB_PCRS if boot.sections is not None else ()),
        *(COMMAND_LINE_PCRS if boot.command_line is not None else ()),
        *((FILE_PCR,) if boot.files is not None else ()),
    )


def _boot(value: Any, place: str, size: int, bank: str) -> ExpectedBoot:
    check_keys(value, place, set(), {"applications", "sections", "command_line", "initrd", "load_options"})
    if not value:
        raise PolicyError(f"{place}: expects nothing")
    applications = sections = None
    if "applications" in value:
        listed = texts(value["applications"], f"{place}.applications", limit=MAX_APPLICATIONS, length=2 * size)
        applications = tuple(_digest(item, f"{place}.applications[{number}]", size) for number, item in enumerate(listed))
    if "sections" in value:
        named = check_object(value["sections"], f"{place}.sections")
        if not 0 < len(named) <= MAX_SECTIONS:
            raise PolicyError(f"{place}.sections: has {len(named)} sections; 1 to {MAX_SECTIONS} are possible")
        sections = {name: _digest(item, f"{place}.sections[{shown(name)}]", size) for name, item in named.items()}
    command_line = None
    if "command_line" in value:
        command_line = expression(_text(value["command_line"], f"{place}.command_line"), f"{place}.command_line")
    files: list[frozenset[bytes]] = []
    if "initrd" in value:
        files.append(frozenset({_digest(value["initrd"], f"{place}.initrd", size)}))
    if "load_options" in value:
        data = _text(value["load_options"], f"{place}.load_options").encode("utf-16-le", "surrogatepass")
        # Loaders differ in whether the terminator counts.
        files.append(frozenset(hash_named(bank).digest(options) for options in (data, data + b"\0\0")))
    return ExpectedBoot(applications, sections, command_line, tuple(files) or None)


def _signatures(value: Any, place: str) -> frozenset[Signature]:
    listed = texts(value, place, limit=MAX_SIGNATURES, length=2 * 65_536)
    return frozenset(_signature(text, f"{place}[{number}]") for number, text in enumerate(listed))


def _signature(text: str, place: str) -> Signature:
    kind, _, data = text.partition(":")
    if kind in _KINDS:
        return _KINDS[kind], _digest(data, place, hashlib.sha256().digest_size)
    if not _GUID.fullmatch(kind):
        raise PolicyError(f"{place}: must be `certificate:`, `image:` or the GUID of a type and `:`, then hexadecimal")
    return (
        (kind, hexadecimal(data, place)) if kind != CERT_X509 else (kind, hashlib.sha256(hexadecimal(data, place)).digest())
    )


def signature_text(signature: Signature) -> str:
    """Return ``signature`` as a policy document has it."""
    kind, data = signature
    return f"{next((name for name, guid in _KINDS.items() if guid == kind), kind)}:{data.hex()}"


def _digest(value: Any, place: str, size: int) -> bytes:
    found = hexadecimal(value, place)
    if len(found) != size:
        raise PolicyError(f"{place}: has {len(found)} bytes; a digest here has {size}")
    return found


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise PolicyError(f"{place}: must be a string of 1 to {MAX_TEXT} characters")
    return value
