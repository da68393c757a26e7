"""The life of a private database server for tests: its own directory, a Unix socket, gone when it is removed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

_LOOK_S = 0.05
_STOPPING_S = 0.001
_TOLD = 4000


class DatabaseServer(ABC):
    """One server. None runs as root, so root starts it as ``account``, or as ``nobody`` where there is no such account."""

    product: ClassVar[str]
    account: ClassVar[str]
    start_s: ClassVar[float]
    """How long it may take to start, in seconds."""
    stop_s: ClassVar[float]
    """How long it may take to stop before it is killed, in seconds."""
    stopping: ClassVar[signal.Signals]
    """Has it stop, its clients cut off."""
    crashing: ClassVar[signal.Signals]
    """Has it end at once."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"attestream-{self.account}-"))
        self._user, self._group = _owner(self.account)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None and self._group is not None:
            os.chown(self._directory, self._user, self._group)

    @abstractmethod
    def new_database(self) -> str:
        """Create an empty database and return its URL."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the server's command."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server takes connections."""

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises RuntimeError: when it does not in time; the text ends with its log.
        """
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdout=output, stderr=output, cwd=self._directory, user=self._user, group=self._group
            )
        deadline = time.monotonic() + self.start_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(_LOOK_S)
        self.stop()
        raise RuntimeError(f"{self.product} did not start:\n{log.read_text(errors='replace')[-_TOLD:]}")

    def stop(self) -> None:
        """Stop the server, its clients cut off. The databases stay until :meth:`remove`."""
        self._end(self.stopping)

    def crash(self) -> None:
        """End the server at once, as after a crash: what was not written ahead is gone."""
        self._end(self.crashing)

    def freeze(self) -> None:
        """Stop the server from doing anything, without its end: clients stay connected and hear nothing."""
        for pid in self._signal(signal.SIGSTOP):
            _until_stopped(pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """End the server and delete its directory."""
        self.crash()
        shutil.rmtree(self._directory)

    def _signal(self, number: signal.Signals) -> list[int]:
        """Send a signal to the server's processes, and return those that there are."""
        if self._process is None:
            return []
        # PostgreSQL has a process for each connection, in a session of its own.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        pids = [self._process.pid, *map(int, children.split())]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments],
            check=False,
            capture_output=True,
            cwd=self._directory,
            user=self._user,
            group=self._group,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {(done.stdout + done.stderr).decode(errors='replace')[-_TOLD:]}")


def _until_stopped(pid: int) -> None:
    """Wait until every thread of a process that was told to has stopped: one may still be running elsewhere."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while thread.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] not in "TZX":
                time.sleep(_STOPPING_S)


def _owner(account: str) -> tuple[int | None, int | None]:
    """Return the user and group to run as; nothing to change unless this is root."""
    if os.geteuid() != 0:
        return None, None
    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid
