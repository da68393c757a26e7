"""Keys and certificates are replaced by commands while the bus runs, and whoever has the old ones is not cut off early."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nats.errors
import pytest

from attestream.embedded.nats import NatsServer
from attestream.installation.bus_keys import load_token
from attestream.installation.bus_server import encryption, identities
from attestream.installation.places import Installation, locked
from attestream.installation.roster import load_roster
from devtools.secure_bus import agent_credentials, log_in, user_credentials
from schemas.roles import Role


class Running(NamedTuple):
    """An installation whose bus runs with TLS, as `attestream up` makes it, without services."""

    place: Installation
    server: NatsServer
    run: Any

    def log_in(self, path: Path) -> bool:
        """Whether the bus lets the holder of credentials in."""

        async def attempt() -> bool:
            try:
                client = await log_in(self.url, path, ca=self.place.ca_file)
            except nats.errors.Error:
                return False
            await client.close()
            return True

        return asyncio.run(attempt())

    @property
    def url(self) -> str:
        """Where the bus is."""
        return f"tls://127.0.0.1:{self.server.port}"


@pytest.fixture
def running(tmp_path: Path, inside) -> Iterator[Running]:
    directory = tmp_path / "i"
    assert inside("init", "--data-dir", str(directory), "--accept-ek", "any").code == 0
    place = Installation(directory)
    server = embedded(place)
    server.start()

    def run(*arguments: str) -> Any:
        return inside("--data-dir", str(directory), *arguments)

    with locked(place):
        place.url_file.write_text(f"tls://127.0.0.1:{server.port}\n")
        yield Running(place, server, run)
    server.kill()


def embedded(place: Installation, port: int = 0) -> NatsServer:
    pair = place.tls / "server.pem", place.tls / "server.key"
    from attestream.installation.authority import Pair

    extra = encryption(Pair(*pair), place.ca_file) + identities(place, place.bus / "accounts")
    return NatsServer(place.bus, port=port, extra=extra)


def issuers(place: Installation, role: Role) -> list[str]:
    return [scope["role"] for scope in load_token(place.account_token(role)).nats["signing_keys"]]


def copied(path: Path) -> Path:
    copy = path.with_suffix(".old")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    return copy


def test_a_rotated_role_has_two_issuers_until_the_overlap_ends(running: Running) -> None:
    place, run = running.place, running.run
    old = copied(place.credentials(Role.VERIFIER))
    ran = run("keys", "rotate", "verifier", "--only", "bus", "--overlap", "1s", "--json")
    assert ran.code == 0, ran.err
    roles = issuers(place, Role.VERIFIER)
    assert roles.count("verifier") == 1
    assert sum(role.startswith("verifier until ") for role in roles) == 1
    assert old.read_bytes() != place.credentials(Role.VERIFIER).read_bytes()
    assert running.log_in(old)
    assert running.log_in(place.credentials(Role.VERIFIER))
    shown = run("keys", "show", "--json").json
    assert [key["here"] for key in shown["issuing"] if key["role"] == "verifier"] in ([True, False], [False, True])

    deadline = time.monotonic() + 40
    while not any("gone" in line for line in run("keys", "prune", "--json").json["done"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not running.log_in(old)
    assert running.log_in(place.credentials(Role.VERIFIER))
    assert run("keys", "prune").out == "no key's time is over\n"


def test_at_once_cuts_off_whoever_has_what_the_old_key_issued(running: Running) -> None:
    old = copied(running.place.credentials(Role.ENROLMENT))
    assert running.run("keys", "rotate", "enrolment", "--at-once").code == 0
    assert not running.log_in(old)
    assert running.log_in(running.place.credentials(Role.ENROLMENT))
    assert running.log_in(running.place.credentials(Role.REGISTRAR))


def test_a_new_signing_key_raises_the_rosters_version_and_the_old_one_has_an_end(running: Running) -> None:
    place, run = running.place, running.run
    before = load_roster(place)
    ran = run("keys", "rotate", "notifier", "--only", "signing", "--overlap", "2h")
    assert ran.code == 0, ran.err
    after = load_roster(place)
    assert after.version == before.version + 1
    old, new = [key for key in after.keys if key.role is Role.NOTIFIER]
    assert old.not_after - after.issued_at == 2 * 3_600_000
    assert (new.not_after, new.not_before <= after.issued_at) == (0, True)
    assert (place.trusted_keys / f"revocation-{old.key_id}.pem").read_text() == old.public_key
    assert (place.trusted_keys / "revocation.pem").read_text() == new.public_key
    shown = {key["key"]: key["here"] for key in run("keys", "show", "--json").json["signing"]}
    assert (shown[old.key_id], shown[new.key_id]) == (False, True)


@pytest.mark.parametrize(
    ("away", "command", "clue"),
    [
        ("keys/root.pem", ["keys", "rotate", "registrar"], "the root key is not here"),
        ("bus-keys/operator.seed", ["keys", "rotate", "bus-operator"], "the bus operator's own key is not here"),
        ("tls/ca.key", ["certificates", "renew"], "the certificate authority's key is not here"),
        ("bus-keys/issuers/enrolment.seed", ["identities", "issue", "enrolment", "rack"], "enrolment is not here"),
    ],
)
def test_a_key_that_is_kept_away_is_asked_for_before_anything_is_changed(
    running: Running, away: str, command: list[str], clue: str
) -> None:
    (running.place.directory / away).unlink()
    before = {path: path.read_bytes() for path in running.place.directory.rglob("*") if path.is_file()}
    ran = running.run(*command)
    assert ran.code == 2
    assert clue in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    kept = running.place.bus
    assert {path: path.read_bytes() for path in before if kept not in path.parents} == {
        path: data for path, data in before.items() if kept not in path.parents
    }


def test_a_rotation_gives_no_revoked_identity_its_life_back(running: Running) -> None:
    """The installation's own copy of the account knows nothing of revocations: the servers have them."""
    from attestream.credentials.nkey import Kind
    from attestream.credentials.token import reissued
    from attestream.installation.bus_keys import load_seed

    place = running.place
    agent = agent_credentials(place, "gone")

    async def revoke() -> None:
        account = load_token(place.account_token(Role.AGENT))
        key = load_seed(place.operator_signing_seed, Kind.OPERATOR, "key")
        now = account.issued_at + 2
        system = await log_in(running.url, place.system_credentials, ca=place.ca_file)
        token = reissued(account, {**account.nats, "revocations": {"*": now}}, key, now)
        answer = await system.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), timeout=30)
        assert b'"code":200' in answer.data
        await system.close()

    asyncio.run(revoke())
    assert not running.log_in(agent)
    assert running.run("keys", "rotate", "agent", "--overlap", "1h").code == 0
    assert not running.log_in(agent)
    assert load_token(place.account_token(Role.AGENT)).nats["revocations"]

    running.server.stop()
    running.place.url_file.unlink()
    ran = running.run("keys", "rotate", "agent", "--overlap", "1h")
    assert ran.code == 0, ran.err
    assert load_token(place.account_token(Role.AGENT)).nats["revocations"]
    again = embedded(place, running.server.port)
    again.start()
    try:
        assert not running.log_in(agent)
    finally:
        again.kill()


def test_the_key_of_the_buss_own_account_has_an_overlap_too(running: Running) -> None:
    place, run = running.place, running.run
    old = copied(place.system_credentials)
    ran = run("keys", "rotate", "system", "--overlap", "1s")
    assert ran.code == 0, ran.err
    assert running.log_in(old)
    assert running.log_in(place.system_credentials)
    deadline = time.monotonic() + 40
    while not any("gone" in line for line in run("keys", "prune", "--json").json["done"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not running.log_in(old)
    # Whoever rotates it at once is cut off with all others, and has a new identity.
    old = copied(place.system_credentials)
    assert run("keys", "rotate", "system", "--at-once").code == 0
    assert not running.log_in(old)
    assert run("keys", "rotate", "agent", "--overlap", "1h").code == 0


def test_servers_of_their_own_must_run_while_accounts_are_changed(running: Running) -> None:
    assert running.run("servers", "make", "bus.example").code == 0
    running.server.kill()
    ran = running.run("keys", "rotate", "agent")
    assert ran.code == 2
    assert "only while the bus runs" in ran.err


def test_the_bus_operators_key_is_replaced_in_two_steps(running: Running) -> None:
    place, run = running.place, running.run
    first = run("keys", "rotate", "bus-operator")
    assert first.code == 0, first.err
    assert "once more" in first.out
    early = run("keys", "rotate", "bus-operator")
    assert early.code == 2
    assert "do not know the new key" in early.err
    running.server.stop()
    again = embedded(place, running.server.port)
    again.start()
    try:
        second = run("keys", "rotate", "bus-operator")
        assert second.code == 0, second.err
        assert not place.operator_next_seed.exists()
        issuer = load_token(place.operator_token).nats["signing_keys"]
        assert {load_token(place.account_token(role)).issuer for role in Role} == set(issuer)
        for path in (place.credentials(Role.REGISTRAR), agent_credentials(place, "a1"), place.system_credentials):
            assert running.log_in(path)
        again.stop()
        again = embedded(place, running.server.port)
        again.start()
        assert running.log_in(place.credentials(Role.REGISTRAR))
    finally:
        again.kill()


def test_certificates_are_renewed_without_a_restart_and_connections_stay(running: Running) -> None:
    place, run = running.place, running.run
    before = run("certificates", "show", "--json").json
    assert [one["name"] for one in before[1:]] == ["bus"]
    assert 390 < before[1]["days_left"] < 398

    async def renewed() -> None:
        client = await log_in(running.url, place.credentials(Role.PROVISIONER), ca=place.ca_file)
        ran = await asyncio.to_thread(run, "certificates", "renew", "--host", "127.0.0.1", "--host", "bus.example", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["reloaded"] is True
        assert ran.json["renewed"][0]["hosts"] == ["127.0.0.1", "bus.example"]
        async with asyncio.timeout(40):
            while "Reloaded server configuration" not in running.server.log_path.read_text():
                await asyncio.sleep(0.01)
        assert client.is_connected
        await client.flush()
        late = await log_in(running.url, place.credentials(Role.PROVISIONER), ca=place.ca_file, tls_hostname="bus.example")
        assert late.is_connected
        await client.close()
        await late.close()

    asyncio.run(renewed())


def test_a_certificate_for_clients_is_for_clients_alone(running: Running) -> None:
    made = running.run("certificates", "client", "gateway", "--json").json
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made["certificate"], made["key"])
    assert running.run("certificates", "client", "gateway").code == 2
    from cryptography.x509 import ExtendedKeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    from attestream.installation.authority import load_certificate

    usage = load_certificate(Path(made["certificate"])).extensions.get_extension_for_class(ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_identities_are_issued_to_further_services_with_an_end_and_never_overwritten(running: Running) -> None:
    ran = running.run("identities", "issue", "verifier", "rack-2", "--lifetime", "30d", "--json")
    path = Path(ran.json["credentials"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert running.log_in(path)
    before = path.read_bytes()
    again = running.run("identities", "issue", "verifier", "rack-2")
    assert again.code == 2
    assert path.read_bytes() == before
    assert running.run("identities", "issue", "admin", "eve").code == 2
    assert running.run("identities", "issue", "verifier", "*").code == 2
    assert running.log_in(user_credentials(running.place, Role.OBSERVER, "siem"))


def test_what_init_makes_is_said_and_what_is_to_be_kept_away(tmp_path: Path, inside) -> None:
    directory = tmp_path / "i"
    ran = inside("init", "--data-dir", str(directory), "--cluster", "a.example,b=10.0.0.2,c.example", "--json")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)
    assert {Path(path).name for path in made["offline"]} == {"root.pem", "operator.seed", "ca.key"}
    assert [Path(path).name for path in made["made"][-3:]] == ["bus-1", "b", "bus-3"]
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    again = inside("init", "--data-dir", str(directory))
    assert again.code == 2
    assert "nothing is overwritten" in again.err
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert inside("init", "--data-dir", str(tmp_path / "j"), "--host", "no host").code == 2
    assert not (tmp_path / "j").exists()
