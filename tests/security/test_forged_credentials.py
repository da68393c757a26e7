"""Identities on the bus that somebody made up: the server lets none of them in, or gives it nothing more."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time

import pytest

from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read, role_tag, user_token
from attestream.installation.bus_keys import load_seed, load_token
from devtools.bus_probe import Probe
from schemas import subjects
from schemas.roles import Role


def token_of(issuer, user, account, **claims):
    """Return a token as anybody can write it: with claims that ours never have."""
    nats = {"type": "user", "version": 2, "issuer_account": account, **claims.pop("nats", {})}
    body = {"sub": user.public, "name": "thief", "iat": int(time.time()), "iss": issuer.public, "nats": nats, **claims}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).rstrip(b"=").decode()
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)
    ]
    signature = issuer.sign(".".join(parts).encode())
    return ".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()])


class Thief:
    """Has come by the key that issues identities of one role, and writes tokens with it."""

    def __init__(self, bus, role) -> None:
        self.place, self.url = bus.installation, bus.server.url
        self.issuer = load_seed(self.place.issuer(role), Kind.ACCOUNT, "issuer")
        self.account = self.account_of(role)
        self.user = NKey.generate(Kind.USER)

    def account_of(self, role):
        return load_token(self.place.account_token(role)).subject

    async def enter(self, token, key=None):
        return await Probe.open(self.url, Credentials(token, key or self.user))


@pytest.fixture
def thief(secure_bus):
    return Thief(secure_bus, Role.ENROLMENT)


async def test_the_tokens_here_are_good_but_for_what_a_test_changes(thief):
    probe = await thief.enter(token_of(thief.issuer, thief.user, thief.account))
    assert await probe.publish(subjects.REGISTRAR_ENROL)
    await probe.close()


FORGED = {
    "not valid yet": {"nbf": int(time.time()) + 3600},
    "expired": {"exp": int(time.time()) - 1},
    "with permissions of its own": {"nats": {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}}},
    "that says it is an account": {"nats": {"type": "account"}},
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_lets_nobody_in(thief, name):
    with pytest.raises(ConnectionError):
        await thief.enter(token_of(thief.issuer, thief.user, thief.account, **FORGED[name]))


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ENROLMENT])
async def test_the_issuer_of_one_role_vouches_for_no_other(thief, role):
    """In another role's account its signature counts for nothing; in its own, a tag grants nothing."""
    if thief.account_of(role) != thief.account:
        with pytest.raises(ConnectionError):
            await thief.enter(token_of(thief.issuer, thief.user, thief.account_of(role)))
    probe = await thief.enter(token_of(thief.issuer, thief.user, thief.account, nats={"tags": [role_tag(role)]}))
    wanted = [subjects.result("a"), subjects.revocation("a"), subjects.command("a"), subjects.evidence("a")]
    assert await probe.refused_publishes(wanted) == set(wanted)
    await probe.close()


async def test_who_is_vouched_for_by_itself_gets_nowhere(thief):
    own = NKey.generate(Kind.ACCOUNT)
    for account in (own.public, thief.account):
        with pytest.raises(ConnectionError):
            await thief.enter(token_of(own, thief.user, account))


async def test_a_bearer_token_needs_its_key_nevertheless(thief):
    """A token that counts without a signature would be a password."""
    bearer = token_of(thief.issuer, thief.user, thief.account, nats={"bearer_token": True})
    with pytest.raises(ConnectionError):
        await thief.enter(bearer, NKey.generate(Kind.USER))


async def test_a_token_is_bound_to_its_key(secure_bus):
    thief = Thief(secure_bus, Role.AGENT)
    token = user_token(thief.issuer, thief.user.public, "host", account=thief.account, now=int(time.time()))
    assert read(token).subject == thief.user.public
    with pytest.raises(ConnectionError):
        await thief.enter(token, NKey.generate(Kind.USER))


async def test_who_connects_and_never_says_who_it_is_is_thrown_out(secure_bus):
    host, port = secure_bus.server.url.removeprefix("nats://").split(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
    honest = await secure_bus.probe(Role.OBSERVER, "honest")
    assert not await honest.flush()
    await honest.close()
    async with asyncio.timeout(60):
        for reader, writer in silent:
            assert b"Authentication Timeout" in await reader.read()
            writer.close()


async def test_who_has_not_said_who_it_is_can_say_nothing_else(secure_bus):
    host, port = secure_bus.server.url.removeprefix("nats://").split(":")
    for line in (b"PUB att.result.a 1\r\nx\r\n", b"SUB > 1\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(line)
        # The end may overtake the reason.
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(60):
                said = await reader.read()
            assert b"-ERR" in said or said.count(b"\r\n") == 1
        writer.close()
