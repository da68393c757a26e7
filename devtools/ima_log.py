"""Builds records of the kernel's IMA measurement log, byte for byte as ``security/integrity/ima/ima_fs.c`` shows them.

Used by tests, the demo, the benchmark and the IMA emulator, so that one place knows how a kernel writes its log.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

_FIELDS: Final = {"ima-ng": ("d-ng", "n-ng"), "ima-sig": ("d-ng", "n-ng", "sig")}


class Record(NamedTuple):
    """One entry of the log in both of its forms."""

    binary: bytes
    """As in ``binary_runtime_measurements``, little-endian."""
    ascii: str
    """As in ``ascii_runtime_measurements``, without the newline."""
    template_data: bytes
    """What the template digests cover."""
    violation: bool = False
    pcr: int = 10


def record(
    path: str,
    digest: bytes,
    *,
    hash_name: str = "sha256",
    template: str = "ima-ng",
    signature: bytes = b"",
    pcr: int = 10,
) -> Record:
    """Return the record of a measured file.

    :param digest: of the file's content by ``hash_name`` (a kernel name: ``sha1``, ``sha256``, ``sha512``...).
    :param signature: the file's ``security.ima`` value; only ``ima-sig`` records it.
    :raises ValueError: when the template is not ``ima-ng`` or ``ima-sig``.
    """
    name = _recorded_name(path)
    data = _template_data(template, hash_name, digest, name, signature)
    return _record(pcr, hashlib.sha1(data).digest(), template, data, f"{hash_name}:{digest.hex()}", name, signature)


def violation(path: str, *, template: str = "ima-ng", pcr: int = 10) -> Record:
    """Return the record of a violation (a file opened for writing while measured, or the reverse).

    The kernel logs zeros for the template digest and the file digest, and extends ones.

    :raises ValueError: when the template is not ``ima-ng`` or ``ima-sig``.
    """
    name = _recorded_name(path)
    digest = bytes(32)
    data = _template_data(template, "sha256", digest, name, b"")
    made = _record(pcr, bytes(20), template, data, f"sha256:{digest.hex()}", name, b"")
    return made._replace(violation=True)


def extend_value(record: Record, bank: str) -> bytes:
    """Return what the kernel extends into PCR ``record.pcr`` of ``bank``.

    That is the bank's digest of the template data, or ones for a violation (``ima_queue.c``, ``ima_add_template_entry``).
    """
    digest = hashlib.new(bank, record.template_data).digest()
    return b"\xff" * len(digest) if record.violation else digest


def _recorded_name(path: str) -> bytes:
    # The kernel replaces spaces, so that the ASCII form stays parsable (ima_template_lib.c, ima_write_template_field_data).
    return path.replace(" ", "_").encode("utf-8", "surrogateescape")


def _template_data(template: str, hash_name: str, digest: bytes, name: bytes, signature: bytes) -> bytes:
    if template not in _FIELDS:
        raise ValueError(f"{template!r} is not a template that this tool writes: {', '.join(_FIELDS)}")
    fields = {"d-ng": hash_name.encode("ascii") + b":\x00" + digest, "n-ng": name + b"\x00", "sig": signature}
    return b"".join(_sized(fields[field]) for field in _FIELDS[template])


def _record(
    pcr: int, template_digest: bytes, template: str, data: bytes, digest_text: str, name: bytes, signature: bytes
) -> Record:
    binary = pcr.to_bytes(4, "little") + template_digest + _sized(template.encode("ascii")) + _sized(data)
    text = f"{pcr:2d} {template_digest.hex()} {template} {digest_text} {name.decode('utf-8', 'surrogateescape')}"
    if template == "ima-sig":
        text += f" {signature.hex()}"
    return Record(binary, text, data, pcr=pcr)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data
