from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.bus.delivery import parse_ack_subject
from attestream.errors import MalformedError


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.EVIDENCE.p1.2.345.7.1795303800123456789.9",
        "$JS.ACK.hub.ACCHASH.EVIDENCE.p1.2.345.7.1795303800123456789.9",
        "$JS.ACK._.ACCHASH.EVIDENCE.p1.2.345.7.1795303800123456789.9.Xy12",
    ],
)
def test_both_forms_are_read(reply):
    assert parse_ack_subject(reply) == (2, 345, 7, 1_795_303_800_123)


@pytest.mark.parametrize("reply", ["", "$JS.ACK", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.S.c.1.2.3.4", "_INBOX.a.b"])
def test_anything_else_is_malformed(reply):
    with pytest.raises(MalformedError):
        parse_ack_subject(reply)


@given(st.text())
def test_no_text_raises_another_error(reply):
    try:
        parse_ack_subject(reply)
    except MalformedError:
        return
