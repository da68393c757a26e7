"""A private MariaDB (or MySQL) server for tests: its own directory, a Unix socket only, gone when it is stopped."""

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

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0

_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/usr/libexec"
_SETTINGS: Final = {
    # The data live as long as the test: they must survive the server's death, not the machine's.
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-flush-method": "nosync",
    "innodb-doublewrite": "0",
    "innodb-buffer-pool-size": "32M",
    "innodb-log-file-size": "8M",
    "performance-schema": "0",
    "max-connections": "100",
}


class MariaDb:
    """One server. Root starts it as ``mysql`` or ``nobody``; everybody who reaches the socket may do everything."""

    def __init__(self, **network: object) -> None:
        """:param network: settings of the server (``_`` for ``-``) with which it listens on the network too."""
        self._network = [f"--{name.replace('_', '-')}={value}" for name, value in network.items()] or ["--skip-networking"]
        self._server = _find("mariadbd", "mysqld")
        self._directory = Path(tempfile.mkdtemp(prefix="attestream-mdb-"))
        self._user, self._group = _account()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None and self._group is not None:
            os.chown(self._directory, self._user, self._group)
        self._run(
            _find("mariadb-install-db", "mysql_install_db"),
            "--no-defaults",
            f"--datadir={self._directory / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *(f"--{name}={value}" for name, value in _SETTINGS.items()),
        )

    def freeze(self) -> None:
        """Stop the server from doing anything, without its end: clients stay connected and hear nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    @property
    def _socket(self) -> Path:
        return self._directory / "socket"

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises RuntimeError: when it does not within a minute; the text ends with its log.
        """
        log = self._directory / "log"
        settings = {"datadir": self._directory / "data", "socket": self._socket, **_SETTINGS}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    str(self._server),
                    "--no-defaults",
                    *self._network,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                stdout=output,
                stderr=output,
                cwd=self._directory,
                user=self._user,
                group=self._group,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._client("SELECT 1").returncode == 0:
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"MariaDB did not start:\n{log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Stop the server, its clients cut off. The databases stay until :meth:`remove`."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """End the server at once: what was not written ahead is gone."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        self.crash()
        shutil.rmtree(self._directory)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return f"mariadb://root@localhost/{name}?unix_socket={self._socket}"

    def execute(self, statement: str) -> None:
        """Run a statement as root.

        :raises RuntimeError: when the server refuses it.
        """
        done = self._client(statement)
        if done.returncode != 0:
            raise RuntimeError(f"{statement!r} failed: {done.stderr.decode(errors='replace')[-2000:]}")

    def _client(self, statement: str) -> subprocess.CompletedProcess[bytes]:
        client = _find("mariadb", "mysql")
        arguments = [client, "--no-defaults", "--user=root", f"--socket={self._socket}", "--execute", statement]
        return subprocess.run(arguments, check=False, capture_output=True, cwd=self._directory, timeout=START_TIMEOUT_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

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
            raise RuntimeError(f"{program} failed: {(done.stdout + done.stderr).decode(errors='replace')[-2000:]}")


def _find(*names: str) -> str:
    for name in names:
        found = shutil.which(name, path=_PATH)
        if found is not None:
            return found
    raise RuntimeError(
        f"{names[0]} is not installed: the tests need MariaDB's server (Debian: apt-get install mariadb-server)"
    )


def _account() -> tuple[int | None, int | None]:
    """Return the user and group to run as; nothing to change unless this is root."""
    if os.geteuid() != 0:
        return None, None
    try:
        entry = pwd.getpwnam("mysql")
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid
