"""A private PostgreSQL server for tests: its own directory, a Unix socket only, gone when it is stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0

_SETTINGS: Final = {
    "listen_addresses": "",
    # The data live as long as the test: they must survive the server's death, not the machine's.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "autovacuum": "off",
}


class Postgres:
    """One server. PostgreSQL refuses to run as root, so root starts it as ``postgres`` or ``nobody``."""

    def __init__(self) -> None:
        self._binaries = _find_binaries()
        self._directory = Path(tempfile.mkdtemp(prefix="attestream-pg-"))
        self._user, self._group = _account()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None and self._group is not None:
            os.chown(self._directory, self._user, self._group)
        self._run("initdb", "--pgdata", self._data, "--username=attestream", "--auth=trust", "--no-sync", "--encoding=UTF8")

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises RuntimeError: when it does not within 20 seconds; the text ends with its log.
        """
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", self._data, "-k", str(self._directory), *settings],
                stdout=output,
                stderr=output,
                cwd=self._directory,
                user=self._user,
                group=self._group,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            ready = subprocess.run(
                [self._binaries / "pg_isready", "-q", "-h", self._directory], check=False, stdout=subprocess.DEVNULL
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Stop the server, its clients cut off. The databases stay until :meth:`remove`."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server at once, as after a crash: what was not written ahead is gone."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        self.stop()
        shutil.rmtree(self._directory)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self._run("createdb", "--host", str(self._directory), "--username=attestream", name)
        return f"postgresql://attestream@/{name}?host={self._directory}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            check=False,
            capture_output=True,
            cwd=self._directory,
            user=self._user,
            group=self._group,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')[-2000:]}")


def _find_binaries() -> Path:
    """Return the directory of the newest server's programs; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    if found is None:
        raise RuntimeError("PostgreSQL is not installed: the tests need its server (Debian: apt-get install postgresql)")
    return Path(found).resolve().parent


def _account() -> tuple[int | None, int | None]:
    """Return the user and group to run as; nothing to change unless this is root."""
    if os.geteuid() != 0:
        return None, None
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid
