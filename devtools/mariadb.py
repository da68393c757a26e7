"""A private MariaDB (or MySQL) server for tests: its own directory, a Unix socket only, gone when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Final

from devtools.database_server import DatabaseServer

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


class MariaDb(DatabaseServer):
    """One server. Everybody who reaches the socket may do everything."""

    product = "MariaDB"
    account = "mysql"
    start_s = 60.0
    stop_s = 20.0
    stopping = signal.SIGTERM
    crashing = signal.SIGKILL

    def __init__(self, **network: object) -> None:
        """:param network: settings of the server (``_`` for ``-``) with which it listens on the network too."""
        self._network = [f"--{name.replace('_', '-')}={value}" for name, value in network.items()] or ["--skip-networking"]
        self._server = _find("mariadbd", "mysqld")
        super().__init__()
        self._run(
            _find("mariadb-install-db", "mysql_install_db"),
            "--no-defaults",
            f"--datadir={self._directory / 'data'}",
            # In a common one, a server that starts removes the temporary tables of others.
            f"--tmpdir={self._directory}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *(f"--{name}={value}" for name, value in _SETTINGS.items()),
        )

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

    @property
    def _socket(self) -> Path:
        return self._directory / "socket"

    def _command(self) -> list[str]:
        settings = {"datadir": self._directory / "data", "tmpdir": self._directory, "socket": self._socket, **_SETTINGS}
        return [
            self._server,
            "--no-defaults",
            *self._network,
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _answers(self) -> bool:
        return self._client("SELECT 1").returncode == 0

    def _client(self, statement: str) -> subprocess.CompletedProcess[bytes]:
        client = _find("mariadb", "mysql")
        arguments = [client, "--no-defaults", "--user=root", f"--socket={self._socket}", "--execute", statement]
        return subprocess.run(arguments, check=False, capture_output=True, cwd=self._directory, timeout=self.start_s)


def _find(*names: str) -> str:
    for name in names:
        found = shutil.which(name, path=_PATH)
        if found is not None:
            return found
    raise RuntimeError(
        f"{names[0]} is not installed: the tests need MariaDB's server (Debian: apt-get install mariadb-server)"
    )
