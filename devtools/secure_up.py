"""`attestream up` with its defaults, as a process: an installation on which everybody needs an identity."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from attestream.installation.places import IDENTIFIED, Installation

PATIENCE_S: Final = 60.0


class SecureUp:
    """A running `attestream up` with its defaults, on a free port."""

    def __init__(self, directory: Path, *arguments: str, **variables: str) -> None:
        self.place = Installation(directory / "data")
        self.log = directory / "up.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "attestream.cli", "up", "--data-dir", str(self.place.directory)),
                    *("--port", "0", "--workers", "1", "--accept-ek", "any", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | variables,
            )
        try:
            for pattern in (r"registrar +\|.*ready", r"notifier +\|.*ready", r"verifier-1 +\|.*is ready"):
                self.wait_for(pattern)
        except BaseException:
            # Nobody else could.
            self.stop()
            raise

    def wait_for(self, pattern: str) -> None:
        """Wait until the log says it.

        :raises AssertionError: when it ends instead, or takes too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.log.read_text()):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"it did not say {pattern}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    @property
    def url(self) -> str:
        """Where the bus is."""
        url, note = self.place.url_file.read_text().split()
        if note != IDENTIFIED:
            raise AssertionError(f"the bus asks nobody who they are: {note}")
        return url

    def children(self) -> list[int]:
        """Return the processes of bus and services."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> int:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the installation, as its user does."""
        return subprocess.run(
            [sys.executable, "-m", "attestream.cli", "--data-dir", str(self.place.directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=environment(),
        )


def environment() -> dict[str, str]:
    """Return the environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ATTESTREAM_")}
