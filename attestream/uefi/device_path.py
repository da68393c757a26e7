"""Text form of EFI device paths (UEFI 2.10, chapter 10) as libefivar 37 writes it, for boot policies written against that.

libefivar's spelling differs from the specification's in places; where a node is shorter than its type says, libefivar
reads beyond it and this shows the node's bytes instead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from attestream.uefi.device_path_messages import MESSAGE_NODES
from attestream.uefi.guid import guid_text
from attestream.uefi.node_text import node_name, vendor_text

_HARDWARE: Final = 0x01
_ACPI: Final = 0x02
_MESSAGE: Final = 0x03
_MEDIA: Final = 0x04
_BIOS: Final = 0x05
_END: Final = 0x7F
_END_INSTANCE: Final = 0x01
_NODE_HEADER: Final = 4

_ACPI_NAMES: Final = {
    0x0A0341D0: "PciRoot(0x{uid:x})",
    0x0A0541D0: "AcpiContainer()",
    0x0A0641D0: "AcpiContainer()",
    0x0A0841D0: "PcieRoot(0x{uid:x})",
    0x0A0941D0: "EmbeddedController()",
    0x060441D0: "Floppy(0x{uid:x})",
    0x030141D0: "Keyboard(0x{uid:x})",
    0x050141D0: "Serial(0x{uid:x})",
}
_ACPI_STRING_NAMES: Final = {
    0x0A0341D0: "PciRoot({uid})",
    0x0A0541D0: "AcpiContainer({uid})",
    0x0A0641D0: "AcpiContainer({uid})",
    0x0A0841D0: "PcieRoot({uid})",
    0x0A0941D0: "EmbeddedController()",
}
_EXPANDED_STRINGS: Final = 3
_RAM_DISKS: Final = {
    "77ab535a-45fc-624b-5560-f7b281d1f96e": "VirtualDisk",
    "3d5abd30-4175-87ce-6d64-d2ade523c4bb": "VirtualCD",
    "5cea02c9-4d07-69d3-269f-4496fbe096f9": "PersistentVirtualDisk",
    "08018188-42cd-bb48-100f-5387d53ded3d": "PersistentVirtualCD",
}
_BIOS_DEVICES: Final = ("", "Floppy", "HD", "CDROM", "PCMCIA", "USB", "Network")


def device_path_text(path: bytes) -> str | None:
    """Return the text of the first instance of the device path ``path``, or None when it does not begin with a node.

    A path that breaks off is shown up to there.
    """
    nodes: list[str] = []
    at = 0
    while at < len(path):
        left = len(path) - at
        size = int.from_bytes(path[at + 2 : at + 4], "little") if left >= _NODE_HEADER else 0
        if left < _NODE_HEADER or size > left:
            return "/".join(nodes) if any(nodes) else None
        kind, subtype = path[at], path[at + 1]
        if size < _NODE_HEADER:
            return None
        if kind == _END:
            if nodes:
                break
            nodes.append("," if subtype == _END_INSTANCE else "")
        else:
            nodes.append(_node(kind, subtype, path[at + _NODE_HEADER : at + size]))
        at += size
    return "/".join(nodes)


def _node(kind: int, subtype: int, data: bytes) -> str:
    nodes = _NODES.get(kind)
    if nodes is None:
        return f"Path({kind},{subtype},{data.hex()})"
    decode = nodes.get(subtype)
    if decode is not None:
        try:
            return decode(data)
        except (struct.error, IndexError):  # a node shorter than its type says
            return f"Path({kind},{subtype},{data.hex()})"
    shown = data[: len(data) // 2] if kind in _HALF_SHOWN else data
    return f"{_UNKNOWN_NAMES[kind]}({subtype},{shown.hex()})"


def _pci(data: bytes) -> str:
    function, device = struct.unpack_from("<BB", data)
    return f"Pci(0x{device:x},0x{function:x})"


def _memory(data: bytes) -> str:
    kind, start, end = struct.unpack_from("<IQQ", data)
    return f"MemoryMapped({kind},0x{start:x},0x{end:x})"


def _hardware_vendor(data: bytes) -> str:
    if len(data) >= 20 and guid_text(data) == "cf31fac5-c24e-11d2-85f3-00a0c93ec93b":
        return f"EDD10(0x{struct.unpack_from('<I', data, 16)[0]:x})"
    return vendor_text("VenHw", data)


def _bmc(data: bytes) -> str:
    interface, base = struct.unpack_from("<BQ", data)
    return f"BMC({interface},0x{base:x})"


def _acpi(data: bytes) -> str:
    hid, uid = struct.unpack_from("<II", data)
    known = _ACPI_NAMES.get(hid)
    return known.format(uid=uid) if known else f"Acpi(0x{hid:08x},0x{uid:x})"


def _acpi_expanded(data: bytes) -> str:
    hid, uid, cid = struct.unpack_from("<III", data)
    strings = [part.decode("ascii", "replace") for part in data[12:].split(b"\0")]
    if len(strings) < _EXPANDED_STRINGS:
        return f"AcpiEx(0x{hid:x},0x{cid:x},0x{uid:x})"
    hid_text, uid_text, cid_text = strings[:_EXPANDED_STRINGS]
    known = _ACPI_STRING_NAMES.get(hid)
    return known.format(uid=uid_text) if known else f"AcpiEx({hid_text},{cid_text},{uid_text})"


def _acpi_addresses(data: bytes) -> str:
    addresses = struct.unpack_from(f"<{len(data) // 4}I", data)
    return f"AcpiAdr({','.join(f'0x{address:x}' for address in addresses)})"


def _disk(data: bytes) -> str:
    partition, start, size, signature, _format, kind = struct.unpack_from("<IQQ16sBB", data)
    if kind == 1:
        name = f"MBR,0x{int.from_bytes(signature[:4], 'little'):x}"
    elif kind == 2:
        name = f"GPT,{guid_text(signature)}"
    else:
        name = f"{kind},{signature.hex()}"
    return f"HD({partition},{name},0x{start:x},0x{size:x})"


def _cdrom(data: bytes) -> str:
    entry, start, sectors = struct.unpack_from("<IQQ", data)
    return f"CDROM({entry},0x{start:x},0x{sectors:x})"


def _file(data: bytes) -> str:
    return f"File({node_name(data)})"


def _offset(data: bytes) -> str:
    first, last = struct.unpack_from("<QQ", data, 4)
    return f"Offset(0x{first:x},0x{last:x})"


def _ram_disk(data: bytes) -> str:
    start, end = struct.unpack_from("<QQ", data)
    kind = guid_text(data, 16)
    number = struct.unpack_from("<H", data, 32)[0]
    label = _RAM_DISKS.get(kind)
    return f"{label}(0x{start:x},0x{end:x},{number})" if label else f"Ramdisk(0x{start:x},0x{end:x},{number},{kind})"


def _bios_boot(data: bytes) -> str:
    device, status = struct.unpack_from("<HH", data)
    name = _BIOS_DEVICES[device] if 0 < device < len(_BIOS_DEVICES) else str(device)
    description = data[4:].split(b"\0", 1)[0].decode("ascii", "replace")
    return f"BBS({name},{description},0x{status:x})"


_NODES: Final[dict[int, dict[int, Callable[[bytes], str]]]] = {
    _HARDWARE: {
        0x01: _pci,
        0x02: lambda data: f"PcCard(0x{data[0]:x})",
        0x03: _memory,
        0x04: _hardware_vendor,
        0x05: lambda data: f"Ctrl(0x{struct.unpack_from('<I', data)[0]:x})",
        0x06: _bmc,
    },
    _ACPI: {0x01: _acpi, 0x02: _acpi_expanded, 0x03: _acpi_addresses},
    _MESSAGE: MESSAGE_NODES,
    _MEDIA: {
        0x01: _disk,
        0x02: _cdrom,
        0x03: lambda data: vendor_text("VenMedia", data),
        0x04: _file,
        0x05: lambda data: f"Media({guid_text(data)})",
        0x06: lambda data: f"FvFile({guid_text(data)})",
        0x07: lambda data: f"FvVol({guid_text(data)})",
        0x08: _offset,
        0x09: _ram_disk,
    },
    _BIOS: {0x01: _bios_boot},
}
_UNKNOWN_NAMES: Final = {
    _HARDWARE: "HardwarePath",
    _ACPI: "AcpiPath",
    _MESSAGE: "Msg",
    _MEDIA: "MediaPath",
    _BIOS: "BbsPath",
}
_HALF_SHOWN: Final = frozenset({_ACPI, _MEDIA})
"""Types of which libefivar shows only the first half of an unknown node."""
