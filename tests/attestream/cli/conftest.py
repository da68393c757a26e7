"""A whole installation on this machine, as `attestream up` runs it, and the command line to speak to it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from attestream.cli.main import main
from attestream.installation.places import Installation

UNSIGNED = "ATTESTREAM_TRUST_UNSIGNED"


class Ran(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


Cli = Callable[..., Ran]


class Up:
    """A running `attestream up`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.place = Installation(directory)
        self.log: list[str] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "attestream.cli", "up", "--data-dir", str(directory), "--port", "0", "--insecure"),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment() | {"ATTESTREAM_VERIFIER_LEASE_FLOOR_S": "2"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())

    @property
    def url(self) -> str:
        """Where the bus is."""
        return self.place.url_file.read_text().strip()

    def wait_for(self, pattern: str, number: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until ``number`` lines of the log match."""
        deadline = time.monotonic() + timeout_s
        while sum(bool(re.search(pattern, line)) for line in self.log) < number:
            assert time.monotonic() < deadline, "\n".join(self.log)
            assert self._process.poll() is None, "\n".join(self.log)
            time.sleep(0.01)

    def wait_until_ready(self, workers: int = 2) -> None:
        """Wait until every service serves."""
        self.wait_for(r"registrar +\|.*ready")
        self.wait_for(r"notifier +\|.*ready")
        self.wait_for(r"verifier-\d +\|.*is ready", workers)

    def service_pids(self, module: str) -> list[int]:
        """Return the processes of one service."""
        parent = self._process.pid
        children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        return [pid for pid in children if module in Path(f"/proc/{pid}/cmdline").read_text()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it and return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(5)
        return code


def environment() -> dict[str, str]:
    """Return the environment without settings of ours, but for the word that nothing is signed on this bus."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATTESTREAM_", "FORCE_COLOR"))}
    return kept | {UNSIGNED: "true"}


@pytest.fixture
def cli() -> Cli:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: str, stdin: str = "", timeout_s: float = 60.0, **variables: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "attestream.cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment() | {"ATTESTREAM_TRUST_UNSIGNED": "true"} | variables,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process, which is quicker. It makes an event loop of its own: not from within one."""

    def run(*arguments: str, stdin: str = "") -> Ran:
        for name in set(os.environ) - set(environment()):
            monkeypatch.delenv(name)
        monkeypatch.setenv(UNSIGNED, "true")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(list(arguments))
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    return run


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One installation for all tests here."""
    running = Up(tmp_path_factory.mktemp("installation") / "data", "--accept-ek", "any")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def up_of_its_own(tmp_path: Path) -> Iterator[Up]:
    """A small installation for a test that ends it."""
    running = Up(tmp_path / "data", "--workers", "1")
    try:
        running.wait_until_ready(1)
        yield running
    finally:
        running.stop()
