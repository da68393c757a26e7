"""EFI_SIGNATURE_LIST: the contents of PK, KEK, db, dbx and the MOK lists (UEFI 2.10, section 32.4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, iter_unpack
from typing import Final, NamedTuple

import msgspec

from attestream.errors import MalformedError, UnsupportedError
from attestream.uefi.guid import guid_text

_LIST: Final = Struct("<16sIII")
OWNER_SIZE: Final = 16
"""Bytes of the SignatureOwner GUID before each signature's data."""


class Signature(NamedTuple):
    """EFI_SIGNATURE_DATA: who put it there (GUID) and a digest or certificate."""

    owner: str
    data: bytes


class SignatureList(msgspec.Struct, frozen=True, gc=False):
    """One EFI_SIGNATURE_LIST. ``kind`` is the GUID of the signatures' type, ``size`` that of the list in bytes.

    ``body`` has the signatures, of ``signature_size`` bytes each and no bytes left over. They are taken apart when they are
    asked for: a database of forbidden images has hundreds.
    """

    kind: str
    size: int
    signature_size: int
    body: bytes

    def pieces(self) -> list[bytes]:
        """Return the signatures, in order: owner (a GUID of 16 bytes) and data in one."""
        size, body = self.signature_size, self.body
        return [body[at : at + size] for at in range(0, len(body), size)]

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Return owner (a GUID of 16 bytes) and data of each signature, in order."""
        return iter_unpack(f"<{OWNER_SIZE}s{self.signature_size - OWNER_SIZE}s", self.body)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The signatures, in order."""
        owners = Owners()
        return tuple([Signature(owners[owner], data) for owner, data in self.pairs()])


class Owners(dict[bytes, str]):
    """GUID of 16 bytes -> its text, made once: most signatures of a database have one owner."""

    def __missing__(self, raw: bytes) -> str:
        self[raw] = guid_text(raw)
        return self[raw]


def parse_signature_lists(data: bytes, what: str) -> tuple[SignatureList, ...]:
    """Return the signature lists in ``data``, which they fill exactly. ``what`` names it in errors.

    :raises UnsupportedError: when a list has a signature header. No type defines one, and a parser that skips it can be
        made to read keys where the firmware reads none (GHSA-9r4w-jg96-92mv).
    :raises MalformedError: when sizes do not fit.
    """
    lists: list[SignatureList] = []
    at = 0
    while at < len(data):
        if at + _LIST.size > len(data):
            raise MalformedError(f"{what} ends within the header of a signature list, at byte {at}")
        _kind, size, header_size, signature_size = _LIST.unpack_from(data, at)
        if header_size:
            raise UnsupportedError(f"{what} has a signature list with a header of {header_size} bytes, at byte {at}")
        if size < _LIST.size or at + size > len(data):
            raise MalformedError(f"{what} has a signature list of {size} bytes, at byte {at} of {len(data)}")
        if signature_size <= OWNER_SIZE or (size - _LIST.size) % signature_size:
            raise MalformedError(f"{what} has a signature list with signatures of {signature_size} bytes, at byte {at}")
        lists.append(SignatureList(guid_text(data, at), size, signature_size, data[at + _LIST.size : at + size]))
        at += size
    return tuple(lists)
