"""Children are restarted, heard, and ended; none outlives its supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attestream.embedded import supervisor
from attestream.embedded.supervisor import Child, Supervisor
from attestream.errors import ConfigError
from attestream.process import EXIT_CONFIG


async def until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def shell(name: str, script: str) -> Child:
    return Child(name, ["/bin/sh", "-c", script])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def lines() -> list[str]:
    return []


def supervise(lines: list[str], *children: Child) -> Supervisor:
    return Supervisor(children, os.environ, write=lines.append)


async def test_logs_are_forwarded_by_name_also_a_last_line_without_an_end_and_one_without_bound(lines: list[str]) -> None:
    kept = supervise(
        lines,
        shell("a", "echo one; echo two >&2; printf three; exec sleep 60"),
        shell("long", "head -c 200000 /dev/zero | tr '\\0' x; exec sleep 60"),
    )
    kept.start()
    await until(lambda: sum(len(line) for line in lines if line.startswith("long")) > 190_000 and "a    | two" in lines)
    await kept.stop()
    assert "a    | one" in lines
    assert "a    | three" in lines
    assert max(map(len, lines)) < 70_000


async def test_a_child_that_dies_is_started_again(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    kept = supervise(lines, shell("a", "echo up; exec sleep 60"))
    kept.start()
    await until(lambda: len(lines) == 1)
    first = kept.pids["a"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(lines) == 2)
    assert kept.pids["a"] != first
    last = kept.pids["a"]
    await kept.stop()
    assert not alive(last)


async def test_restarts_of_a_child_that_dies_at_once_are_spaced_out(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.1, 0.4))
    kept = supervise(lines, shell("a", "echo up; exit 1"))
    began = time.monotonic()
    kept.start()
    await until(lambda: len(lines) == 4)
    await kept.stop()
    assert time.monotonic() - began >= 0.7


async def test_a_wrong_configuration_ends_it_all(lines: list[str]) -> None:
    kept = supervise(lines, shell("a", f"exit {EXIT_CONFIG}"), shell("b", "exec sleep 60"))
    kept.start()
    with pytest.raises(ConfigError, match="a can not use its configuration"):
        await asyncio.wait_for(kept.wait(), 30)
    await kept.stop()
    assert kept.pids == {}


async def test_who_is_tired_of_waiting_does_not_end_the_supervision(lines: list[str]) -> None:
    kept = supervise(lines, shell("a", "echo up; exec sleep 60"))
    kept.start()
    waiting = asyncio.create_task(kept.wait())
    await until(lambda: bool(lines))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    pid = kept.pids["a"]
    assert alive(pid)
    await kept.stop()
    assert not alive(pid)


async def test_a_child_that_does_not_listen_is_killed(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT_S", 0.3)
    kept = supervise(lines, shell("a", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    kept.start()
    await until(lambda: bool(lines))
    pid = kept.pids["a"]
    await kept.stop()
    assert not alive(pid)


async def test_what_a_child_left_behind_does_not_hold_its_restart_up(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(supervisor, "_LAST_LINES_S", 0.05)
    kept = supervise(lines, shell("a", "sleep 12 & echo up"))
    kept.start()
    await until(lambda: len(lines) >= 2, 10)
    await kept.stop()


def test_children_die_with_a_supervisor_that_is_killed() -> None:
    code = (
        "import asyncio, os, sys\n"
        "from attestream.embedded.supervisor import Child, Supervisor\n"
        "async def main():\n"
        "    kept = Supervisor([Child('a', ['/bin/sleep', '60'])], os.environ)\n"
        "    kept.start()\n"
        "    while not kept.pids: await asyncio.sleep(0.01)\n"
        "    print(kept.pids['a'], flush=True)\n"
        "    await kept.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.01)
