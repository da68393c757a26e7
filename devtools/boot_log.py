"""Builder of UEFI event logs, for tests and demonstrations: each event also goes into software PCRs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from struct import pack
from typing import Final

_BANK_IDS: Final = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D, "sm3_256": 0x0012}
_NO_ACTION: Final = 0x03
END_OF_PATH: Final = bytes.fromhex("7fff0400")


class BootLog:
    """A growing log. ``pcrs`` holds bank -> PCR -> value after what was added, from PCR 0 at ``locality``.

    ``legacy`` makes a SHA-1 log of TCG_PCR_EVENT; otherwise it is a crypto-agile one.
    """

    def __init__(
        self, banks: Sequence[str] = ("sha1", "sha256"), *, legacy: bool = False, header_pcr: int = 0, locality: int = 0
    ) -> None:
        self._banks = ("sha1",) if legacy else tuple(banks)
        self._legacy = legacy
        self._parts = [] if legacy else [_spec_id_event(self._banks, header_pcr)]
        self._locality = locality
        self.pcrs: dict[str, dict[int, bytes]] = {bank: {} for bank in self._banks}

    def add(self, pcr: int, kind: int, data: bytes = b"", *, measured: bytes | None = None) -> None:
        """Append an event that carries ``data`` and measures ``measured``, by default the same."""
        digests = {bank: _hash(bank, data if measured is None else measured) for bank in self._banks}
        if kind == _NO_ACTION:
            digests = {bank: bytes(len(digest)) for bank, digest in digests.items()}
        self.add_digests(pcr, kind, data, digests)

    def add_digests(self, pcr: int, kind: int, data: bytes, digests: Mapping[str, bytes]) -> None:
        """Append an event with these digests."""
        if self._legacy:
            self._parts.append(pack("<II", pcr, kind) + digests["sha1"] + pack("<I", len(data)) + data)
        else:
            body = b"".join(pack("<H", _BANK_IDS[bank]) + digest for bank, digest in digests.items())
            self._parts.append(pack("<III", pcr, kind, len(digests)) + body + pack("<I", len(data)) + data)
        if kind == _NO_ACTION:
            return
        for bank, digest in digests.items():
            start = bytes(len(digest) - 1) + bytes([self._locality if pcr == 0 else 0])
            self.pcrs[bank][pcr] = _hash(bank, self.pcrs[bank].get(pcr, start) + digest)

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)


def variable(vendor: str, name: str, data: bytes) -> bytes:
    """Return a UEFI_VARIABLE_DATA; ``vendor`` is a GUID."""
    return guid(vendor) + pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def signature_list(kind: str, owner: str, entries: Sequence[bytes], *, header: bytes = b"") -> bytes:
    """Return an EFI_SIGNATURE_LIST of ``entries`` of one size; ``kind`` and ``owner`` are GUIDs."""
    body = b"".join(guid(owner) + entry for entry in entries)
    size = 16 + len(entries[0]) if entries else 48
    return guid(kind) + pack("<III", 28 + len(header) + len(body), len(header), size) + header + body


def load_option(description: str, path: bytes, *, active: bool = True, optional: bytes = b"") -> bytes:
    """Return an EFI_LOAD_OPTION."""
    return pack("<IH", int(active), len(path)) + description.encode("utf-16-le") + b"\0\0" + path + optional


def image_load(path: bytes) -> bytes:
    """Return a UEFI_IMAGE_LOAD_EVENT of an image at the device path ``path``."""
    return pack("<QQQQ", 0x7E00_0000, 0x1_0000, 0, len(path)) + path


def file_path(name: str) -> bytes:
    """Return the device path of a file, with its end."""
    text = name.encode("utf-16-le") + b"\0\0"
    return pack("<BBH", 4, 4, 4 + len(text)) + text + END_OF_PATH


def partition_table(disk: str, names: Sequence[str]) -> bytes:
    """Return a UEFI_GPT_DATA of the disk with GUID ``disk`` and partitions of these names."""
    header = b"EFI PART" + pack("<IIIIQQQQ", 0x10000, 92, 0x1234, 0, 1, 0xFFFF, 34, 0xFFDE) + guid(disk)
    kind = guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    place = pack("<QQQ", 2048, 4095, 0)
    entries = b"".join(kind + guid(disk) + place + name.encode("utf-16-le").ljust(72, b"\0") for name in names)
    return header + pack("<QIIIQ", 2, 128, 128, 0x5678, len(names)) + entries


def guid(text: str) -> bytes:
    """Return the 16 bytes of the GUID ``text``."""
    first, second, third, fourth, node = text.split("-")
    return pack("<IHH", int(first, 16), int(second, 16), int(third, 16)) + bytes.fromhex(fourth + node)


def _spec_id_event(banks: Sequence[str], pcr: int) -> bytes:
    algorithms = b"".join(pack("<HH", _BANK_IDS[bank], len(_hash(bank, b""))) for bank in banks)
    body = b"Spec ID Event03\0" + pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks)) + algorithms + b"\0"
    return pack("<II20sI", pcr, _NO_ACTION, bytes(20), len(body)) + body


def _hash(bank: str, data: bytes) -> bytes:
    return hashlib.new("sm3" if bank == "sm3_256" else bank, data).digest()
