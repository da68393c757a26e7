"""People come and go: what `attestream operators` writes, what it needs, and what the bus makes of it."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nats.errors
import pytest

from attestream.embedded.nats import NatsServer
from attestream.embedded.stack import bus_environment, provision
from attestream.installation.people import own_credentials
from attestream.installation.places import Installation, locked
from attestream.installation.roster import load_roster
from devtools.secure_bus import log_in, secure_server
from schemas.roles import TENANTS, Role

PATIENCE_S = 60.0


class Running(NamedTuple):
    """An installation whose bus runs, without services."""

    place: Installation
    server: NatsServer
    run: Any
    hand_over: Path

    def add(self, name: str, role: str, *more: str) -> Path:
        """Add somebody and return the directory."""
        directory = self.hand_over / name
        ran = self.run("operators", "add", name, "--role", role, "--output", str(directory), *more)
        assert ran.code == 0, ran.err
        return directory

    def log_in(self, directory: Path) -> bool:
        """Whether the bus lets somebody in."""

        async def attempt() -> bool:
            try:
                client = await log_in(self.server.url, directory / "bus.creds")
            except nats.errors.Error:
                return False
            await client.close()
            return True

        return asyncio.run(attempt())


@pytest.fixture
def running(tmp_path: Path, inside: Any) -> Iterator[Running]:
    directory = tmp_path / "i"
    assert inside("init", "--data-dir", str(directory), "--accept-ek", "any").code == 0
    place = Installation(directory)
    server = secure_server(place)
    server.start()

    def run(*arguments: str) -> Any:
        return inside("--data-dir", str(directory), "--timeout", "0.5", *arguments)

    with locked(place):
        place.url_file.write_text(f"{server.url} identified\n")
        yield Running(place, server, run, tmp_path / "handed-over")
    server.kill()


def test_a_person_gets_one_directory_with_all_that_is_needed(running: Running) -> None:
    ran = running.run("operators", "add", "olga", "--role", "operator", "--lifetime", "90d", "--json")
    assert ran.code == 0, ran.err
    directory = running.place.operator("olga")
    assert ran.json["made"] == str(directory)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes.pop("bus.creds") == modes.pop("signing.pem") == 0o600
    assert set(modes) == {"attestream.toml", "root.pem", "ca.pem"}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    roster = load_roster(running.place)
    entry = next(key for key in roster.keys if key.name == "olga")
    assert (roster.version, entry.role, entry.changed_by) == (2, Role.OPERATOR, "admin")
    assert entry.not_after - entry.not_before == 90 * 86_400_000
    assert running.log_in(directory)
    listed = {each["name"]: each for each in running.run("operators", "list", "--json").json["operators"]}
    assert (listed["olga"]["key"], listed["olga"]["status"][:5]) == (entry.key_id, "until")
    # With two people here, commands go on as the admin who made the installation.
    assert own_credentials(running.place) == running.place.operator("admin") / "bus.creds"


@pytest.mark.parametrize("role", TENANTS)
def test_every_role_of_people_can_be_given(running: Running, role: Role) -> None:
    assert running.log_in(running.add("somebody", str(role)))


def test_without_the_root_key_nothing_is_made(running: Running) -> None:
    away = running.place.directory.parent / "away.pem"
    running.place.root_key.rename(away)
    for command in (("add", "olga", "--role", "operator"), ("revoke", "admin"), ("approvals", "2")):
        ran = running.run("operators", *command)
        assert ran.code == 2
        assert "the root key is not here" in ran.err
        assert "kept away" in ran.err
    assert not running.place.operator("olga").exists()
    assert load_roster(running.place).version == 1
    assert running.run("operators", "list").code == 0


@pytest.mark.parametrize("name", ["admin", "ADMIN", "verifier"])
def test_a_name_belongs_to_one_person(running: Running, name: str) -> None:
    ran = running.run("operators", "add", name, "--role", "admin")
    assert ran.code == 2
    assert "Choose another name" in ran.err


@pytest.mark.parametrize("name", ["../x", "a.b", "a b", "", "x" * 65, "*"])
def test_what_can_not_be_a_name(running: Running, name: str) -> None:
    assert running.run("operators", "add", "--role", "admin", "--", name).code == 2
    assert load_roster(running.place).version == 1


def test_no_directory_is_overwritten(running: Running) -> None:
    running.hand_over.mkdir()
    (running.hand_over / "mine").write_text("x")
    ran = running.run("operators", "add", "olga", "--role", "operator", "--output", str(running.hand_over))
    assert ran.code == 2
    assert [path.name for path in running.hand_over.iterdir()] == ["mine"]
    assert load_roster(running.place).version == 1


def test_who_is_revoked_is_thrown_out_at_once(running: Running) -> None:
    directory, stays = running.add("olga", "operator"), running.add("oscar", "operator")

    async def thrown_out() -> None:
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        client = await log_in(running.server.url, directory / "bus.creds", closed_cb=on_closed)
        ran = await asyncio.to_thread(running.run, "operators", "revoke", "olga", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["by"] == "admin"
        assert not ran.json["remains"]
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        assert not client.is_connected

    asyncio.run(thrown_out())
    assert not running.log_in(directory)
    assert running.log_in(stays)
    entry = next(key for key in load_roster(running.place).keys if key.name == "olga")
    assert entry.revoked_at
    # Again is no mistake, and the name is free for somebody else, who is not kept out by what was revoked.
    assert running.run("operators", "revoke", "olga").code == 0
    running.run("operators", "add", "olga", "--role", "observer", "--output", str(running.hand_over / "new"))
    assert running.log_in(running.hand_over / "new")


def test_revoking_says_what_remains_when_a_key_for_it_is_away(running: Running) -> None:
    directory = running.add("olga", "operator")
    away = running.place.directory.parent / "away.seed"
    running.place.operator_signing_seed.rename(away)
    ran = running.run("operators", "revoke", "olga")
    assert ran.code == 1
    assert "still connects, for ever" in ran.err
    assert "operator's signing key is not here" in ran.err
    assert running.log_in(directory)
    away.rename(running.place.operator_signing_seed)
    assert running.run("operators", "revoke", "olga").code == 0
    assert not running.log_in(directory)


def test_a_roster_that_no_registrar_has_confirmed_is_told_so(running: Running) -> None:
    asyncio.run(provision(running.place, bus_environment(running.place, running.server)))
    ran = running.run("operators", "add", "olga", "--role", "operator", "--output", str(running.hand_over / "olga"))
    assert "no registrar has said so" in ran.out
    assert "no registrar has said so" in running.run("keys", "publish").out
    running.server.stop()
    assert running.run("keys", "publish").code != 0


def test_what_is_done_while_the_bus_is_down_holds_when_it_comes_back(running: Running) -> None:
    directory = running.add("olga", "operator")
    running.server.stop()
    running.place.url_file.unlink()
    ran = running.run("operators", "revoke", "olga", "--json")
    assert ran.code == 0, ran.err
    assert "does not have the new roster yet" in ran.json["notes"][0]
    added = running.run("operators", "add", "oscar", "--role", "operator", "--output", str(running.hand_over / "oscar"))
    assert "`attestream up`" in added.out
    again = secure_server(running.place, port=running.server.port)
    again.start()
    try:
        assert not running.log_in(directory)
        assert running.log_in(running.hand_over / "oscar")
    finally:
        again.kill()


def test_an_identity_ends_with_its_time(running: Running) -> None:
    directory = running.add("olga", "operator", "--lifetime", "1s")
    deadline = time.monotonic() + PATIENCE_S
    while running.log_in(directory):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    entry = next(each for each in running.run("operators", "list", "--json").json["operators"] if each["name"] == "olga")
    assert entry["status"].startswith("ended")


def test_how_many_people_a_policy_needs_is_signed_by_the_root_key(running: Running) -> None:
    assert running.run("operators", "approvals").out == "1\n"
    ran = running.run("operators", "approvals", "2", "--json")
    assert ran.json["policy_approvals"] == 2
    roster = load_roster(running.place)
    assert (roster.policy_approvals, roster.approvals_by, roster.version) == (2, "admin", 2)
    assert running.run("operators", "approvals", "3").code == 2
