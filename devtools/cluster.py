"""Services as real processes on one bus: started, killed, frozen and thawed by name, each with its own log file.

End-to-end tests are told in these words. A service finds its configuration and its keys as on any machine: in a TOML file
and the files that it names.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attestream.embedded.orphan import die_with_parent
from attestream.signing import Signer

INTERPRETER: Final = (sys.executable, "-m")
"""What runs a module."""

_READY_S: Final = 30.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.01
_READY: Final = {"registrar": "ready;", "verifier": "is ready", "notifier": "ready;", "agent": "is ready"}

Sections = Mapping[str, Mapping[str, Any]]


class Service:
    """One service process: ``python -m services.<kind> --config FILE``. Its log goes on across restarts.

    ``launcher`` is the command that runs a module instead of this interpreter's ``python -m``.
    """

    def __init__(self, kind: str, name: str, config: Path, log: Path, *, launcher: Sequence[str] = ()) -> None:
        self.name = name
        self.kind = kind
        self.log_path = log
        self._launcher = list(launcher or INTERPRETER)
        self._config = config
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id; 0 before the first start."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def start(self) -> None:
        """Start the process; it may not be ready yet."""
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self._launcher, f"services.{self.kind}", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
            )

    async def ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until the process says that it is ready.

        :raises AssertionError: when it ends instead, or takes too long; the text ends with its log.
        """
        await self.said(_READY[self.kind], timeout_s)

    async def said(self, text: str, timeout_s: float = _READY_S) -> None:
        """Wait until ``text`` is in the log since the last start.

        :raises AssertionError: when the process ends instead, or takes too long; the text ends with its log.
        """
        deadline = time.monotonic() + timeout_s
        while text not in self.log:
            if not self.alive or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not say {text!r}:\n{self.log[-4000:]}")
            await asyncio.sleep(_POLL_S)

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stall the process, as a hypervisor's pause would, until :meth:`thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> int:
        """Ask the process to stop and return its exit code.

        :raises subprocess.TimeoutExpired: when it does not stop in time.
        """
        if self._process is None:
            return 0
        self._process.terminate()
        return self._process.wait(_STOP_S)

    async def restart(self) -> None:
        """Start the process again after its end and wait until it is ready."""
        self.start()
        await self.ready()


class Cluster:
    """Makes services that share a bus, a cluster secret and a notifier's key, all below ``directory``.

    :param database: returns the URL of a new, empty database for the service of the name; SQLite files by default.
    :param sections: settings of the configuration file, by section, for every service.
    """

    def __init__(
        self,
        directory: Path,
        bus_url: str,
        *,
        database: Callable[[str], str] | None = None,
        sections: Sections | None = None,
    ) -> None:
        self.directory = directory
        self.secret = secrets.token_bytes(32)
        """The cluster secret, for tests that make challenges of their own."""
        self.signer = Signer.generate(directory / "revocation.pem")
        self.trusted_key = directory / "revocation.pub"
        self.trusted_key.write_text(self.signer.public_pem, encoding="ascii")
        (directory / "cluster.secret").write_bytes(self.secret)
        (directory / "cluster.secret").chmod(0o600)
        self._bus_url = bus_url
        self._sections = sections or {}
        self._database = database or (lambda name: f"sqlite:///{directory / name}.db")
        self._databases: dict[str, str] = {}
        self._services: dict[str, Service] = {}

    def database(self, kind: str) -> str:
        """Return the URL of the database that all services of ``kind`` share."""
        if kind not in self._databases:
            self._databases[kind] = self._database(kind)
        return self._databases[kind]

    async def registrar(self) -> Service:
        """Start the registrar; it accepts any EK."""
        return await self._begin("registrar", "registrar", {"database_url": self.database("registrar"), "accept_ek": "any"})

    async def verifier(self, name: str) -> Service:
        """Start a verifier worker called ``name``."""
        settings = {
            "database_url": self.database("verifier"),
            "cluster_secret_file": str(self.directory / "cluster.secret"),
            "worker_id": name,
        }
        return await self._begin("verifier", name, settings)

    async def notifier(self, *webhooks: str) -> Service:
        """Start the notifier with a sink for each URL."""
        sinks = [{"name": f"sink-{number}", "url": url, "timeout_s": 2.0} for number, url in enumerate(webhooks)]
        settings = {"signing_key_file": str(self.directory / "revocation.pem"), "retry_base_s": 0.1, "webhooks": sinks}
        return await self._begin("notifier", "notifier", settings)

    async def agent(self, agent_id: str, tcti: str, **settings: Any) -> Service:
        """Start an agent on the TPM at ``tcti``; it believes the cluster's notifier."""
        known = {
            "id": agent_id,
            "tcti": tcti,
            "data_dir": str(self.directory / agent_id),
            "revocation_keys": [str(self.trusted_key)],
            "boot_log": "",
        }
        return await self._begin("agent", agent_id, known | settings)

    def close(self) -> None:
        """End every process that is left."""
        for service in self._services.values():
            service.kill()

    async def _begin(self, kind: str, name: str, settings: Mapping[str, Any]) -> Service:
        config = self.directory / f"{name}.toml"
        sections = {section: dict(values) for section, values in self._sections.items()}
        sections.setdefault("bus", {}).setdefault("urls", [self._bus_url])
        sections.setdefault("trust", {"unsigned": True})
        sections[kind] = {**sections.get(kind, {}), **settings}
        config.write_text(toml(sections), encoding="utf-8")
        service = Service(kind, name, config, self.directory / f"{name}.log")
        self._services[name] = service
        await service.restart()
        return service


def toml(sections: Sections) -> str:
    """Return ``sections`` as TOML: values, lists of values, and lists of tables."""
    lines: list[str] = []
    for section, values in sections.items():
        tables = {key: value for key, value in values.items() if _is_tables(value)}
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
        for key, rows in tables.items():
            for row in rows:
                lines.append(f"[[{section}.{key}]]")
                lines += [f"{name} = {json.dumps(value)}" for name, value in row.items()]
    return "\n".join(lines) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(row, Mapping) for row in value)
