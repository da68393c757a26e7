"""Parts that the text forms of device path nodes share."""

from __future__ import annotations

from attestream.uefi.guid import guid_text


def vendor_text(label: str, data: bytes) -> str:
    """Return the text of a vendor-defined node: GUID, and what follows it in hexadecimal."""
    rest = data[16:].hex()
    return f"{label}({guid_text(data)}{',' if rest else ''}{rest})"


def node_name(data: bytes) -> str:
    """Return the UTF-16LE string in ``data`` up to its NUL; the last code unit is taken for that even if it is not."""
    units = len(data) // 2 * 2
    return data[: max(units - 2, 0)].decode("utf-16-le", "replace").split("\0", 1)[0]
