"""nats-servers that run from configurations which an installation has rendered, as an administrator would start them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attestream.embedded.nats import find_server
from attestream.embedded.orphan import die_with_parent

_START_S: Final = 20.0
_STOP_S: Final = 10.0


class BusServer:
    """The server whose configuration is in ``directory``. ``launcher`` stands before its command."""

    def __init__(self, directory: Path, *, launcher: Sequence[str] = ()) -> None:
        self.directory = directory
        self._launcher = list(launcher)
        self.log = directory / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it serves. Servers of a cluster need each other: start all, then :meth:`wait`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._launcher,
                    find_server(),
                    "-c",
                    str(self.directory / "nats.conf"),
                    "--ports_file_dir",
                    str(self.directory),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it serves."""
        assert self._process is not None
        ready = self.directory / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + _START_S
        while not ready.exists():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stall it until :meth:`thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_STOP_S)
            self._process = None
