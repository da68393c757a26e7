"""The reference state of the ``example`` policy: what a good boot of one machine looks like.

A JSON object::

    {"has_secureboot": true,
     "scrtm_and_bios": [{"scrtm": DIGEST, "platform_firmware": [DIGEST, ...]}, ...],
     "pk": [KEY, ...], "kek": [...], "db": [...], "dbx": [...], "vendor_db": [...],
     "mokdig": [DIGEST, ...], "mokxdig": [DIGEST, ...],
     "kernels": [{"shim_authcode_sha256": "0x...", "grub_authcode_sha256": "0x...", "kernel_authcode_sha256": "0x...",
                  "initrd_plain_sha256": "0x...", "kernel_cmdline": "RE2 expression"}, ...]}

DIGEST is ``{"sha256": "0x..."}`` with one or more banks, KEY is ``{"SignatureOwner": GUID, "SignatureData": "0x..."}``, all
hexadecimal in lower case. Any of the firmwares and any of the kernels may run. ``pk``, ``kek``, ``db`` and ``vendor_db`` are
what may be enrolled, ``dbx`` is what must be. Without Secure Boot (``has_secureboot`` false) a kernel has
``vmlinuz_plain_sha256`` in place of ``kernel_authcode_sha256``. ``has_secureboot`` (true) and ``vendor_db`` (none) may be
left out; other keys are ignored, as others who write and read this format do.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from attestream.errors import PolicyError

KEY_LISTS: Final = ("pk", "kek", "db", "vendor_db", "dbx")
_REQUIRED: Final = ("pk", "kek", "db", "dbx", "mokdig", "mokxdig")
_HEX: Final = re.compile("0x[0-9a-f]+")
_SIGNED_KERNEL: Final = (
    "shim_authcode_sha256",
    "grub_authcode_sha256",
    "kernel_authcode_sha256",
    "initrd_plain_sha256",
)
_PLAIN_KERNEL: Final = ("shim_authcode_sha256", "grub_authcode_sha256", "vmlinuz_plain_sha256", "initrd_plain_sha256")


class Firmware(NamedTuple):
    """Digests (bank -> hexadecimal) of the CRTM's version and, in the order of measurement, of the firmware's volumes."""

    scrtm: dict[str, str]
    volumes: tuple[dict[str, str], ...]


class Kernel(NamedTuple):
    """What may boot. Digests are SHA-256 in hexadecimal; ``image`` is the kernel's Authenticode or plain digest."""

    shim: str
    grub: str
    image: str
    initrd: str
    command_line: str
    """RE2 expression."""


class ReferenceState(NamedTuple):
    """A reference state that has been checked. ``keys`` has an entry for each of :data:`KEY_LISTS`."""

    secure_boot: bool
    kernels: tuple[Kernel, ...]
    firmwares: tuple[Firmware, ...]
    keys: dict[str, tuple[dict[str, str], ...]]
    mok: tuple[dict[str, str], ...]
    """Digests that the MokList may have."""
    mokx: tuple[dict[str, str], ...]


def parse_reference_state(value: Any) -> ReferenceState:
    """Return the reference state in ``value``, which comes from JSON.

    :raises PolicyError: when something is missing or has another form.
    """
    if not isinstance(value, dict):
        raise PolicyError(f"the reference state is {value!r} instead of a dict")
    secure_boot = value.get("has_secureboot", True)
    if not isinstance(secure_boot, bool):
        raise PolicyError(f"refstate['has_secureboot'] is {secure_boot!r} instead of true or false")
    kernels = value.get("kernels")
    if not isinstance(kernels, list):
        raise PolicyError(f"refstate['kernels'] is {kernels!r} instead of a list")
    parsed_kernels = tuple(_kernel(kernel, secure_boot) for kernel in kernels)
    if value.get("scrtm_and_bios") is None:
        raise PolicyError("refstate['scrtm_and_bios'] is missing")
    firmwares = tuple(_firmware(firmware) for firmware in _list(value["scrtm_and_bios"]))
    for name in _REQUIRED:
        if name not in value:
            raise PolicyError(f"refstate lacks {name}")
    return ReferenceState(
        secure_boot,
        parsed_kernels,
        firmwares,
        {name: tuple(_signature(key) for key in _list(value.get(name, []))) for name in KEY_LISTS},
        tuple(_digest(digest) for digest in _list(value["mokdig"])),
        tuple(_digest(digest) for digest in _list(value["mokxdig"])),
    )


def _kernel(value: Any, secure_boot: bool) -> Kernel:
    names = _SIGNED_KERNEL if secure_boot else _PLAIN_KERNEL
    _fields(value, {*names, "kernel_cmdline"})
    shim, grub, image, initrd = (_hex(value[name]) for name in names)
    return Kernel(shim, grub, image, initrd, _text(value["kernel_cmdline"]))


def _firmware(value: Any) -> Firmware:
    _fields(value, {"scrtm", "platform_firmware"})
    return Firmware(_digest(value["scrtm"]), tuple(_digest(digest) for digest in _list(value["platform_firmware"])))


def _signature(value: Any) -> dict[str, str]:
    _fields(value, {"SignatureOwner", "SignatureData"})
    return {"SignatureOwner": _text(value["SignatureOwner"]), "SignatureData": _hex(value["SignatureData"])}


def _digest(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise PolicyError(_rather(value, dict))
    return {bank: _hex(digest) for bank, digest in value.items()}


def _fields(value: Any, names: set[str]) -> None:
    if not isinstance(value, dict):
        raise PolicyError(_rather(value, dict))
    if missing := names - value.keys():
        raise PolicyError(f"{value!r} lacks fields {{{', '.join(sorted(map(repr, missing)))}}}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise PolicyError(_rather(value, list))
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise PolicyError(_rather(value, str))
    return value


def _hex(value: Any) -> str:
    """Return the digits of ``value``."""
    if not (isinstance(value, str) and _HEX.fullmatch(value)):
        raise PolicyError(f"{value!r} is not 0x followed by some lowercase hex digits")
    return value[2:]


def _rather(value: Any, kind: type) -> str:
    return f"{value!r} is a {type(value)} rather than a {kind}"
