"""People with credentials of their own on a whole secure installation, as `attestream up` runs it."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from attestream.bus.stored import Stored, last_messages
from attestream.clock import unix_ms
from attestream.credentials.nkey import Kind, NKey
from attestream.installation.roster import load_roster
from attestream.signing import Signer
from attestream.trust import publication
from devtools.bus_identities import connect_with, enrolled
from devtools.pool import allowing, make_agent
from devtools.secure_bus import log_in
from devtools.secure_up import PATIENCE_S, SecureUp, environment
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.commands import DeleteAgent
from schemas.events import DeadLetter, Event, EventKind
from schemas.roles import Role

PEOPLE = {"olga": "operator", "paul": "policy-author", "petra": "policy-author", "otto": "observer", "anna": "auditor"}


class People:
    """An installation with one agent that has enrolled, and people with a directory each."""

    def __init__(self, up: SecureUp, directory: Path) -> None:
        self.up = up
        self.directory = directory
        self.policy = directory / "policy.json"

    def add(self, name: str, role: str) -> Path:
        """Add somebody."""
        ran = self.up.run("operators", "add", name, "--role", role, "--output", str(self.directory / name))
        assert ran.returncode == 0, ran.stderr
        return self.directory / name

    def does(self, name: str, *arguments: str) -> str:
        """Return what becomes of a command of ``name``: ``done``, or the code of its refusal."""
        ran = self.up.run("--credentials", str(self.directory / name), *arguments, "--json")
        assert "Traceback" not in ran.stderr
        if ran.returncode == 0:
            return "done"
        # About agents, each has its own outcome.
        return json.loads(ran.stderr)["error"] if ran.stderr else json.loads(ran.stdout)["failed"][0]["error"]

    def push(self, name: str, *paths: str) -> str:
        """Push a policy as ``name``."""
        self.policy.write_text(json.dumps(allowing("boot_aggregate", *paths)))
        return self.does(name, "policy", "push", "web", str(self.policy))

    def record(self, kind: EventKind) -> list[Event]:
        """Return the last event of ``kind`` about each of whom it tells, as an auditor reads them."""

        return [decode(message.data, Event) for message in self._read(topology.EVENTS.name, subjects.events_of_kind(kind))]

    def dead_commands(self) -> list[DeadLetter]:
        """Return the last command that could not be processed, with its reason, as an auditor reads it."""
        return [decode(message.data, DeadLetter) for message in self._read(topology.DEAD.name, subjects.dead("COMMANDS"))]

    def _read(self, stream: str, subject: str) -> list[Stored]:
        async def read() -> list[Stored]:
            bus = await connect_with(self.up.url, self.directory / "anna" / "bus.creds")
            try:
                return await last_messages(bus, stream, [subject])
            finally:
                await bus.close()

        return asyncio.run(read())

    def told(self, kind: EventKind, text: str) -> str:
        """Return who has done what the record tells with ``text``, once it does."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for event in self.record(kind):
                if text in (event.detail, event.policy):
                    return event.actor
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    directory = tmp_path_factory.mktemp("people")
    up = SecureUp(directory)
    asyncio.run(enrol(up))
    made = People(up, directory)
    for name, role in PEOPLE.items():
        made.add(name, role)
    assert made.push("paul") == "done"
    assert made.does("olga", "agents", "add", "machine", "--policy", "web") == "done"
    yield made
    assert up.stop() == 0


async def enrol(up: SecureUp) -> None:
    bus = await connect_with(up.url, up.place.credentials(Role.ENROLMENT))
    for agent_id in ("machine", "spare"):
        await enrolled(bus, make_agent(agent_id), NKey.generate(Kind.USER))
    await bus.close()


def test_each_role_does_what_it_may_and_nothing_else(people):
    add = ("agents", "add", "spare", "--policy", "web")
    for name in ("paul", "otto", "anna"):
        assert people.does(name, *add) == "forbidden"
    for name in ("olga", "otto", "anna"):
        assert people.push(name) == "forbidden"
    assert people.does("olga", *add) == "done"
    assert people.does("anna", "agents", "list") == "done"


def test_the_record_tells_who_has_added_whom(people):
    for name, role in PEOPLE.items():
        assert people.told(EventKind.OPERATOR_ADDED, f"{role} {name}") == "admin"


def test_a_copy_of_the_installation_that_is_behind_takes_the_newest_list_first(people):
    behind = people.up.place.roster.read_bytes()
    people.add("ada", "observer")
    people.up.place.roster.write_bytes(behind)
    people.add("ben", "observer")
    assert {"ada", "ben"} < {key.name for key in load_roster(people.up.place).keys}


def test_a_directory_is_all_that_its_owner_needs_elsewhere(people, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "attestream.cli", "--url", people.up.url, "operators", "list", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=environment() | {"HOME": str(tmp_path), "ATTESTREAM_CREDENTIALS": str(people.directory / "paul")},
    )
    assert ran.returncode == 0, ran.stderr
    assert set(PEOPLE) < {each["name"] for each in json.loads(ran.stdout)["operators"]}


def test_a_policy_needs_two_people_where_the_roster_says_so(people):
    assert people.up.run("operators", "approvals", "2").returncode == 0
    assert people.told(EventKind.ROSTER_APPROVALS, "2") == "admin"
    for number in itertools.count():
        # A worker's roster is a second old at most.
        assert people.push("paul", f"/usr/bin/{number}") == "done"
        versions = json.loads(people.up.run("policy", "list", "--json").stdout)
        if versions[-1]["state"] == "proposed":
            break
    reference = f"web@{versions[-1]['version']}"
    update = ("agents", "update", "machine", "--policy", reference)
    assert people.does("olga", *update) == "policy-unapproved"
    approve = ("policy", "approve", reference)
    assert [people.does(name, *approve) for name in ("paul", "olga", "otto")] == ["forbidden"] * 3
    assert people.does("petra", *approve, "--digest", "0" * 64) == "policy-invalid"
    assert people.does("petra", *approve, "--digest", versions[-1]["digest"]) == "done"
    assert people.does("olga", *update) == "done"
    assert people.told(EventKind.POLICY_PROPOSED, reference) == "paul"
    assert people.told(EventKind.POLICY_APPROVED, reference) == "petra"


def test_who_is_revoked_is_out_with_all_that_was_signed_before(people):
    directory = people.add("rudi", "operator")
    command = DeleteAgent(command_id=uuid.uuid4().hex, agent_id="machine")
    subject, data = subjects.command("machine"), encode(command)
    signer = Signer.load(directory / "signing.pem")

    async def revoke():
        closed = asyncio.Event()

        async def on_closed():
            closed.set()

        client = await log_in(people.up.url, directory / "bus.creds", closed_cb=on_closed)
        signature = publication.sign(signer, subject, data, unix_ms())
        ran = await asyncio.to_thread(people.up.run, "operators", "revoke", "rudi")
        assert ran.returncode == 0, ran.stderr
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        assert client.is_closed
        # Somebody else puts on the bus what he has signed while he counted.
        accomplice = await connect_with(people.up.url, people.directory / "olga" / "bus.creds")
        headers = {subjects.HEADER_SIGNATURE: signature}
        await accomplice.publish_durable(subject, data, message_id="replayed", headers=headers)
        await accomplice.close()

    asyncio.run(revoke())
    assert people.told(EventKind.OPERATOR_REVOKED, "operator rudi") == "admin"
    deadline = time.monotonic() + PATIENCE_S
    while not (dead := [letter for letter in people.dead_commands() if letter.data == data]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "was revoked" in dead[0].message
    assert people.does("rudi", "agents", "list") == "forbidden"
    assert people.does("olga", "agents", "show", "machine") == "done"
