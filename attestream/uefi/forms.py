"""The dictionary form of signatures, of which a dbx has hundreds, and forms that are made before a log comes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from attestream.uefi.frozen import FrozenDict, SignatureForms
from attestream.uefi.scalars import plain
from attestream.uefi.signatures import OWNER_SIZE, Owners, SignatureList


class Forms(NamedTuple):
    """Forms that a log is expected to need: each is what its bytes give, so they only save time."""

    signatures: Mapping[bytes, FrozenDict]
    """EFI_SIGNATURE_DATA -> its form."""
    lists: Mapping[tuple[int, bytes], SignatureForms]
    """Size of each signature, and all of them -> their forms: a log of a known model has the very list of the policy."""


NO_FORMS: Final = Forms({}, {})


def prepared_forms(variables: Iterable[Iterable[Mapping[str, str]]]) -> Forms:
    """Return the forms of the signatures of each of ``variables``: ``SignatureOwner`` and ``SignatureData`` in hexadecimal.

    What is no GUID or no hexadecimal text is in no log and left out.
    """
    owners = Owners()
    signatures: dict[bytes, FrozenDict] = {}
    lists: dict[tuple[int, bytes], SignatureForms] = {}
    for variable in variables:
        pieces = [raw for signature in variable if (raw := _bytes_of(signature))]
        # Made of the bytes as that of any other: a form is right for them whatever the text looked like.
        signatures |= {raw: FrozenDict(signature_form(raw, owners)) for raw in pieces}
        if len(set(map(len, pieces))) == 1:
            lists[len(pieces[0]), b"".join(pieces)] = SignatureForms([signatures[raw] for raw in pieces], frozenset(pieces))
    return Forms(signatures, lists)


def _bytes_of(signature: Mapping[str, str]) -> bytes:
    try:
        return uuid.UUID(signature["SignatureOwner"]).bytes_le + bytes.fromhex(signature["SignatureData"])
    except (AttributeError, TypeError, ValueError):  # not even text, or another text
        return b""


def signature_form(raw: bytes, owners: Owners) -> dict[str, Any]:
    """Return the form of the EFI_SIGNATURE_DATA ``raw``."""
    text = raw[OWNER_SIZE:].hex()
    data = text if text and not text.isdigit() else plain(text)
    return {"SignatureOwner": owners[raw[:OWNER_SIZE]], "SignatureData": data}


def list_form(found: SignatureList, owners: Owners, forms: Forms) -> SignatureForms | None:
    """Return the forms of the signatures in ``found``; None when there are none."""
    whole = forms.lists.get((found.signature_size, found.body))
    if whole is not None:
        return whole
    pieces, known = found.pieces(), forms.signatures
    return SignatureForms([known.get(raw) or signature_form(raw, owners) for raw in pieces], pieces) if pieces else None
