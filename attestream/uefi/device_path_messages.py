"""Text form of messaging device path nodes (UEFI 2.10, section 10.3.4), as libefivar 37 writes it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from attestream.uefi.guid import guid_text
from attestream.uefi.node_text import node_name, vendor_text

_TERMINALS: Final = {
    "e0c14753-f9be-11d2-9a0c-0090273fc14d": "VenPcAnsi",
    "dfa66065-b419-11d3-9a2d-0090273fc14d": "VenVt100",
    "7baec70b-57e0-4c76-8e87-2f9e28088343": "VenVt100Plus",
    "ad15a0d6-8bec-4acf-a073-d01de77e2d88": "VenUtf8",
    "eba4e8d2-3858-41ec-a281-2647ba9660d0": "DebugPort",
}
_UART_FLOW_CONTROL: Final = "37499a9d-542f-4c89-a026-35da142094e4"
_FLOW_CONTROLS: Final = ("None", "Hardware", "XonXoff")
_USB_CLASSES: Final = {
    0x01: "UsbAudio",
    0x02: "UsbCDCControl",
    0x03: "UsbHID",
    0x06: "UsbImage",
    0x07: "UsbPrinter",
    0x08: "UsbMassStorage",
    0x09: "UsbHub",
    0x0A: "UsbCDCData",
    0x0B: "UsbSmartCard",
    0x0E: "UsbVideo",
    0xDC: "UsbDiagnostic",
    0xDE: "UsbWireless",
}
_USB_SUBCLASSES: Final = {0x01: "UsbDeviceFirmwareUpdate", 0x02: "UsbIrdaBridge", 0x03: "UsbTestAndMeasurement"}
_USB_APPLICATION_SPECIFIC: Final = 0xFE
_PARITIES: Final = "DNEOMS"
_STOP_BITS: Final = ("D", "1", "1.5", "2")
_ISCSI_NAME_BYTES: Final = 223


def _numbers(label: str, layout: str) -> Callable[[bytes], str]:
    """Return a decoder for a node that is shown as decimal numbers, laid out as :mod:`struct` says in ``layout``."""
    fields = struct.Struct(layout)

    def decode(data: bytes) -> str:
        return f"{label}({','.join(map(str, fields.unpack_from(data)))})"

    return decode


def _fibre(layout: str) -> Callable[[bytes], str]:
    fields = struct.Struct(layout)

    def decode(data: bytes) -> str:
        name, unit = fields.unpack_from(data)
        return f"Fibre({name:x},{unit:x})"

    return decode


def _network_card(data: bytes) -> str:
    kind = data[32]
    return f"MAC({data[: 6 if kind < 2 else 32].hex()},{kind})"


def _ipv4(data: bytes) -> str:
    local, remote, local_port, remote_port, protocol, static = struct.unpack_from("<4s4sHHHB", data)
    return f"IPv4({_ipv4_end(local, local_port)}{_ipv4_end(remote, remote_port)},{protocol:x},{static:x})"


def _ipv4_end(address: bytes, port: int) -> str:
    return ".".join(map(str, address)) + (f":{port}" if port else "")


def _vendor(data: bytes) -> str:
    kind = guid_text(data)
    if kind == _UART_FLOW_CONTROL:
        value = struct.unpack_from("<I", data, 16)[0]
        return f"UartFlowControl({_FLOW_CONTROLS[value] if value < len(_FLOW_CONTROLS) else value})"
    label = _TERMINALS.get(kind)
    return f"{label}({data[16:].hex()})" if label else vendor_text("VenMsg", data)


def _uart(data: bytes) -> str:
    rate, bits, parity, stop = struct.unpack_from("<QBBB", data, 4)
    shown_parity = _PARITIES[parity] if parity < len(_PARITIES) else str(parity)
    shown_stop = _STOP_BITS[stop] if stop < len(_STOP_BITS) else str(stop)
    return f"Uart({rate or 115200},{bits or 8},{shown_parity},{shown_stop})"


def _usb_class(data: bytes) -> str:
    vendor, product, device_class, subclass, protocol = struct.unpack_from("<HHBBB", data)
    if device_class == _USB_APPLICATION_SPECIFIC:
        label = _USB_SUBCLASSES.get(subclass)
        return f"{label}(0x{vendor:x},0x{product:x},{protocol})" if label else ""
    known = _USB_CLASSES.get(device_class)
    if known:
        return f"{known}(0x{vendor:x},0x{product:x},{subclass},{protocol})"
    return f"UsbClass({vendor:x},{product:x},{subclass},{protocol})"


def _usb_serial(data: bytes) -> str:
    interface, vendor, product = struct.unpack_from("<HHH", data)
    return f"UsbWwid({vendor:x},{product:x},{interface},{node_name(data[6:])})"


def _iscsi(data: bytes) -> str:
    protocol, options, unit, group = struct.unpack_from("<HH8sH", data)
    name = data[14 : 14 + _ISCSI_NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")
    header = "CRC32" if options & 2 else "None"
    body = "CRC32" if options >> 2 & 2 else "None"
    challenge = "CHAP_UNI" if options >> 12 & 1 else "CHAP_BI"
    login = "None" if options >> 10 & 2 else challenge
    transport = "Unknown" if protocol else "TCP"
    return f"iSCSI({name},{group},0x{int.from_bytes(unit, 'big'):x},{header},{body},{login},{transport})"


def _nvme(data: bytes) -> str:
    namespace, identifier = struct.unpack_from("<I8s", data)
    return f"NVMe(0x{namespace:x},{identifier.hex('-').upper()})"


def _uri(data: bytes) -> str:
    return f"Uri({data.split(bytes(1), 1)[0].decode('utf-8', 'replace')})"


def _ufs(data: bytes) -> str:
    return f"UFS({data[0]},0x{data[1]:02x})"


def _bluetooth_le(data: bytes) -> str:
    return f"BluetoothLE({data[:6].hex(':')},{data[6]})"


MESSAGE_NODES: Final[dict[int, Callable[[bytes], str]]] = {
    0x01: _numbers("Ata", "<BBH"),
    0x02: _numbers("SCSI", "<HH"),
    0x03: _fibre("<4xQQ"),
    0x04: lambda data: f"I1394(0x{struct.unpack_from('<Q', data, 4)[0]:x})",
    0x05: _numbers("USB", "<BB"),
    0x06: _numbers("I2O", "<i"),
    0x0A: _vendor,
    0x0B: _network_card,
    0x0C: _ipv4,
    0x0E: _uart,
    0x0F: _usb_class,
    0x10: _usb_serial,
    0x11: _numbers("Unit", "<B"),
    0x12: _numbers("Sata", "<HHH"),
    0x13: _iscsi,
    0x14: _numbers("Vlan", "<H"),
    0x15: _fibre(">4xQQ"),
    0x17: _nvme,
    0x18: _uri,
    0x19: _ufs,
    0x1A: _numbers("SD", "<B"),
    0x1B: lambda data: f"Bluetooth({data[:6].hex(':')})",
    0x1C: lambda data: f"Wi-Fi({data[:32].hex(':')})",
    0x1D: _numbers("eMMC", "<B"),
    0x1E: _bluetooth_le,
    0x20: lambda data: f"NVDIMM({guid_text(data)})",
}
"""Subtype -> decoder of the node's data."""
