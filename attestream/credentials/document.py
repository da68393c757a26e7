"""The credentials document that clients of the bus carry: a user's token and the seed of its NKey, in one text."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read
from attestream.errors import MalformedError

MAX_DOCUMENT_BYTES: Final = 65_536

_FORM: Final = (
    "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
    "-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
)
_BLOCKS: Final = re.compile(r"-{3,}BEGIN [A-Z ]+-{3,}\s+([A-Za-z0-9_.=-]+)\s+-{3,}END [A-Z ]+-{3,}", re.ASCII)


class Credentials(NamedTuple):
    """A user's identity. The seed in it is a secret."""

    token: str
    key: NKey

    def __repr__(self) -> str:
        return f"Credentials({self.key.public})"


def write(credentials: Credentials) -> str:
    """Return the document."""
    return _FORM.format(token=credentials.token, seed=credentials.key.seed)


def parse(text: str) -> Credentials:
    """Return the identity in a document.

    :raises MalformedError: it is not one, or its token is about another key than its seed.
    :raises SignatureError: the token's signature is wrong.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        raise MalformedError(f"a credentials document has at most {MAX_DOCUMENT_BYTES} bytes")
    blocks = _BLOCKS.findall(text)
    if len(blocks) != 2:
        raise MalformedError("not a credentials document: it does not hold one token and one seed")
    key = NKey.from_seed(blocks[1])
    token = read(blocks[0])
    if token.kind != "user" or key.kind is not Kind.USER or token.subject != key.public:
        raise MalformedError("the token in the credentials document is not about the key in it")
    return Credentials(blocks[0], key)
