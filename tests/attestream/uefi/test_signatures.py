from struct import pack

import pytest

from attestream.errors import MalformedError, UnsupportedError
from attestream.uefi.guid import CERT_SHA256, CERT_X509
from attestream.uefi.signatures import Signature, parse_signature_lists
from devtools.boot_log import guid, signature_list
from devtools.sample_boot import OWNER


def test_reads_lists_of_several_kinds():
    data = signature_list(CERT_X509, OWNER, [b"certificate"]) + signature_list(CERT_SHA256, OWNER, [b"\1" * 32, b"\2" * 32])
    first, second = parse_signature_lists(data, "db")
    assert first.kind == CERT_X509
    assert first.signatures == (Signature(OWNER, b"certificate"),)
    assert second.kind == CERT_SHA256
    assert [signature.data for signature in second.signatures] == [b"\1" * 32, b"\2" * 32]
    assert parse_signature_lists(b"", "db") == ()
    assert parse_signature_lists(signature_list(CERT_SHA256, OWNER, []), "dbx")[0].signatures == ()


def test_signature_header_is_refused_ghsa_9r4w_jg96_92mv():
    with pytest.raises(UnsupportedError, match="header"):
        parse_signature_lists(signature_list(CERT_SHA256, OWNER, [b"\1" * 32], header=bytes(48)), "db")


GOOD = signature_list(CERT_SHA256, OWNER, [b"\1" * 32])


@pytest.mark.parametrize(
    "data",
    [
        GOOD + b"\0",
        GOOD[:-1],
        GOOD[:20],
        guid(CERT_SHA256) + pack("<III", 27, 0, 48),
        guid(CERT_SHA256) + pack("<III", 0xFFFFFFFF, 0, 48),
        guid(CERT_SHA256) + pack("<III", 76, 0, 0) + bytes(48),
        guid(CERT_SHA256) + pack("<III", 76, 0, 16) + bytes(48),
        guid(CERT_SHA256) + pack("<III", 76, 0, 47) + bytes(48),
        guid(CERT_SHA256) + pack("<III", 76, 0, 0xFFFFFFFF) + bytes(48),
    ],
    ids=["trailing", "short", "header", "size-small", "size-large", "zero", "owner-only", "uneven", "huge"],
)
def test_refuses_sizes_that_do_not_fit(data):
    with pytest.raises(MalformedError):
        parse_signature_lists(data, "db")
