"""Reference values from lists: flat lists of digests, and the IMA logs of machines in good order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import WEAK, digest_text
from attestream.ima.keys import load_key, looks_like_key
from attestream.ima.log import Entry, read_ascii, read_binary
from attestream.ima.templates import MAX_PATH_BYTES
from attestream.interop.native import named_digest
from attestream.reference.collected import Collected

BOOT_AGGREGATE: Final = "boot_aggregate"
_KEYRING: Final = "%keyring:"


def add_flat_list(text: str, into: Collected) -> int:
    """Add the lines of a flat list, ``digest path`` each as ``sha256sum`` writes them, and return their number.

    A digest may name its algorithm (``sha256:...``); otherwise its size tells. ``%keyring:NAME`` in place of a path stands
    for a key. Empty lines and those that start with # are left out.

    :raises PolicyError: naming the line that is something else, or has a weak digest.
    """
    count = 0
    for number, line in enumerate(_lines(text), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        pieces = stripped.split(None, 1)
        place = f"line {number}"
        if len(pieces) != 2:
            raise PolicyError(f"{place}: is not a digest and a path")
        digest = named_digest(pieces[0], place)
        _check_hex(digest, place)
        # sha256sum marks files that it read as binary with an asterisk.
        path = pieces[1][1:] if pieces[1].startswith("*/") else pieces[1]
        if path.startswith(_KEYRING):
            into.add_key(path.removeprefix(_KEYRING), digest)
        elif len(path) > MAX_PATH_BYTES:
            raise PolicyError(f"{place}: the path is longer than {MAX_PATH_BYTES} bytes")
        else:
            into.add(path.replace(" ", "_"), digest)
        count += 1
    return count


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of ``text`` one by one: short ones take many times their size when all are there at once."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _check_hex(digest: str, place: str) -> None:
    algorithm, _, value = digest.rpartition(":")
    if algorithm in WEAK:
        raise PolicyError(f"{place}: {algorithm} is too weak to tell files apart")
    try:
        bytes.fromhex(value)
    except ValueError as error:
        raise PolicyError(f"{place}: {value[:64]!r} is not hexadecimal") from error


def looks_ascii(log: bytes) -> bool:
    """Return whether an IMA log is in the ASCII form: its first line starts with the number of a PCR and a digest in hex."""
    start = log[:4].lstrip(b" ")
    return start[:1].isdigit()


def add_measurements(log: bytes, into: Collected, *, ascii_form: bool | None = None, boot_aggregate: bool = True) -> int:
    """Add what an IMA log of a machine in good order shows, and return the number of entries.

    :param ascii_form: which form the log has; None to find out.
    :param boot_aggregate: whether the entry over the boot's PCRs is taken as well: most machines have one of their own.
    :raises MalformedError: when the log can not be read, or an entry's template digest is not that of its data.
    """
    if ascii_form is None:
        ascii_form = looks_ascii(log)
    entries = read_ascii(log, "sha256") if ascii_form else read_binary(log, "sha256")
    count = 0
    for entry in entries:
        if not entry.consistent:
            raise MalformedError(f"entry {count} of the log has a template digest that is not that of its data")
        _add_entry(entry, into, boot_aggregate=boot_aggregate)
        count += 1
    return count


def _add_entry(entry: Entry, into: Collected, *, boot_aggregate: bool) -> None:
    # Bytes that are not UTF-8 travel as lone surrogates, which JSON can escape.
    path, digest = entry.path.decode("utf-8", "surrogateescape"), digest_text(entry.digest)
    algorithm = digest.rpartition(":")[0].removeprefix("verity:")
    if entry.violation:
        into.remark(f"{path} was measured while it was written to; it is left out")
    elif algorithm in WEAK:
        into.remark(f"{path} has only a digest by {algorithm}, which is too weak; it is left out")
    elif entry.buffer is None:
        if boot_aggregate or path != BOOT_AGGREGATE:
            into.add(path, digest)
    elif _is_key(entry.buffer):
        into.add_key(path, digest)
    else:
        into.add_buffer(path, digest)


def _is_key(buffer: bytes) -> bool:
    try:
        return looks_like_key(buffer) and load_key(buffer) is not None
    except MalformedError:
        return False
