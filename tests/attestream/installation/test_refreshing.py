"""Accounts of an older version get what this one grants, and keep what only the servers know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nats.errors
import pytest

from attestream.credentials.nkey import Kind
from attestream.credentials.token import read, reissued
from attestream.installation.bus_keys import load_seed, load_token
from attestream.installation.files import PUBLIC, replace
from attestream.installation.live import live
from attestream.installation.places import Installation
from attestream.installation.refreshing import refresh_accounts, refresh_stopped
from devtools.secure_bus import agent_credentials, log_in, secure_installation, secure_server
from schemas.roles import Role


def older(place: Installation, role: Role, **further: Any) -> None:
    """Make the account of ``role`` what a version that granted nothing has left, with ``further`` claims."""
    signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "key")
    token = load_token(place.account_token(role))
    scopes = [{**scope, "template": {"pub": {"deny": [">"]}}} for scope in token.nats["signing_keys"]]
    claims = {**token.nats, "signing_keys": scopes, **further}
    replace(place.account_token(role), reissued(token, claims, signing, token.issued_at + 1).encode(), PUBLIC)


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    return secure_installation(tmp_path / "i")


async def test_an_account_of_this_version_is_left_alone(place: Installation) -> None:
    before = {role: place.account_token(role).read_bytes() for role in Role}
    assert await refresh_stopped(place) == []
    assert {role: place.account_token(role).read_bytes() for role in Role} == before


async def test_what_an_upgrade_grants_reaches_a_bus_that_is_down(place: Installation) -> None:
    wanted = {role: load_token(place.account_token(role)).nats for role in (Role.AGENT, Role.VERIFIER)}
    older(place, Role.AGENT)
    older(place, Role.VERIFIER)
    assert await refresh_stopped(place) == ["services", "agent"]
    assert {role: load_token(place.account_token(role)).nats for role in wanted} == wanted
    assert await refresh_stopped(place) == []


async def test_limits_and_the_rights_of_the_bus_itself_are_brought_up_too(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The connection that asks is closed by what it asks for.
    monkeypatch.setattr("attestream.installation.live._PATIENCE_S", 1.0)
    signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "key")
    agents, system = load_token(place.account_token(Role.AGENT)), load_token(place.system_token)
    unlimited = {**agents.nats, "limits": {**agents.nats["limits"], "conn": -1}}
    inboxes = {"allow": ["_INBOX_registrar.>"]}
    narrow = [{**scope, "template": {**scope["template"], "sub": inboxes}} for scope in system.nats["signing_keys"]]
    for path, token, claims in (
        (place.account_token(Role.AGENT), agents, unlimited),
        (place.system_token, system, {**system.nats, "signing_keys": narrow}),
    ):
        replace(path, reissued(token, claims, signing, token.issued_at + 1).encode(), PUBLIC)
    server = secure_server(place)
    server.start()
    try:
        assert await refresh_accounts(place, [server.url]) == ["agent", "system"]
        assert await refresh_accounts(place, [server.url]) == []
    finally:
        server.kill()
    assert load_token(place.account_token(Role.AGENT)).nats == agents.nats
    assert load_token(place.system_token).nats == system.nats


async def test_running_servers_are_told_and_revocations_stay(place: Installation) -> None:
    gone = agent_credentials(place, "gone")
    older(place, Role.AGENT, revocations={"*": load_token(place.account_token(Role.AGENT)).issued_at + 60})
    server = secure_server(place)
    server.start()
    try:
        with pytest.raises(nats.errors.Error):
            await log_in(server.url, gone)
        # The installation's own copy is older than what the servers have.
        stale = load_token(place.account_token(Role.AGENT))
        signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "key")
        claims = {key: value for key, value in stale.nats.items() if key != "revocations"}
        replace(place.account_token(Role.AGENT), reissued(stale, claims, signing, stale.issued_at - 1).encode(), PUBLIC)
        assert await refresh_accounts(place, [server.url]) == ["agent"]
        refreshed = load_token(place.account_token(Role.AGENT))
        assert refreshed.nats["revocations"] == stale.nats["revocations"]
        assert "deny" not in refreshed.nats["signing_keys"][0]["template"]["pub"]
        with pytest.raises(nats.errors.Error):
            await log_in(server.url, gone)
        assert await refresh_accounts(place, [server.url]) == []
    finally:
        server.kill()


async def test_a_bus_that_has_kept_the_older_account_starts_with_the_refreshed_one(place: Installation) -> None:
    older(place, Role.AGENT)
    token = load_token(place.account_token(Role.AGENT))
    server = secure_server(place)
    server.start()
    try:
        async with live(place, [server.url]) as link:
            assert '"deny"' in str(read(await link.account(token.subject)).nats).replace("'", '"')
        server.kill()
        assert await refresh_stopped(place) == ["agent"]
        again = secure_server(place, port=server.port)
        again.start()
        try:
            async with live(place, [again.url]) as link:
                assert await link.account(token.subject) == place.account_token(Role.AGENT).read_text().strip()
        finally:
            again.kill()
    finally:
        server.kill()
