"""The demonstration as a newcomer runs it: a subprocess, its exit code, what it says, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)

MACHINES = ("web", "db", "build")


class Demo:
    """A run of the demonstration."""

    def __init__(self, temporary: Path, *options: str) -> None:
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devtools.demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "ATTESTREAM_BUS_URLS": "nats://192.0.2.1:4222"},
        )
        self.text = ""

    def read_until(self, wanted: str) -> None:
        """Read what it says up to a line with ``wanted``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if wanted in line:
                return
        raise AssertionError(f"it has ended without saying {wanted!r}:\n{self.text}")

    def end(self) -> int:
        """Read the rest and return the exit code."""
        self.text += self.process.communicate()[0]
        return self.process.returncode

    @property
    def kept(self) -> list[Path]:
        """Directories that it has left."""
        return list(self.temporary.glob("attestream-demo-*"))

    @property
    def survivors(self) -> list[str]:
        """Command lines of the processes that it has left: each names a file in its directory."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:  # it ended meanwhile
                continue
            if f"{self.temporary}/attestream-demo-" in words:
                found.append(words)
        return found


@pytest.fixture
def play(tmp_path: Path) -> Iterator[type[Demo]]:
    started: list[Demo] = []

    def start(*options: str) -> Demo:
        started.append(Demo(tmp_path, "--deadline", "60", *options))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.end()


def test_every_step_is_observed(play) -> None:
    demo = play()
    assert demo.end() == 0, demo.text
    said = re.sub(r" +", " ", demo.text)
    for wanted in (
        *(f"* {name}: its EK is certified by the TPM's maker" for name in MACHINES),
        *(f"* {name}: quote, PCR 10 and IMA log agree with the policy: trusted" for name in MACHINES),
        "* db: the log grew from 5 to 6 entries, a quote proves them all, still trusted",
        "* db failed: runtime.path-unknown, culprit /usr/local/bin/implant",
        "* an outside subscriber has the revocation, signature by key",
        *(f"* {name}: its agent verified the revocation and ran its hook" for name in ("web", "build")),
        "* db: trusted again, on a log of 5 entries",
        *(f"* {name}: the broker removed its result and said so" for name in MACHINES),
        "* whoever asks now is told: web, db and build are unknown",
        "All 8 steps were observed",
    ):
        assert wanted in said
    assert len(re.findall(r"\* (?:web|db|build): (?:taken over and attested|attested as before) by verifier-\d", said)) == 3
    assert "taken over and attested" in said
    table = demo.text.partition("Milliseconds\n")[2].partition("\n\n")[0].splitlines()
    figures = {cells[-2]: int(cells[-1]) for cells in (re.split(r" {2,}", line.rstrip()) for line in table)}
    assert len(figures) == len(table)
    assert {"failure", "outside", "web's hook", "build's hook", "db attested", "db unknown"} <= figures.keys()
    # The subscriber reads the record beside the agents: which of them sees it first is nobody's promise.
    assert all(0 < figures[what] < 20_000 for what in ("failure", "outside", "web's hook", "build's hook"))
    assert "\x1b" not in demo.text
    assert "INFO" not in demo.text
    assert demo.survivors == demo.kept == []


def test_a_program_that_does_no_harm_fails_the_step_that_waits_for_harm(play) -> None:
    demo = play("--intruder", "/usr/bin/rsync")
    assert demo.end() == 1, demo.text
    last = demo.text.splitlines()[-1]
    assert last.startswith(
        "Step 5 (Run an unknown program) was not observed: db has run /usr/bin/rsync and is still trusted"
    )
    (kept,) = demo.kept
    assert last.endswith(f"The logs are in {kept}/logs")
    assert (kept / "logs" / "verifier-1.log").stat().st_size > 0
    assert demo.survivors == []


def test_what_does_not_happen_in_time_is_not_observed(play) -> None:
    demo = play("--deadline", "0.05")
    assert demo.end() == 1, demo.text
    assert (
        "Step 1 (Start the services) was not observed: the answer of every service did not happen within 0.05 s" in demo.text
    )
    assert len(demo.kept) == 1
    assert demo.survivors == []


def test_an_interruption_leaves_nothing_behind(play) -> None:
    demo = play()
    demo.read_until("2. Enrol three machines")
    assert demo.survivors != []
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 128 + signal.SIGINT
    assert demo.survivors == demo.kept == []


def test_the_command_line_shows_the_demonstrations_own_options() -> None:
    command = [sys.executable, "-m", "attestream.cli", "demo", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in ("--keep", "--intruder PATH", "--deadline SECONDS"):
        assert option in shown
