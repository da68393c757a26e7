"""A whole life of an installation, with every service at its most talkative: no secret is in what anybody wrote, in an
argument, or in the environment."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from attestream.cli.main import main
from attestream.credentials.document import parse
from attestream.credentials.nkey import Kind, NKey
from attestream.embedded.stack import LOOPBACK
from attestream.installation.places import Installation
from devtools.audit.secrets import forms, scan
from devtools.bus_identities import activation, challenged, connect_with
from devtools.demo.machine import Machine
from devtools.demo.programs import Program, stop
from devtools.pool import make_agent
from schemas import subjects
from schemas.enrolment import Enrolled
from schemas.roles import Role
from services.agent import bus_key, identity

NAME = "web"
PATIENCE_S = 60.0
TALKATIVE = {"ATTESTREAM_LOG_LEVEL": "debug", "PYTHONUNBUFFERED": "1"}
CULPRIT = "/opt/intruder"


def clean(**more):
    return {name: value for name, value in os.environ.items() if not name.startswith("ATTESTREAM_")} | TALKATIVE | more


class Life:
    """`attestream up` and one machine, and what all of them have shown so far."""

    def __init__(self, directory, monkeypatch, capsys) -> None:
        self.directory = directory
        self.place = Installation(directory / "installation")
        self.shown: list[str] = []
        self._monkeypatch, self._capsys = monkeypatch, capsys
        arguments = ["up", "--data-dir", str(self.place.directory), "--port", "0", "--workers", "1", "--accept-ek", "any"]
        self.up = Program(
            "up",
            [sys.executable, "-m", "attestream.cli", *arguments],
            clean(ATTESTREAM_VERIFIER_LEASE_FLOOR_S="2"),
            directory / "up.log",
        )
        self.machine: Machine | None = None

    def start(self) -> None:
        self.up.start()
        for pattern in (r"registrar +\|.*ready", r"notifier +\|.*ready", r"verifier-1 +\|.*is ready"):
            self.wait(lambda pattern=pattern: re.search(pattern, self.up.log.read_text()))
        url = self.place.url_file.read_text().split()[0]
        assert LOOPBACK in url
        environment = clean(ATTESTREAM_BUS_URLS=url, ATTESTREAM_AGENT_IDENTITY_KEY="file")
        self.machine = Machine(NAME, self.directory / "machine", self.directory, environment, ak="p256", place=self.place)
        self.machine.manufacture()

    @property
    def url(self) -> str:
        return self.place.url_file.read_text().split()[0]

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, self.up.log.read_text()[-6000:]
            assert not self.up.accident, self.up.accident
            time.sleep(0.05)
        return found

    def cli(self, *arguments: str):
        """Run a command in this process; all that it writes is kept."""
        for name in [name for name in os.environ if name.startswith("ATTESTREAM_")]:
            self._monkeypatch.delenv(name)
        code = main(["--data-dir", str(self.place.directory), *arguments])
        written = self._capsys.readouterr()
        self.shown += [written.out, written.err]
        assert code == 0, written.err
        return written.out

    def standing(self) -> str:
        return json.loads(self.cli("agents", "show", NAME, "--json"))["standing"]

    def look_at_processes(self) -> int:
        """Keep the arguments and the environment of bus, services and agent; return how many there are."""
        pids = [self.up.pid, self.machine.agent.pid]
        pids += [int(pid) for pid in Path(f"/proc/{self.up.pid}/task/{self.up.pid}/children").read_text().split()]
        self.shown += [Path(f"/proc/{pid}/{what}").read_text() for pid in pids for what in ("cmdline", "environ")]
        return len(pids)

    def written(self) -> list[str]:
        """Return everything that was shown: by commands, in logs, in the server's configuration, to ``ps``."""
        logs = [*self.directory.rglob("*.log"), *self.directory.rglob("nats.conf")]
        assert {log.name for log in logs} == {"up.log", f"agent-{NAME}.log", "nats.log", "nats.conf", "swtpm.log"}
        return self.shown + [log.read_text(errors="replace") for log in logs]

    def close(self) -> None:
        if self.machine is not None:
            self.machine.shut_down()
        stop([self.up])


@pytest.fixture
def life(tmp_path, monkeypatch, capsys):
    made = Life(tmp_path, monkeypatch, capsys)
    try:
        made.start()
        yield made
    finally:
        made.close()


def secrets_in(directory: Path) -> dict[str, bytes]:
    """Return every secret that a file below ``directory`` holds, by the file's name."""
    found = {}
    for path in directory.rglob("*"):
        if path.suffix == ".seed":
            found[str(path)] = NKey.from_seed(path.read_text().strip()).private_bytes()
        elif path.suffix == ".creds":
            held = parse(path.read_text())
            found[str(path)], found[f"{path} token"] = held.key.private_bytes(), held.token.encode()
        elif path.suffix == ".secret":
            found[str(path)] = path.read_bytes().strip()
        elif path.is_file() and b"PRIVATE KEY-----" in (text := path.read_bytes()):
            found[str(path)] = private_part(load_pem_private_key(text, None))
    return found


def private_part(key) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.private_numbers().p.to_bytes(key.key_size // 16, "big")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


async def enrol_by_hand(life: Life) -> dict[str, bytes]:
    """Enrol an agent whose TPM is in this process, and return the secrets of it that the registrar has seen or made."""
    agent, key, opened = make_agent("by-hand"), NKey.generate(Kind.USER), []
    activate = agent.tpm.activate
    agent.tpm.activate = lambda *arguments: opened.append(activate(*arguments)) or opened[-1]
    bus = await connect_with(life.url, life.place.credentials(Role.ENROLMENT))
    request = agent.enrol_request(bus_key=key.public)
    answer = activation(agent, request, await challenged(bus, request), key)
    enrolled = await bus.request(subjects.REGISTRAR_ACTIVATE, answer, Enrolled, timeout_s=30)
    await bus.close()
    assert enrolled.bus_token
    return {
        "activation secret": opened[0],
        "proof": answer.proof,
        "its bus key": key.private_bytes(),
        "its token": enrolled.bus_token.encode(),
    }


def test_no_secret_is_written_in_a_whole_life(life, tmp_path):
    machine = life.machine
    asyncio.run(machine.boot())
    life.wait(lambda: "is ready" in machine.agent.log.read_text())
    secrets = asyncio.run(enrol_by_hand(life))
    policy = tmp_path / "policy.json"
    (tmp_path / "ima").write_bytes(machine.ima_log)
    policy.write_text(life.cli("policy", "learn", str(tmp_path / "ima")))
    life.cli("policy", "push", "base", str(policy))
    life.cli("agents", "add", NAME, "--policy", "base", "--interval", "1s")
    life.wait(lambda: life.standing() == "trusted")
    assert life.look_at_processes() == 6

    asyncio.run(machine.run(CULPRIT))
    life.wait(lambda: f"agent {NAME} is cut off" in life.up.log.read_text())
    secrets |= secrets_in(life.place.directory)
    life.cli("operators", "add", "olga", "--role", "operator")
    life.cli("keys", "rotate", "verifier", "--overlap", "1h")
    secrets |= {f"{name} after": value for name, value in secrets_in(life.place.directory).items()}
    asyncio.run(machine.boot())
    life.cli("agents", "start", NAME)
    life.wait(lambda: life.standing() == "trusted")
    life.cli("operators", "revoke", "olga")
    life.look_at_processes()
    kept = tmp_path / "machine" / "agent"
    secrets |= {
        "the agent's bus key": (kept / bus_key.FILES["file"]).read_bytes(),
        "its transport key": identity.load(kept, NAME).transport_private,
    }
    life.close()

    assert any("olga" in name for name in secrets)
    assert len(secrets) > 60
    written = life.written()
    assert sum(text.count(" DEBUG ") for text in written) > 20
    for name, secret in secrets.items():
        for form in (*forms(secret), base64.b32encode(secret).rstrip(b"=")):
            assert not any(form.decode("latin-1") in text for text in written), f"{name} was written"
    # The server's configuration names the accounts by their tokens, which are public; a user's token is nowhere.
    found = {each.kind for text in written for each in scan(text.encode())}
    assert found == {"bus token"}
    configuration = (life.place.bus / "nats.conf").read_text()
    assert not any(scan(text.encode()) for text in written if text != configuration)
