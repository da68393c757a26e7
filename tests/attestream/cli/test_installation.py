"""The commands against a whole installation: agents with software TPMs enrol, are attested, tampered with, and revoked."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from attestream.bus.connection import Bus, BusSettings, connect
from devtools.pool import allowing, digest_of, make_agent
from devtools.soft_agent import SoftAgent
from devtools.soft_fleet import SoftFleet
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled


@pytest.fixture
async def link(up) -> AsyncIterator[Bus]:
    connection = await connect(BusSettings(urls=[up.url], name="test agents"))
    yield connection
    await connection.close()


@pytest.fixture
async def fleet(link: Bus) -> AsyncIterator[Callable[..., Awaitable[SoftFleet]]]:
    """Enrol agents by their ids, and have them answer challenges."""
    fleets: list[SoftFleet] = []

    async def enrolled(*ids: str) -> SoftFleet:
        made = SoftFleet(link, [make_agent(id_) for id_ in ids])
        for agent in made.agents.values():
            await enrol(link, agent)
        await made.start()
        fleets.append(made)
        return made

    yield enrolled
    for made in fleets:
        await made.stop()


async def enrol(bus: Bus, agent: SoftAgent) -> None:
    request = agent.enrol_request()
    challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
    activation = ActivateRequest(
        agent_id=agent.agent_id,
        challenge_id=challenge.challenge_id,
        proof=agent.proof(encode(request), encode(challenge)),
    )
    agent.enrolment = (await bus.request(subjects.REGISTRAR_ACTIVATE, activation, Enrolled)).enrolment


@pytest.fixture
def attestream(up, inside):
    """The command line on the installation, beside the event loop."""

    async def run(*arguments: str, **options: Any) -> Any:
        return await asyncio.to_thread(inside, "--data-dir", str(up.place.directory), *arguments, **options)

    return run


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 40.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
    return value


def policy_file(tmp_path: Path, *paths: str) -> str:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(allowing("boot_aggregate", *paths)))
    return str(path)


async def test_from_enrolment_to_revocation(attestream, fleet, tmp_path: Path) -> None:
    made = await fleet("web.1", "web.2")
    pushed = await attestream("policy", "push", "web", policy_file(tmp_path, "/usr/bin/ls"), "--json")
    assert pushed.json == {"policy": "web@1", "state": "approved"}
    listed = (await attestream("agents", "list", "--json")).json
    assert {each["agent_id"]: each["standing"] for each in listed["agents"]} == {"web.1": "enrolled", "web.2": "enrolled"}

    added = await attestream("agents", "add", "web.1", "web.2", "--policy", "web", "--interval", "300ms")
    assert (added.code, added.out) == (0, "added 2 of 2\n")
    await until(lambda: trusted(attestream, "web.1"))
    await until(lambda: trusted(attestream, "web.2"))
    shown = (await attestream("agents", "show", "web.1", "--json")).json
    assert (shown["policy"], shown["interval_ms"], shown["enrolment"]) == ("web@1", 300, 1)

    made.agents["web.1"].run("/usr/bin/evil", digest_of("/tmp/evil"))
    revoked = await attestream("revocations", "tail", "--from-start", "--count", "1", "--durable", "siem", "--json")
    assert revoked.code == 0
    assert revoked.json["agent_id"] == "web.1"
    assert [finding["culprit"] for finding in revoked.json["findings"]] == ["/usr/bin/evil"]
    assert (await attestream("agents", "show", "web.1", "--check")).code == 4
    assert (await attestream("agents", "show", "web.2", "--check")).code == 0
    table = await attestream("agents", "list", "--standing", "failed")
    assert "web.1" in table.out
    assert "/usr/bin/evil" in table.out
    assert "web.2" not in table.out
    assert "\x1b" not in table.out

    events = await attestream("events", "tail", "--from-start", "--agent", "web.1", "--count", "4", "--json")
    kinds = [json.loads(line)["kind"] for line in events.out.splitlines()]
    assert kinds == ["enrolled", "added", "trusted", "failed"]
    human = await attestream("events", "tail", "--since", "1h", "--kind", "failed", "--count", "1")
    assert "web.1" in human.out
    assert "/usr/bin/evil" in human.out

    async def settled() -> Any:
        found = await attestream("status", "--json")
        return found if sum(len(worker["partitions"]) for worker in found.json["workers"]) == 64 else None

    status = await until(settled)
    assert status.code == 0
    assert status.json["standings"]["failed"] == 1
    assert revoked.json["key_id"] in status.json["notifier_keys"]
    assert "NO ANSWER" not in (await attestream("status")).out


async def trusted(attestream, agent_id: str) -> bool:
    return (await attestream("agents", "show", agent_id, "--check")).code == 0


async def test_the_life_of_an_agent(attestream, fleet, tmp_path: Path) -> None:
    await fleet("life")
    await attestream("policy", "push", "life", policy_file(tmp_path))
    assert (await attestream("agents", "add", "life", "--policy", "life@1", "--interval", "300ms")).out == "added life\n"
    await until(lambda: trusted(attestream, "life"))
    again = await attestream("agents", "add", "life", "--policy", "life", "--json")
    assert again.code == 1
    assert again.json["failed"][0]["error"] == "agent-exists"
    assert (await attestream("agents", "stop", "life")).code == 0
    assert (await attestream("agents", "show", "life", "--json")).json["standing"] == "stopped"
    assert (await attestream("agents", "start", "life")).code == 0
    await until(lambda: trusted(attestream, "life"))
    assert (await attestream("agents", "update", "life", "--policy", "life", "--interval", "400ms")).code == 0
    assert (await attestream("agents", "show", "life", "--json")).json["interval_ms"] == 400
    assert (await attestream("agents", "delete", "life")).code == 0
    assert (await attestream("enrolments", "delete", "life")).code == 0
    gone = await attestream("enrolments", "delete", "life", "--json")
    assert gone.code == 1
    assert json.loads(gone.err)["error"] == "agent-unknown"


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["agents", "show", "nobody"], "there is no agent nobody"),
        (["agents", "show", "no body"], "not an agent id"),
        (["agents", "stop", "nobody"], "nobody"),
        (["agents", "add", "nobody", "--policy", "nothing"], "nothing"),
        (["policy", "show", "nothing"], "there is no policy nothing"),
        (["policy", "show", "a@b"], "not a version"),
        (["policy", "push", "bad name", "-"], "not a policy name"),
        (["policy", "push", "bad", "-"], "bank"),
    ],
)
async def test_what_is_refused_is_one_line_and_exit_code_1(attestream, arguments: list[str], clue: str) -> None:
    ran = await attestream(*arguments, stdin='{"format":"attestream-policy/1"}')
    assert ran.code == 1
    assert clue in ran.err
    assert len(ran.err.strip().splitlines()) == 1


async def test_a_policy_comes_back_as_it_was_pushed(attestream, tmp_path: Path) -> None:
    path = policy_file(tmp_path, "/bin/y")
    assert (await attestream("policy", "push", "same", path)).out == "published same@1\n"
    assert (await attestream("policy", "push", "same", path)).out == "published same@1\n"
    assert (await attestream("policy", "push", "same", policy_file(tmp_path))).out == "published same@2\n"
    path = policy_file(tmp_path, "/bin/y")
    shown = await attestream("policy", "show", "same@1")
    assert json.loads(shown.out) == json.loads(Path(path).read_text())
    assert (await attestream("policy", "show", "same", "--json")).json["record"]["version"] == 2
    assert "same@2" in (await attestream("policy", "list")).out
    assert {
        record["version"] for record in (await attestream("policy", "list", "--json")).json if record["name"] == "same"
    } == {1, 2}


async def test_a_list_is_added_and_failures_are_named(attestream, fleet, tmp_path: Path) -> None:
    await fleet(*(f"bulk-{number}" for number in range(20)))
    await attestream("policy", "push", "bulk", policy_file(tmp_path))
    lines = [f"bulk-{number},bulk,5s" for number in range(20)] + ["stranger,bulk,5s", "bulk-x,missing,5s"]
    (tmp_path / "agents.csv").write_text("id,policy,interval\n" + "\n".join(lines))
    ran = await attestream("agents", "add", "--from", str(tmp_path / "agents.csv"))
    assert ran.code == 1
    assert ran.out == "added 20 of 22\n"
    assert "stranger: " in ran.err
    assert "bulk-x: " in ran.err
    again = await attestream("agents", "add", "--from", "-", "--policy", "bulk", "--json", stdin="bulk-1\nbulk-2\n")
    assert {failure["error"] for failure in again.json["failed"]} == {"agent-exists"}


async def test_a_second_up_on_the_same_directory_is_refused(cli, up) -> None:
    ran = await asyncio.to_thread(cli, "up", "--data-dir", str(up.place.directory), "--port", "0")
    assert ran.code == 2
    assert "in use by another" in ran.err


async def test_a_killed_service_and_a_killed_bus_come_back(attestream, up, link: Bus) -> None:
    for module in ("services.registrar", "services.verifier", "services.notifier"):
        os.kill(up.service_pids(module)[0], signal.SIGKILL)
    os.kill(up.service_pids("nats-server")[0], signal.SIGKILL)

    async def well() -> bool:
        status = await attestream("--timeout", "2", "status", "--json")
        return status.code == 0 and len(status.json["workers"]) >= 2

    await until(well, 30)


def test_ctrl_c_ends_everything_in_order(up_of_its_own) -> None:
    services = [pid for module in ("services", "nats-server") for pid in up_of_its_own.service_pids(module)]
    assert len(services) == 4
    assert up_of_its_own.stop(signal.SIGINT) == 0
    # A killed process may stay as a zombie in a container without an init; these were all waited for.
    assert not any(Path(f"/proc/{pid}").exists() for pid in services)
    assert not up_of_its_own.place.url_file.exists()
    assert "the bus has stopped" in up_of_its_own.log[-1]


def test_an_interrupted_tail_says_so_by_its_exit_code(up, cli) -> None:
    tail = subprocess.Popen(
        [sys.executable, "-m", "attestream.cli", "--url", up.url, "events", "tail", "--from-start", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ATTESTREAM_TRUST_UNSIGNED": "true"},
    )
    cli("--url", up.url, "policy", "push", "tail", "-", stdin=json.dumps(allowing("boot_aggregate")))
    assert tail.stdout is not None
    assert tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=40)
    assert tail.returncode == 130
    assert "Traceback" not in err
