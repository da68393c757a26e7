"""People's identities on the bus end, and the list of those that are void does not grow for ever."""

from __future__ import annotations

import time

import nats.errors
import pytest

from attestream.embedded.nats import NatsServer
from attestream.errors import ConfigError
from attestream.installation.bus_keys import load_token
from attestream.installation.places import Installation
from attestream.installation.staff import add_person, disconnect, revoke_person
from devtools.secure_bus import log_in
from schemas.roles import Role
from schemas.trust import RosterKey

HOUR_MS = 3_600_000


@pytest.fixture
def place(installation: Installation) -> Installation:
    return installation


@pytest.fixture
def server(secured: NatsServer) -> NatsServer:
    return secured


def person(place: Installation, name: str, *, now_ms: int, lifetime_ms: int = 0) -> None:
    add_person(place, Role.OBSERVER, name, [], by="test", now_ms=now_ms, lifetime_ms=lifetime_ms)


async def revoked(place: Installation, server: NatsServer, name: str) -> RosterKey:
    (ended,) = revoke_person(place, name, by="test", now_ms=int(time.time() * 1000))
    await disconnect(place, [ended], [server.url])
    return ended


def void(place: Installation) -> set[str]:
    return set(load_token(place.account_token(Role.OBSERVER)).nats.get("revocations", {}))


async def test_an_entry_goes_when_what_it_revokes_has_expired(
    place: Installation, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = int(time.time() * 1000)
    person(place, "guest", now_ms=now_ms, lifetime_ms=HOUR_MS)
    person(place, "member", now_ms=now_ms)
    person(place, "other", now_ms=now_ms)
    guest, member = await revoked(place, server, "guest"), await revoked(place, server, "member")
    assert void(place) == {guest.bus_key, member.bus_key}

    # While servers whose clocks are behind may still take it, the entry stays.
    later = time.time() + 2 * HOUR_MS / 1000 - 60
    monkeypatch.setattr("attestream.installation.staff.time.time", lambda: later)
    await disconnect(place, [member], [server.url])
    assert void(place) == {guest.bus_key, member.bus_key}

    later += 120
    other = await revoked(place, server, "other")
    assert void(place) == {member.bus_key, other.bus_key}


async def test_nobody_is_forgotten_to_make_room(
    place: Installation, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestream.installation.staff.MAX_REVOKED", 1)
    monkeypatch.setattr("attestream.credentials.account.MAX_REVOKED", 1)
    now_ms = int(time.time() * 1000)
    for name in ("first", "second"):
        person(place, name, now_ms=now_ms)
    held = (place.operator("first") / "bus.creds").read_bytes()
    first = await revoked(place, server, "first")
    with pytest.raises(ConfigError, match="1 revoked identities"):
        await revoked(place, server, "second")
    assert void(place) == {first.bus_key}
    kept = place.directory / "kept.creds"
    kept.write_bytes(held)
    with pytest.raises(nats.errors.Error):
        await log_in(server.url, kept)
