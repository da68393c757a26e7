"""Framing of UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.06, section 10.2.6) and EFI_LOAD_OPTION."""

from __future__ import annotations

import re
from struct import Struct
from typing import Final

import msgspec

from attestream.errors import MalformedError
from attestream.uefi.guid import guid_text
from attestream.uefi.log import Event
from attestream.uefi.scalars import utf16_text

_HEADER: Final = Struct("<16sQQ")
_LOAD_OPTION: Final = Struct("<IH")
_BOOT_NUMBER: Final = re.compile(r"Boot[0-9a-fA-F]{4}")
_ACTIVE: Final = 1


class Variable(msgspec.Struct, frozen=True, gc=False):
    """A measured UEFI variable. ``vendor`` is the GUID of its namespace; ``name_units`` counts UTF-16 code units."""

    vendor: str
    name: str
    name_units: int
    data: bytes


class LoadOption(msgspec.Struct, frozen=True, gc=False):
    """EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3). ``rest`` is the device path list and the optional data behind it."""

    active: bool
    path_size: int
    description: str
    rest: bytes

    @property
    def device_path(self) -> bytes:
        """The device path list alone."""
        return self.rest[: self.path_size]


def parse_variable(event: Event) -> Variable:
    """Return the variable in ``event``. Bytes behind its data are left out: some firmware pads.

    :raises MalformedError: when the event is too short for what it declares.
    """
    body = event.data
    if len(body) < _HEADER.size:
        raise _too_short(event, "a UEFI variable")
    _vendor, name_units, size = _HEADER.unpack_from(body)
    start = _HEADER.size + 2 * name_units
    if start + size > len(body):
        raise _too_short(event, "its UEFI variable")
    return Variable(guid_text(body), utf16_text(body[_HEADER.size : start]), name_units, body[start : start + size])


def is_boot_option(name: str) -> bool:
    """Whether ``name`` is that of a load option: Boot####."""
    return name.startswith("Boot") and _BOOT_NUMBER.fullmatch(name) is not None


def parse_boot_order(event: Event, data: bytes) -> list[str]:
    """Return the names that the BootOrder variable with ``data`` lists, for example ``Boot0001``.

    :raises MalformedError: when the data is not whole 16-bit numbers.
    """
    if len(data) % 2:
        raise MalformedError(f"event {event.number} of the event log has a boot order of {len(data)} bytes, an odd number")
    return [f"Boot{int.from_bytes(data[at : at + 2], 'little'):04x}" for at in range(0, len(data), 2)]


def parse_load_option(event: Event, data: bytes) -> LoadOption:
    """Return the load option that a Boot#### variable with ``data`` holds.

    :raises MalformedError: when it is too short or its description does not end.
    """
    if len(data) < _LOAD_OPTION.size:
        raise _too_short(event, "a load option")
    attributes, path_size = _LOAD_OPTION.unpack_from(data)
    end = _LOAD_OPTION.size
    while True:
        end = data.find(b"\0\0", end)
        if end < 0:
            raise _too_short(event, "the description of its load option")
        if end % 2 == 0:
            break
        end += 1
    description = data[_LOAD_OPTION.size : end].decode("utf-16-le", "replace")
    return LoadOption(bool(attributes & _ACTIVE), path_size, description, data[end + 2 :])


def _too_short(event: Event, what: str) -> MalformedError:
    return MalformedError(
        f"event {event.number} of the event log, at byte {event.offset}, has {len(event.data)} bytes: too few for {what}"
    )
