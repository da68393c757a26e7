"""The ``Event`` of the dictionary form for each event type (see :mod:`attestream.uefi.dictionary`)."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from attestream.errors import MalformedError
from attestream.uefi import kinds
from attestream.uefi.device_path import device_path_text
from attestream.uefi.forms import NO_FORMS, Forms, list_form, signature_form
from attestream.uefi.guid import guid_text
from attestream.uefi.log import Event
from attestream.uefi.replay import STARTUP_LOCALITY
from attestream.uefi.scalars import block, c_text, plain, string_text, utf16_text
from attestream.uefi.signatures import OWNER_SIZE, Owners, parse_signature_lists
from attestream.uefi.variables import Variable, is_boot_option, parse_boot_order, parse_load_option, parse_variable

_BLOB: Final = Struct("<QQ")
_IMAGE_LOAD: Final = Struct("<QQQQ")
_GPT_HEADER: Final = Struct("<8sIIIIQQQQ16sQIIIQ")
_GPT_ENTRY: Final = Struct("<16s16sQQQ72s")
_SHOWN_BYTES: Final = 1024
"""Data of events that are not decoded is cut off here."""
_DER_CERTIFICATE: Final = b"\x30\x82"
"""Begin of a DER SEQUENCE whose length has two bytes."""
_VENDOR_DB_HEADER: Final = 100
_SIGNATURE_VARIABLES: Final = frozenset({"PK", "KEK", "db", "dbx"})


def event_contents(event: Event, forms: Forms = NO_FORMS) -> Any:
    """Return what the dictionary form shows for the data of ``event``, which is not empty.

    ``forms``, of :func:`attestream.uefi.forms.prepared_forms`, only save time.

    :raises MalformedError: when the data is not what the event type says.
    """
    decode = _DECODERS.get(event.kind)
    if decode is not None:
        return decode(event)
    return _variable(event, forms) if event.kind in kinds.VARIABLES else event.data[:_SHOWN_BYTES].hex()


def _variable(event: Event, forms: Forms) -> dict[str, Any]:
    variable = parse_variable(event)
    described: dict[str, Any] = {
        "VariableName": variable.vendor,
        "UnicodeNameLength": variable.name_units,
        "VariableDataLength": len(variable.data),
        "UnicodeName": plain(variable.name),
    }
    decode = _VARIABLE_DECODERS[event.kind].get("Boot####" if is_boot_option(variable.name) else variable.name)
    if event.kind == kinds.EFI_VARIABLE_DRIVER_CONFIG and variable.name in _SIGNATURE_VARIABLES:
        described["VariableData"] = _signature_lists(event, variable, forms)
    elif decode:
        described["VariableData"] = decode(event, variable)
    elif variable.data:
        described["VariableData"] = variable.data.hex()
    return described


def _switch(event: Event, variable: Variable) -> dict[str, str]:
    if len(variable.data) > 1:
        raise _malformed(event, f"a {variable.name} of {len(variable.data)} bytes instead of one")
    return {"Enabled": "Yes" if any(variable.data) else "No"}


def _signature_lists(event: Event, variable: Variable, forms: Forms) -> list[dict[str, Any]] | None:
    lists = parse_signature_lists(variable.data, f"{variable.name} in event {event.number} of the event log")
    owners = Owners()
    return [
        {
            "SignatureType": found.kind,
            "SignatureListSize": found.size,
            "SignatureHeaderSize": 0,
            "SignatureSize": found.signature_size,
            "Keys": list_form(found, owners, forms),
        }
        for found in lists
    ] or None


def _authority(event: Event, variable: Variable) -> list[dict[str, Any]]:
    if len(variable.data) < OWNER_SIZE:
        raise _malformed(event, f"a signature of {len(variable.data)} bytes")
    return [signature_form(variable.data, Owners())]


def _sbat_level(_event: Event, variable: Variable) -> dict[str, str]:
    return {"String": string_text(variable.data)}


def _boot_order(event: Event, variable: Variable) -> list[str] | None:
    return parse_boot_order(event, variable.data) or None


def _boot_option(event: Event, variable: Variable) -> dict[str, Any]:
    option = parse_load_option(event, variable.data)
    return {
        "Enabled": "Yes" if option.active else "No",
        "FilePathListLength": option.path_size,
        "Description": option.description,
        "DevicePath": option.rest.hex(),
    }


def _vendor_db(_event: Event, variable: Variable) -> Any:
    """Return the certificates in a shim's vendor_db: each a GUID, at most 100 bytes of list header, and a DER certificate.

    Data that does not begin so is shown in hexadecimal.
    """
    data = variable.data
    found: list[dict[str, str]] = []
    at = 0
    while True:
        start = at + OWNER_SIZE
        first = data.find(_DER_CERTIFICATE, start, min(start + _VENDOR_DB_HEADER + 1, len(data) - 1))
        end = first + 4 + int.from_bytes(data[first + 2 : first + 4], "big")
        if first < 0 or end > len(data):
            break
        found.append({"SignatureOwner": guid_text(data, at), "SignatureData": data[start:end].hex()})
        at = end
    return found or data.hex()


_CONFIG_VARIABLES: Final[dict[str, Callable[[Event, Variable], Any]]] = {"SecureBoot": _switch}
_BOOT_VARIABLES: Final[dict[str, Callable[[Event, Variable], Any]]] = {"BootOrder": _boot_order, "Boot####": _boot_option}
_AUTHORITY_VARIABLES: Final[dict[str, Callable[[Event, Variable], Any]]] = {
    "MokListTrusted": _switch,
    "db": _authority,
    "Shim": _authority,
    "SbatLevel": _sbat_level,
    "vendor_db": _vendor_db,
}
_VARIABLE_DECODERS: Final = {
    kinds.EFI_VARIABLE_DRIVER_CONFIG: _CONFIG_VARIABLES,
    kinds.EFI_VARIABLE_BOOT: _BOOT_VARIABLES,
    kinds.EFI_VARIABLE_BOOT2: _BOOT_VARIABLES,
    kinds.EFI_VARIABLE_AUTHORITY: _AUTHORITY_VARIABLES,
}


def _post_code(event: Event) -> Any:
    return _firmware_blob(event) if len(event.data) == _BLOB.size else block(event.data)


def _firmware_blob(event: Event) -> dict[str, int]:
    if len(event.data) < _BLOB.size:
        raise _malformed(event, f"{len(event.data)} bytes: too few for a firmware blob")
    base, size = _BLOB.unpack_from(event.data)
    return {"BlobBase": base, "BlobLength": size}


def _firmware_blob2(event: Event) -> dict[str, Any]:
    size = event.data[0]
    if len(event.data) < 1 + size + _BLOB.size:
        raise _malformed(event, f"{len(event.data)} bytes: too few for a firmware blob")
    base, length = _BLOB.unpack_from(event.data, 1 + size)
    # The tool drops the last byte of the description, which is most often its NUL.
    description = event.data[1 : max(size, 1)].hex()
    return {"BlobDescriptionSize": size, "BlobDescription": description, "BlobBase": base, "BlobLength": length}


def _action(event: Event) -> str:
    return block(event.data)


def _ipl(event: Event) -> dict[str, str]:
    return {"String": string_text(event.data)}


def _image_load(event: Event) -> dict[str, Any]:
    if len(event.data) < _IMAGE_LOAD.size:
        raise _malformed(event, f"{len(event.data)} bytes: too few for an image load")
    location, length, link_address, path_size = _IMAGE_LOAD.unpack_from(event.data)
    path = event.data[_IMAGE_LOAD.size :]
    text = device_path_text(path[:path_size])
    return {
        "ImageLocationInMemory": location,
        "ImageLengthInMemory": length,
        "ImageLinkTimeAddress": link_address,
        "LengthOfDevicePath": path_size,
        "DevicePath": path.hex() if text is None else text,
    }


def _gpt(event: Event) -> dict[str, Any]:
    body = event.data
    if len(body) < _GPT_HEADER.size:
        raise _malformed(event, f"{len(body)} bytes: too few for a partition table")
    header = _GPT_HEADER.unpack_from(body)
    count = header[-1]
    if len(body) - _GPT_HEADER.size != count * _GPT_ENTRY.size:
        raise _malformed(event, f"{len(body)} bytes, which {count} partitions do not fill")
    names = ("Revision", "HeaderSize", "HeaderCRC32", "", "MyLBA", "AlternateLBA", "FirstUsableLBA", "LastUsableLBA")
    fields: dict[str, Any] = {"Signature": c_text(header[0])}
    fields.update({name: value for name, value in zip(names, header[1:9], strict=True) if name})
    fields["DiskGUID"] = guid_text(header[9])
    tail = ("PartitionEntryLBA", "NumberOfPartitionEntry", "SizeOfPartitionEntry", "PartitionEntryArrayCRC32")
    fields.update(zip(tail, header[10:14], strict=True))
    partitions = [
        {
            "PartitionTypeGUID": guid_text(kind),
            "UniquePartitionGUID": guid_text(unique),
            "StartingLBA": first,
            "EndingLBA": last,
            "Attributes": attributes,
            "PartitionName": utf16_text(name),
        }
        for kind, unique, first, last, attributes, name in _GPT_ENTRY.iter_unpack(body[_GPT_HEADER.size :])
    ]
    return {"Header": fields, "NumberOfPartitions": count, "Partitions": partitions or None}


def _no_action(event: Event) -> Any:
    if len(event.data) > len(STARTUP_LOCALITY) and event.data.startswith(STARTUP_LOCALITY):
        return {"StartupLocality": event.data[len(STARTUP_LOCALITY)]}
    return event.data[:_SHOWN_BYTES].hex()


def _malformed(event: Event, what: str) -> MalformedError:
    return MalformedError(f"event {event.number} of the event log, at byte {event.offset}, has {what}")


_DECODERS: Final[dict[int, Callable[[Event], Any]]] = {
    kinds.POST_CODE: _post_code,
    kinds.S_CRTM_CONTENTS: _firmware_blob,
    kinds.EFI_PLATFORM_FIRMWARE_BLOB: _firmware_blob,
    kinds.EFI_PLATFORM_FIRMWARE_BLOB2: _firmware_blob2,
    kinds.EFI_ACTION: _action,
    kinds.IPL: _ipl,
    **dict.fromkeys(kinds.IMAGE_LOADS, _image_load),
    kinds.EFI_GPT_EVENT: _gpt,
    kinds.NO_ACTION: _no_action,
}
