"""The incumbent as its users run it: verifier and registrar processes with their defaults, in a directory of their own.

Only ports, number of workers, interval and receiver of revocations differ from the defaults.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from attestream.embedded.orphan import die_with_parent
from bench.incumbent import Incumbent
from bench.side import processes
from bench.side.theirs_settings import write_settings
from bench.stack import BenchError

API: Final = "/v2.5"
START_S: Final = 60.0
_CALL_S: Final = 300
POLICY: Final = "image"


class Theirs:
    """An instance in ``directory`` with so many workers; ``ports``: verifier, registrar, registrar's TLS."""

    name = "incumbent"

    def __init__(
        self, directory: Path, ports: tuple[int, int, int], *, workers: int, interval_s: float, webhook: str
    ) -> None:
        self._directory = directory
        self._work = directory / "work"
        self._port = ports[0]
        self._home = Incumbent().home
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._context: ssl.SSLContext | None = None
        self._work.mkdir(parents=True)
        settings = write_settings(directory, ports, workers=workers, interval_s=interval_s, webhook=webhook)
        # Its reader of OpenPGP keys needs a C library that pip does not install; no policy here is signed with such a key.
        directory.joinpath("gpg.py").touch()
        self._environment = os.environ | settings | {"KEYLIME_DIR": str(self._work), "PYTHONPATH": str(directory)}

    @property
    def verifier_ca(self) -> Path:
        """The CA that its agents know its verifier by."""
        return self._work / "cv_ca" / "cacert.crt"

    @property
    def pids(self) -> list[int]:
        """Its verifier's processes: those that attest."""
        return processes.family(self._running["verifier"].pid)

    @property
    def all_pids(self) -> list[int]:
        """All its server processes."""
        return [pid for process in self._running.values() for pid in processes.family(process.pid)]

    def receiving(self) -> ssl.SSLContext:
        """Return the TLS side of a receiver of its revocations: one that has a certificate of its CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._work / "cv_ca" / "server-cert.crt", self._work / "cv_ca" / "server-private.pem")
        return context

    def start(self) -> None:
        """Start verifier and registrar, in that order: the verifier makes the CA."""
        self.start_verifier()
        self._start("registrar")

    def start_verifier(self) -> float:
        """Start the verifier and return the seconds until it answers."""
        began = time.monotonic()
        self._start("verifier")
        while True:
            try:
                self.call("GET", "/version", path="")
            except (OSError, http.client.HTTPException):
                if self._running["verifier"].poll() is not None or time.monotonic() - began > START_S:
                    log = self._directory.joinpath("verifier.log").read_text(encoding="utf-8", errors="replace")
                    raise BenchError(f"the incumbent's verifier does not start:\n{log[-2000:]}") from None
                time.sleep(0.05)
            else:
                return time.monotonic() - began

    def kill_verifier(self) -> None:
        """End all of its processes as a crash of the machine would."""
        processes.send(self.pids, signal.SIGKILL)
        self._running.pop("verifier").wait()

    def kill_worker(self) -> None:
        """End one of the processes that attest, as a crash would: that which has used most CPU below the first process."""
        workers = [pid for pid in self.pids if pid != self._running["verifier"].pid]
        os.kill(max(workers, key=lambda pid: processes.cpu_seconds([pid])), signal.SIGKILL)

    def pause(self) -> None:
        """Have it stand still."""
        processes.send(self.all_pids, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        processes.send(self.all_pids, signal.SIGCONT)

    def stop(self) -> None:
        """End everything."""
        pids = self.all_pids
        processes.send(pids, signal.SIGCONT)
        processes.send([process.pid for process in self._running.values()], signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        processes.send(pids, signal.SIGKILL)

    def connection(self) -> http.client.HTTPSConnection:
        """Return a connection to the verifier with the tenant's certificate."""
        if self._context is None:
            context = ssl.create_default_context(cafile=self.verifier_ca)
            context.check_hostname = False
            ca = self.verifier_ca.parent
            context.load_cert_chain(ca / "client-cert.crt", ca / "client-private.pem")
            self._context = context
        return http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=_CALL_S)

    def call(
        self,
        method: str,
        target: str,
        body: dict[str, Any] | None = None,
        *,
        path: str = API,
        connection: http.client.HTTPSConnection | None = None,
    ) -> dict[str, Any]:
        """Return the answer to a request; without a ``connection`` one is made for it.

        :raises BenchError: when it is a refusal.
        """
        used = connection or self.connection()
        headers = {"Content-Type": "application/json"} if body else {}
        used.request(method, path + target, json.dumps(body) if body else None, headers)
        response = used.getresponse()
        text = response.read()
        if connection is None:
            used.close()
        if response.status >= 300:
            raise BenchError(f"the incumbent refuses {method} {target}: {response.status} {text[:300]!r}")
        found: dict[str, Any] = json.loads(text)
        return found

    def publish_policy(self, policy: dict[str, Any]) -> None:
        """Upload a runtime policy."""
        text = base64.b64encode(json.dumps(policy).encode()).decode()
        self.call("POST", f"/allowlists/{POLICY}", {"runtime_policy": text, "runtime_policy_key": ""})

    def add(
        self, agents: list[tuple[str, int, bytes, str]], pcrs: dict[str, Any], *, policy: str, fresh: bool
    ) -> list[float]:
        """Put agents (id, port, AK, TLS certificate) under attestation, one after another, and return the seconds each took.

        ``fresh``: each over a connection of its own, so that all workers get some.
        """
        connection, took = self.connection(), []
        for agent_id, port, ak, certificate in agents:
            began = time.monotonic()
            if fresh:
                connection.close()
                connection = self.connection()
            body = _agent(port, ak, certificate, pcrs, policy)
            try:
                self.call("POST", f"/agents/{agent_id}", body, connection=connection)
            except (ConnectionError, http.client.HTTPException):  # a connection that a worker ended meanwhile
                connection.close()
                connection = self.connection()
                self.call("POST", f"/agents/{agent_id}", body, connection=connection)
            took.append(time.monotonic() - began)
        connection.close()
        return took

    def attestations(self) -> tuple[int, int]:
        """Return how many attestations have passed, and the least of any agent."""
        database = sqlite3.connect(f"file:{self._work}/cv_data.sqlite?mode=ro", uri=True, timeout=10)
        try:
            row = database.execute("select sum(attestation_count), min(attestation_count) from verifiermain").fetchone()
        finally:
            database.close()
        return int(row[0] or 0), int(row[1] or 0)

    def _start(self, kind: str) -> None:
        with self._directory.joinpath(f"{kind}.log").open("ab") as log:
            self._running[kind] = subprocess.Popen(
                [str(self._home / "bin" / f"keylime_{kind}")],
                env=self._environment,
                cwd=self._work,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # see there
            )


def _agent(port: int, ak: bytes, certificate: str, pcrs: dict[str, Any], policy: str) -> dict[str, Any]:
    empty = ("runtime_policy", "runtime_policy_key", "mb_policy", "mb_policy_name", "ima_sign_verification_keys")
    return dict.fromkeys(empty, "") | {
        "v": None,
        "cloudagent_ip": "127.0.0.1",
        "cloudagent_port": port,
        "verifier_ip": "127.0.0.1",
        "verifier_port": 0,
        "tpm_policy": json.dumps(pcrs),
        "runtime_policy_name": policy,
        "metadata": "{}",
        "revocation_key": "",
        "accept_tpm_hash_algs": ["sha256"],
        "accept_tpm_encryption_algs": ["rsa", "ecc"],
        "accept_tpm_signing_algs": ["rsassa", "ecdsa"],
        "ak_tpm": base64.b64encode(ak).decode(),
        "mtls_cert": certificate,
        "supported_version": "2.5",
    }
