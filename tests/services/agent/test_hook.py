"""The revocation hook: no shell, bounded time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from schemas.events import Finding, Revocation, Standing
from services.agent.hook import run_hook

FINDING = Finding(code="runtime.unknown", layer="runtime", severity="failure", culprit="/bin/evil", message="m", remedy="r")


REVOCATION = Revocation(
    id="event-1",
    agent_id="host-9",
    at=1,
    signed_at=1,
    standing=Standing.FAILED,
    enrolment=1,
    policy="web@1",
    findings=[FINDING],
)


async def test_the_hook_gets_the_revocation_and_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read() + sys.argv[2])"
    assert await run_hook([sys.executable, "-c", code, str(out), "$(id) ; `id`"], REVOCATION)
    text = out.read_text()
    found, end = json.JSONDecoder().raw_decode(text)
    assert text[end:] == "$(id) ; `id`"
    assert (found["id"], found["agent_id"], found["standing"]) == ("event-1", "host-9", "failed")
    assert found["findings"][0]["culprit"] == "/bin/evil"


@pytest.mark.parametrize("command", [["/no/such/program"], [sys.executable, "-c", "raise SystemExit('no')"]])
async def test_a_hook_that_fails_is_reported(command: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert not await run_hook(command, REVOCATION)
    assert "hook" in caplog.text


@pytest.mark.alone
async def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    code = f"while true; do date +%s%N > {alive}; sleep 0.02; done"
    start = time.monotonic()
    assert not await run_hook(["/bin/sh", "-c", f"sh -c '{code}' & sleep 60"], REVOCATION, timeout_s=0.5)
    assert time.monotonic() - start < 5
    last = alive.read_text()
    await asyncio.sleep(0.2)
    assert alive.read_text() == last


@pytest.mark.alone
async def test_a_hook_that_leaves_a_child_is_not_waited_for() -> None:
    start = time.monotonic()
    assert await run_hook(["/bin/sh", "-c", "sleep 5 &"], REVOCATION)
    assert time.monotonic() - start < 3
