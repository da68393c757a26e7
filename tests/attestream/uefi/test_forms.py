"""Forms of signatures are the same whether they were made before a log came or for it."""

import uuid

import pytest

from attestream.uefi.forms import NO_FORMS, list_form, prepared_forms, signature_form
from attestream.uefi.guid import CERT_SHA256
from attestream.uefi.scalars import plain
from attestream.uefi.signatures import Owners, SignatureList, parse_signature_lists
from devtools.boot_log import signature_list
from devtools.grub_boot import OWNER

DIGESTS = [bytes([number]) * 32 for number in (0x12, 0xAB, 0xCD)]
FORMS = prepared_forms([[{"SignatureOwner": OWNER, "SignatureData": digest.hex()} for digest in DIGESTS]])


def listed(digests) -> SignatureList:
    [found] = parse_signature_lists(signature_list(CERT_SHA256, OWNER, digests), "dbx")
    return found


@pytest.mark.parametrize("digests", [DIGESTS, DIGESTS[1:], DIGESTS[::-1], [*DIGESTS, bytes(32)], [bytes(32)], []])
def test_what_is_prepared_is_what_would_have_been_made(digests):
    found = listed(digests)
    prepared, made = list_form(found, Owners(), FORMS), list_form(found, Owners(), NO_FORMS)
    assert prepared == made
    assert not made or set(prepared.pieces) == set(made.pieces) == set(found.pieces())


def test_the_same_bytes_are_another_list_when_its_signatures_have_another_size():
    found = listed(DIGESTS[:2])
    one = SignatureList(found.kind, found.size, 2 * found.signature_size, found.body)
    forms = prepared_forms([[{"SignatureOwner": OWNER, "SignatureData": digest.hex()} for digest in DIGESTS[:2]]])
    assert [len(list_form(shown, Owners(), forms)) for shown in (found, one)] == [2, 1]


def test_what_no_log_can_have_is_not_prepared():
    odd = [("nobody", "ab"), (OWNER, "no digits"), (1, "ab"), (OWNER, None)]
    assert prepared_forms([[{"SignatureOwner": owner, "SignatureData": data} for owner, data in odd]]) == NO_FORMS


@pytest.mark.parametrize("data", [b"", b"\x12", b"\x1a", b"\x00\x10", b"\xab\xcd"])
def test_the_form_of_data_is_that_of_its_text(data):
    assert signature_form(uuid.UUID(OWNER).bytes_le + data, Owners())["SignatureData"] == plain(data.hex())
