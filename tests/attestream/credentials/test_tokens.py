"""NKeys, tokens and credentials documents: what is made can be read, and nothing else can."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.credentials import document, token
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey, decode_public, encode_public, verify
from attestream.errors import AttestreamError, ExpiredError, MalformedError, SignatureError

ISSUER = NKey(Kind.ACCOUNT, bytes(range(32)))
USER = NKey(Kind.USER, bytes(range(1, 33)))
TOKEN = token.user_token(
    ISSUER,
    USER.public,
    "w1",
    account=ISSUER.public,
    now=100,
    expires_at=200,
    not_before=50,
    tags=[token.role_tag("verifier")],
)


@given(kind=st.sampled_from(Kind), private=st.binary(min_size=32, max_size=32), data=st.binary(max_size=64))
def test_key_survives_its_text(kind, private, data):
    key = NKey(kind, private)
    again = NKey.from_seed(key.seed)
    assert (again.public, again.kind) == (key.public, kind)
    # nats-io/nkeys: the kind shows in the first letter of the public key, and in the second of the seed.
    letter = {Kind.OPERATOR: "O", Kind.ACCOUNT: "A", Kind.USER: "U"}[kind]
    assert (key.public[0], key.seed[:2], len(key.public), len(key.seed)) == (letter, "S" + letter, 56, 58)
    assert encode_public(kind, decode_public(key.public, kind)) == key.public
    verify(key.public, kind, again.sign(data), data)
    assert key.seed not in repr(key)


@given(place=st.integers(0, 57), letter=st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567018=a \n"))
def test_one_wrong_letter_is_seen(place, letter):
    for text, read in ((USER.seed, NKey.from_seed), (USER.public, lambda text: decode_public(text, Kind.USER))):
        wrong = text[:place] + letter + text[place + 1 :]
        if wrong != text:
            with pytest.raises(MalformedError) as caught:
                read(wrong)
            assert USER.seed not in str(caught.value)


@given(st.one_of(st.text(max_size=80), st.text(alphabet="SUAO234567ABC", min_size=56, max_size=58)))
def test_no_text_breaks_a_reader(text):
    for read in (NKey.from_seed, lambda text: decode_public(text, Kind.USER), token.read, document.parse):
        try:
            read(text)
        except AttestreamError:
            continue


def test_token_says_what_was_put_into_it():
    found = token.read(TOKEN)
    assert (found.kind, found.subject, found.name, found.issuer) == ("user", USER.public, "w1", ISSUER.public)
    assert (found.issued_at, found.expires_at, found.not_before, token.role_of(found)) == (100, 200, 50, "verifier")
    assert token.read_from(TOKEN, frozenset({ISSUER.public}), 100) == found


@pytest.mark.parametrize(("now", "match"), [(49, "not valid yet"), (200, "has expired"), (10**12, "has expired")])
def test_token_holds_only_in_its_time(now, match):
    with pytest.raises(ExpiredError, match=match):
        token.read_from(TOKEN, frozenset({ISSUER.public}), now)


def test_token_of_another_issuer_is_refused():
    with pytest.raises(SignatureError, match="may not"):
        token.read_from(TOKEN, frozenset({NKey.generate(Kind.ACCOUNT).public}), 100)


def forged(**changes):
    """A token whose claims were changed after it was signed, or signed anew with what no issuer would say."""
    claims = json.loads(base64.urlsafe_b64decode(TOKEN.split(".")[1] + "=="))
    return claims | changes


def resigned(claims, header=None, key=ISSUER):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    covered = f"{part(header or {'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    return f"{covered}.{base64.urlsafe_b64encode(key.sign(covered.encode())).rstrip(b'=').decode()}"


def test_changed_claims_break_the_signature():
    head, _, signature = TOKEN.split(".")
    body = resigned(forged(name="w2")).split(".")[1]
    with pytest.raises(SignatureError):
        token.read(f"{head}.{body}.{signature}")
    with pytest.raises(SignatureError):
        token.read(resigned(forged(), key=NKey.generate(Kind.ACCOUNT)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "a.b.c.d",
        "!.!.!",
        TOKEN[:-1] + "=",
        TOKEN + ".",
        resigned(forged(), header={"typ": "JWT", "alg": "none"}),
        resigned(forged(), header={"typ": "JWT", "alg": "ed25519"}),
        resigned(forged(sub=ISSUER.public)),
        resigned(forged(iss=USER.public)),
        resigned(forged(nats={"type": "activation"})),
        resigned(forged(nats={"type": ["user"]})),
        resigned(forged(nats={"type": "user", "tags": "role:admin"})),
        resigned(forged(nats={"type": "user", "tags": [1]})),
        resigned(forged(exp="soon")),
        TOKEN.replace(TOKEN.split(".")[1], base64.urlsafe_b64encode(b'{"sub":"\xd8"}').decode()),
    ],
)
def test_what_is_no_token_is_refused(text):
    with pytest.raises(AttestreamError):
        token.read(text)


def test_two_roles_are_none():
    both = token.user_token(ISSUER, USER.public, "x", account="", now=1, tags=["role:agent", "role:admin"])
    assert token.role_of(token.read(both)) == ""


def test_document_survives_its_text():
    credentials = Credentials(TOKEN, USER)
    again = document.parse(document.write(credentials))
    assert (again.token, again.key.seed) == (TOKEN, USER.seed)
    assert USER.seed not in repr(again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TOKEN,
        document.write(Credentials(TOKEN, NKey.generate(Kind.USER))),
        document.write(Credentials(TOKEN, ISSUER)),
        document.write(Credentials(TOKEN, USER)) * 2,
        document.write(Credentials(TOKEN, USER)).partition("\n\n")[0],
        document.write(Credentials(TOKEN, USER)) + " " * document.MAX_DOCUMENT_BYTES,
    ],
)
def test_what_is_no_document_is_refused_without_its_seed(text):
    with pytest.raises(MalformedError) as caught:
        document.parse(text)
    assert USER.seed not in str(caught.value)
