"""Child processes that die when they are told to and stay dead: no supervisor blurs what the demonstration measures."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from attestream.embedded.orphan import die_with_parent

STOP_S: Final = 8.0
"""Seconds that programs have to stop after SIGTERM, before SIGKILL."""

_TAIL_BYTES: Final = 4096


class Program:
    """A program that writes its output to ``log``. Start it from the main thread, whose end also ends it."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 when it was never started, or was stopped or killed here."""
        return self._process.pid if self._process is not None else 0

    @property
    def accident(self) -> str:
        """How the program ended by itself; empty while it runs, and after :meth:`kill` or :func:`stop`."""
        if self._process is None or self._process.poll() is None:
            return ""
        return f"{self.name} has ended by itself (status {self._process.returncode}): {self._last_words()}"

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the demonstration, which then stops all in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
            )

    def kill(self) -> None:
        """End the program at once with SIGKILL, as a crash would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for the end until ``deadline`` (monotonic seconds), then kill."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def _last_words(self) -> str:
        lines = self.log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else "it has said nothing"


def stop(programs: Iterable[Program]) -> None:
    """Stop ``programs`` side by side; those that do not end in :data:`STOP_S` seconds are killed."""
    all_of_them = list(programs)
    for program in all_of_them:
        program.ask_to_stop()
    deadline = time.monotonic() + STOP_S
    for program in all_of_them:
        program.wait(deadline)
