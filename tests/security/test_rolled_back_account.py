"""A server of the bus that has been taken over shows the registrar an old token of the agents' account."""

from __future__ import annotations

import time

import pytest

from attestream.clock import unix_ms
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read, reissued
from attestream.installation.rotation import checked_account, successor
from devtools.bus_identities import connect_with
from devtools.secure_bus import secure_server
from schemas.roles import Role
from services.registrar.bus_account import BusAccount


@pytest.fixture
async def system(installation):
    server = secure_server(installation)
    server.start()
    bus = await connect_with(server.url, installation.credentials_directory / "system.creds")
    yield bus
    await bus.close()
    server.kill()


class Answer:
    """What a hostile server says."""

    headers = None

    def __init__(self, token):
        self.data = token.encode()


class Deceived(BusAccount):
    """Looks the account up where only ``shown`` is to be seen, once it is set."""

    shown = ""

    async def _gather(self, subject, payload, timeout_s, wanted):
        if self.shown and subject.endswith(".CLAIMS.LOOKUP"):
            return [Answer(self.shown)]
        return await super()._gather(subject, payload, timeout_s, wanted)


def rolled_back(installation, stolen):
    """Return a token of the agents' account of yesterday, which names the signing key ``stolen`` too."""
    operator = NKey.from_seed(installation.operator_signing_seed.read_text().strip())
    present = read(installation.account_token(Role.AGENT).read_text().strip())
    scopes = [*present.nats["signing_keys"], {"kind": "user_scope", "key": stolen, "role": "agent", "template": {}}]
    return reissued(present, present.nats | {"signing_keys": scopes}, operator, int(time.time()) - 86_400)


def test_nor_by_the_next_rotation(installation):
    """Whoever gives the command asks the bus what the account is, and the next token is made from the answer."""
    stolen, path = NKey.generate(Kind.ACCOUNT).public, installation.account_token(Role.AGENT)
    present = read(path.read_text().strip())
    account = checked_account(installation, path, rolled_back(installation, stolen))
    assert account == present
    now = int(time.time())
    token = successor(installation, account, Role.AGENT, NKey.generate(Kind.ACCOUNT), until=now + 60, now=now)
    assert stolen not in {scope["key"] for scope in read(token).nats["signing_keys"]}
    assert checked_account(installation, path, token) == read(token)


@pytest.mark.parametrize("since", ["its start", "an installation's own file"])
async def test_a_key_that_was_replaced_does_not_come_back_by_an_old_token(installation, system, since):
    """The old token names a signing key that a thief has. The operator has signed it, when that key still counted."""
    operator = NKey.from_seed(installation.operator_signing_seed.read_text().strip())
    present = read(installation.account_token(Role.AGENT).read_text().strip())
    stolen = NKey.generate(Kind.ACCOUNT).public
    old = rolled_back(installation, stolen)
    known = present if since == "an installation's own file" else None
    account = Deceived(system, present.subject, lambda: operator, unix_ms, known=known)
    if known is None:
        await account.look()
    account.shown = old
    await account.look()
    await account.bring_in_line({NKey.generate(Kind.USER).public: int(time.time())}, since=0)
    account.shown = ""
    await account.look()
    keys = [scope["key"] for scope in account._current.nats["signing_keys"]]
    assert stolen not in keys
    assert keys == [scope["key"] for scope in present.nats["signing_keys"]]
    assert len(account._current.nats["revocations"]) == 1
