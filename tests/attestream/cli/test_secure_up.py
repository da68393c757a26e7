"""`attestream up` as everybody gets it: services with identities of their own, and nobody else on the bus."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import pytest

from devtools.secure_bus import agent_credentials, log_in
from devtools.secure_up import PATIENCE_S, SecureUp
from schemas.roles import Role


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureUp]:
    running = SecureUp(tmp_path_factory.mktemp("secure"))
    yield running
    assert running.stop() == 0


async def test_nobody_gets_in_without_credentials(secure: SecureUp) -> None:
    with pytest.raises(nats.errors.Error):
        await nats.connect(secure.url, allow_reconnect=False, max_reconnect_attempts=1)


async def test_an_agents_identity_gets_in_and_hears_only_its_own(secure: SecureUp) -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await log_in(secure.url, agent_credentials(secure.place, "host.1"), error_cb=note)
    await client.subscribe("att.agent.host%2E1.>")
    await client.flush()
    assert not refused
    await client.subscribe("att.agent.other.>")
    async with asyncio.timeout(PATIENCE_S):
        while not refused:
            await asyncio.sleep(0.01)
    assert "permissions violation" in refused[0].lower()
    await client.close()


def test_the_person_who_made_it_is_known_to_the_command_line(secure: SecureUp) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "attestream.cli", "--data-dir", str(secure.place.directory), "status", "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={name: value for name, value in os.environ.items() if not name.startswith("ATTESTREAM_")},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_registrar_confirms_that_it_has_the_roster(secure: SecureUp) -> None:
    """A bus in strange hands could take a roster that revokes a key, and keep it back from whoever vouches for it."""
    ran = subprocess.run(
        [sys.executable, "-m", "attestream.cli", "--data-dir", str(secure.place.directory), "keys", "publish", "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={name: value for name, value in os.environ.items() if not name.startswith("ATTESTREAM_")},
        check=False,
    )
    assert (ran.returncode, json.loads(ran.stdout)) == (0, {"done": ["a registrar has the new roster"]}), ran.stderr


def test_whoever_made_it_steers_its_workers(secure: SecureUp) -> None:
    def workers(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "attestream.cli", "--data-dir", str(secure.place.directory), "workers", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={name: value for name, value in os.environ.items() if not name.startswith("ATTESTREAM_")},
            check=False,
        )

    [listed] = json.loads(workers("list", "--json").stdout)
    assert listed["draining"] is False
    shown = workers("list").stdout
    assert listed["worker"] in shown
    assert "working" in shown
    refused = workers("drain", listed["worker"])
    assert refused.returncode != 0
    assert "no other worker" in refused.stderr
    balanced = workers("rebalance", "--json")
    assert json.loads(balanced.stdout)["moves"] >= 0, balanced.stderr
    assert json.loads(workers("undrain", listed["worker"], "--json").stdout)["draining"] is False


def test_no_secret_is_in_an_argument_the_environment_or_the_log(secure: SecureUp) -> None:
    place = secure.place
    secrets = [path.read_text().strip() for path in place.bus_keys.rglob("*.seed")]
    for path in (*place.credentials_directory.glob("*.creds"), *place.operators.glob("*/*.creds")):
        secrets += re.findall(r"^SU[A-Z2-7]+$", path.read_text(), flags=re.MULTILINE)
    for path in (*place.directory.glob("keys/*.pem"), *place.operators.glob("*/*.pem"), *place.tls.glob("*.key")):
        secrets.append("".join(path.read_text().splitlines()[1:-1])[-40:])
    assert len(secrets) > 25
    children = secure.children()
    assert len(children) == 4
    shown = [Path(f"/proc/{pid}/{what}").read_text() for pid in children for what in ("environ", "cmdline")]
    shown += [secure.log.read_text(), (place.bus / "nats.log").read_text(), (place.bus / "nats.conf").read_text()]
    assert not [text for text in shown for secret in secrets if secret in text]


def test_beyond_the_loopback_interface_the_bus_speaks_tls_alone(tmp_path: Path) -> None:
    running = SecureUp(tmp_path, "--listen", "0.0.0.0")
    try:
        assert running.url.startswith("tls://127.0.0.1:")
        path = running.place.credentials(Role.REGISTRAR)

        async def attempts() -> None:
            client = await log_in(running.url, path, ca=running.place.ca_file)
            assert client.is_connected
            await client.close()
            # Without the installation's CA the server is not believed.
            with pytest.raises((nats.errors.Error, OSError)):
                await log_in(running.url, path, max_reconnect_attempts=1)

        asyncio.run(attempts())
    finally:
        running.stop()


def test_an_insecure_bus_is_for_the_loopback_interface_alone(tmp_path: Path, cli) -> None:
    ran = cli("up", "--data-dir", str(tmp_path / "d"), "--insecure", "--listen", "0.0.0.0", "--port", "0")
    assert ran.code == 2
    assert "loopback" in ran.err
