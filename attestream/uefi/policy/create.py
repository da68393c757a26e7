"""Makes a reference state from the log of a machine in good order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attestream.errors import PolicyError
from attestream.uefi.dictionary import to_dictionary

_BANK: Final = "sha256"
_COMMAND_LINE: Final = "kernel_cmdline"
_FIRMWARE_APPLICATION: Final = re.compile(r"FvVol\([0-9a-fA-F-]{36}\)/FvFile\([0-9a-fA-F-]{36}\)")
"""Device path of what the firmware brings along, such as its boot menu: not part of what is booted."""
_FIRMWARE_VOLUMES: Final = ("EV_EFI_PLATFORM_FIRMWARE_BLOB", "EV_EFI_PLATFORM_FIRMWARE_BLOB2")
_KEY_VARIABLES: Final = ("pk", "kek", "db", "dbx")
_APPLICATIONS: Final = {True: (3, 4), False: (2,)}
"""Whether Secure Boot is on -> how many applications are measured: shim, GRUB, and the kernel once or twice."""

Event = Mapping[str, Any]


def create_reference_state(log: bytes, *, without_secureboot: bool = False) -> dict[str, Any]:
    """Return the reference state, in the form of :mod:`attestream.uefi.policy.reference`, of the boot that ``log`` tells of.

    The log is taken as it is: make it from a machine that is known to be good.

    :param without_secureboot: accept a log that shows Secure Boot off.
    :raises MalformedError: when the log can not be read.
    :raises PolicyError: when Secure Boot is off and that is not accepted, or the boot was not one through shim and GRUB.
    """
    events: list[Event] = to_dictionary(log)["events"]
    secure_boot = _secure_boot(events)
    if not secure_boot and not without_secureboot:
        raise PolicyError(
            "the log shows that Secure Boot is off", remedy="Turn it on, or make a reference state for measured boot alone."
        )
    scrtm = next(_of_kinds(events, "EV_S_CRTM_VERSION"), None)
    if scrtm is None:
        raise PolicyError("the log does not tell the version of the firmware: it has no EV_S_CRTM_VERSION")
    return {
        "has_secureboot": secure_boot,
        "scrtm_and_bios": [
            {
                "scrtm": _digest(scrtm),
                "platform_firmware": [_digest(event) for event in _of_kinds(events, *_FIRMWARE_VOLUMES)],
            }
        ],
        **_keys(events),
        "vendor_db": [
            key for event in _variables(events, "EV_EFI_VARIABLE_AUTHORITY", "vendor_db") for key in _listed(event)
        ],
        "mokdig": _mok_digests(events, "MokList"),
        "mokxdig": _mok_digests(events, "MokListX"),
        "kernels": [_kernel(events, secure_boot)],
    }


def _of_kinds(events: list[Event], *kinds: str) -> Iterator[Event]:
    return (event for event in events if event["EventType"] in kinds)


def _contents(event: Event) -> Mapping[str, Any]:
    contents = event.get("Event")
    return contents if isinstance(contents, dict) else {}


def _variables(events: list[Event], kind: str, name: str) -> Iterator[Event]:
    for event in _of_kinds(events, kind):
        found = _contents(event).get("UnicodeName")
        if isinstance(found, str) and found.lower() == name:
            yield event


def _secure_boot(events: list[Event]) -> bool:
    for event in _of_kinds(events, "EV_EFI_VARIABLE_DRIVER_CONFIG"):
        contents = _contents(event)
        if contents.get("UnicodeName") == "SecureBoot":
            state = contents.get("VariableData")
            return isinstance(state, dict) and state.get("Enabled") == "Yes"
    return False


def _digest(event: Event) -> dict[str, str]:
    for digest in event.get("Digests") or ():
        if digest["AlgorithmId"] == _BANK:
            return {_BANK: f"0x{digest['Digest']}"}
    raise PolicyError(f"event {event['EventNum']} of the log has no SHA-256 digest")


def _listed(event: Event) -> Iterator[dict[str, str]]:
    """Yield the signatures in a variable: of its signature lists, or the one that was used."""
    data = _contents(event).get("VariableData")
    for entry in data if isinstance(data, list) else ():
        for key in entry.get("Keys", [entry]) or ():
            if "SignatureOwner" in key and "SignatureData" in key:
                yield {"SignatureOwner": key["SignatureOwner"], "SignatureData": f"0x{key['SignatureData']}"}


def _keys(events: list[Event]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for name in _KEY_VARIABLES:
        found[name] = []
        for event in _variables(events, "EV_EFI_VARIABLE_DRIVER_CONFIG", name):
            found[name] = list(_listed(event))
    return found


def _mok_digests(events: list[Event], name: str) -> list[dict[str, str]]:
    return [_digest(event) for event in _of_kinds(events, "EV_IPL") if _contents(event).get("String") == name]


def _kernel(events: list[Event], secure_boot: bool) -> dict[str, str]:
    applications = [
        _digest(event)[_BANK]
        for event in _of_kinds(events, "EV_EFI_BOOT_SERVICES_APPLICATION")
        if not _FIRMWARE_APPLICATION.match(_path(event))
    ]
    if len(applications) not in _APPLICATIONS[secure_boot]:
        wanted = "shim, GRUB and a kernel" if secure_boot else "shim and GRUB"
        raise PolicyError(f"the log shows {len(applications)} boot applications; it should be those of {wanted}")
    kernel = {"shim_authcode_sha256": applications[0], "grub_authcode_sha256": applications[1]}
    if secure_boot:
        kernel["kernel_authcode_sha256"] = applications[2]
    else:
        kernel["vmlinuz_plain_sha256"] = _digest(_loaded(events, 9, "vmlinuz"))[_BANK]
    kernel["initrd_plain_sha256"] = _digest(_loaded(events, 9, "initrd", "initramfs"))[_BANK]
    command_line = _text(_loaded(events, 8, _COMMAND_LINE))
    kernel["kernel_cmdline"] = re.escape(command_line[len(_COMMAND_LINE) + 2 :])
    return kernel


def _path(event: Event) -> str:
    path = _contents(event).get("DevicePath")
    return path if isinstance(path, str) else ""


def _text(event: Event) -> str:
    text = _contents(event).get("String")
    return text if isinstance(text, str) else ""


def _loaded(events: list[Event], pcr: int, *names: str) -> Event:
    """Return the first of GRUB's events in ``pcr`` whose text has one of ``names`` in it."""
    for event in _of_kinds(events, "EV_IPL"):
        if event["PCRIndex"] == pcr and any(name in _text(event) for name in names):
            return event
    raise PolicyError(f"the log shows no {' or '.join(names)} in PCR {pcr}: the machine was not booted through GRUB")
