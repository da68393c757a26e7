"""Services that do not answer: what is known is shown, what is missing is said, and no silence reads as trusted."""

import asyncio
import json
import time

import pytest

from attestream.bus.connection import Bus
from schemas import subjects
from schemas.events import Finding, Result, Standing


@pytest.fixture
def attestream(bus: Bus, nats_server, inside):
    """The command line on a bus without any service."""

    async def run(*arguments: str):
        return await asyncio.to_thread(inside, "--url", nats_server.url, "--timeout", "0.3", *arguments)

    return run


async def result(bus: Bus, agent_id: str, life_ms: int = 60_000, path: str = "") -> None:
    now = time.time_ns() // 1_000_000
    findings = (
        [Finding(code="c", layer="runtime", severity="warning", culprit=path, message="m", remedy="r")] if path else []
    )
    message = Result(
        agent_id=agent_id,
        standing=Standing.TRUSTED,
        at=now,
        expires_at=now + life_ms,
        seq=1,
        event_number=1,
        enrolment=1,
        policy="p@1",
        findings=findings,
        worker="w",
        fence=1,
    )
    await bus.publish_durable(subjects.result(agent_id), message, message_id=agent_id)


async def test_a_command_without_a_verifier_is_accepted_and_says_so(attestream) -> None:
    ran = await attestream("agents", "stop", "a")
    assert ran.code == 3
    assert "will be executed when a verifier is back" in ran.err
    assert len(ran.err.splitlines()) == 1
    several = await attestream("agents", "stop", "b", "c", "--json")
    assert several.code == 3
    assert [failure["error"] for failure in several.json["failed"]] == ["command-pending"] * 2


async def test_status_says_who_is_silent(attestream) -> None:
    ran = await attestream("status")
    assert ran.code == 3
    assert ran.out.count("NO ANSWER") == 2
    assert (await attestream("status", "--json")).json["verifier"] is False


async def test_results_are_shown_while_they_hold_and_not_a_moment_longer(attestream, bus: Bus) -> None:
    """keylime#1091: a dead verifier must not leave its last word standing."""
    await result(bus, "fresh")
    await result(bus, "stale", life_ms=-1)
    ran = await attestream("agents", "list", "--json")
    assert ran.code == 0
    assert [(each["agent_id"], each["standing"]) for each in ran.json["agents"]] == [("fresh", "trusted")]
    assert (await attestream("agents", "show", "fresh", "--check")).code == 0
    stale = await attestream("agents", "show", "stale", "--check", "--json")
    assert stale.code == 3
    assert json.loads(stale.err)["error"] == "no-answer"
    assert "no verifier answers" in (await attestream("agents", "list")).err


async def test_a_path_from_an_attester_can_not_drive_the_terminal(attestream, bus: Bus) -> None:
    await result(bus, "a", path="/tmp/\x1b[2J[bold]\n")
    for command in (["agents", "list"], ["agents", "show", "a"]):
        ran = await attestream(*command)
        assert "\x1b" not in ran.out
        assert r"/tmp/\x1b[2J[bold]\n" in ran.out
