"""A private PostgreSQL server for tests: its own directory, a Unix socket only, gone when it is stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Final

from devtools.database_server import DatabaseServer

_SETTINGS: Final = {
    "listen_addresses": "",
    # The data live as long as the test: they must survive the server's death, not the machine's.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "autovacuum": "off",
}


class Postgres(DatabaseServer):
    """One server."""

    product = "PostgreSQL"
    account = "postgres"
    start_s = 20.0
    stop_s = 10.0
    stopping = signal.SIGINT
    crashing = signal.SIGQUIT

    def __init__(self) -> None:
        self._binaries = _find_binaries()
        super().__init__()
        self._run_own(
            "initdb", "--pgdata", self._data, "--username=attestream", "--auth=trust", "--no-sync", "--encoding=UTF8"
        )

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self._run_own("createdb", "--host", str(self._directory), "--username=attestream", name)
        return f"postgresql://attestream@/{name}?host={self._directory}"

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        return [str(self._binaries / "postgres"), "-D", self._data, "-k", str(self._directory), *settings]

    def _answers(self) -> bool:
        asking = [str(self._binaries / "pg_isready"), "-q", "-h", str(self._directory)]
        return subprocess.run(asking, check=False, stdout=subprocess.DEVNULL).returncode == 0

    def _run_own(self, program: str, *arguments: str) -> None:
        self._run(str(self._binaries / program), *arguments)


def _find_binaries() -> Path:
    """Return the directory of the newest server's programs; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    if found is None:
        raise RuntimeError("PostgreSQL is not installed: the tests need its server (Debian: apt-get install postgresql)")
    return Path(found).resolve().parent
