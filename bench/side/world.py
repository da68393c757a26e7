"""Both sides and the machines that both attest."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from attestream.embedded.ports import free_port
from bench.samples import content_digest, incumbent_policy, path_of
from bench.side.attester import FIRMWARE_PCR, agent_name, firmware_value
from bench.side.ours import POLICY, Ours, running
from bench.side.receiver import Receiver
from bench.side.theirs import POLICY as THEIR_POLICY
from bench.side.theirs import Theirs
from bench.stack import Simulator

AK: Final = "rsa2048"
_READY_S: Final = 120.0
_IMA_MASK: Final = "0x10400"
_FIRMWARE_MASK: Final = "0x10001"
"""PCR 0, and 16 with the transport key, which its agents always quote."""


class Plan(NamedTuple):
    """What a comparison is about."""

    paths: int
    """Of the policy; 0: only the value of PCR 0 is demanded, and the machines have no IMA log."""
    agents: int
    workers: int = 1
    interval_ms: int = 0
    """Between two attestations; of the incumbent 0: as often as it can."""
    their_interval_s: float = 0.0


class Machines(Simulator):
    """The process that plays the machines."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        super().__init__("machines", ["bench.side.attesters", *arguments], log)

    async def keys(self, count: int) -> list[bytes]:
        """Wait until they listen, and return their attestation keys."""
        self._reading = asyncio.create_task(self._read())
        return [bytes.fromhex(await self.hear("key", _READY_S)) for _ in range(count)]

    async def live(self, entries: int) -> None:
        """Have each run so many programs before each attestation."""
        self.order(do="live", entries=entries)
        await self.hear("live")

    async def misbehave(self, number: int) -> tuple[str, int]:
        """Have one do what its policy forbids, and return its id and when it did (ns)."""
        self.order(do="misbehave", agent=number)
        told = await asyncio.wait_for(self.told.get(), _READY_S)
        return told["misbehaved"], told["at"]

    async def asked(self) -> dict[str, int]:
        """Return how many quotes each side has asked for."""
        self.order(do="count")
        count: dict[str, int] = await self.hear("count")
        return count

    async def since(self, side: str, at: int) -> dict[str, int]:
        """Return the agents that ``side`` has asked since ``at`` (ns), and when first."""
        self.order(do="since", side=side, at=at)
        found: dict[str, int] = await self.hear("since")
        return found


class World(NamedTuple):
    """Everything that runs."""

    plan: Plan
    ours: Ours
    theirs: Theirs
    machines: Machines
    keys: list[bytes]
    certificate: str
    first_port: int
    received: dict[str, Receiver]
    """Side -> where its revocations go."""

    @property
    def agents(self) -> list[str]:
        """Their ids."""
        return [agent_name(number) for number in range(self.plan.agents)]

    async def publish_policies(self) -> None:
        """Give both sides the same policy."""
        plan = self.plan
        document: dict[str, Any] = {"format": "attestream-policy/1", "bank": "sha256"}
        if plan.paths:
            files = {path: content_digest(path).hex() for path in ("boot_aggregate", *map(path_of, range(plan.paths)))}
            document["runtime"] = {"digests": {path: [f"sha256:{digest}"] for path, digest in files.items()}, "excludes": []}
            await asyncio.to_thread(self.theirs.publish_policy, incumbent_policy(files))
        else:
            document["pcrs"] = {str(FIRMWARE_PCR): [firmware_value().hex()]}
        from msgspec.json import encode

        await self.ours.client.push_policy(POLICY, encode(document), timeout_s=_READY_S)

    async def add_theirs(self, numbers: range) -> list[float]:
        """Put agents under the incumbent's attestation, one after another, and return the seconds that each took."""
        agents = [(agent_name(one), self.first_port + one, self.keys[one], self.certificate) for one in numbers]
        pcrs: dict[str, Any] = {"mask": _IMA_MASK}
        if not self.plan.paths:
            pcrs = {"mask": _FIRMWARE_MASK, str(FIRMWARE_PCR): [firmware_value().hex()]}
        policy = THEIR_POLICY if self.plan.paths else ""
        fresh = self.plan.workers > 1
        return await asyncio.to_thread(self.theirs.add, agents, pcrs, policy=policy, fresh=fresh)

    async def add_ours(self, numbers: range, *, at_once: int = 32) -> float:
        """Put agents under ours, and return the seconds that it took."""
        return await self.ours.add([agent_name(one) for one in numbers], self.plan.interval_ms, at_once=at_once)


@asynccontextmanager
async def world(plan: Plan) -> AsyncIterator[World]:
    """Start both sides and the machines; take everything down at the end."""
    with tempfile.TemporaryDirectory(prefix="attestream-bench-") as name:
        directory = Path(name)
        ports = [free_port() for _ in range(5)]
        received = {"ours": Receiver(ports[3]), "theirs": Receiver(ports[4])}
        webhooks = dict.fromkeys(received, "")
        if plan.workers > 1:
            webhooks = {"ours": f"http://127.0.0.1:{ports[3]}/", "theirs": f"https://127.0.0.1:{ports[4]}/"}
        theirs = Theirs(
            directory / "theirs",
            (ports[0], ports[1], ports[2]),
            workers=plan.workers,
            interval_s=plan.their_interval_s,
            webhook=webhooks["theirs"],
        )
        machines: Machines | None = None
        try:
            await asyncio.to_thread(theirs.start)
            async with running(directory / "ours", workers=plan.workers, webhook=webhooks["ours"]) as ours:
                certificate = _pair(directory / "machine.pem")
                first_port = _free_range(plan.agents)
                arguments = ["--agents", str(plan.agents), "--ak", AK, "--url", ours.server.local_url]
                arguments += ["--installation", str(ours.place.directory), "--port", str(first_port)]
                arguments += ["--pair", str(directory / "machine.pem"), "--verifier-ca", str(theirs.verifier_ca)]
                machines = Machines(arguments + ["--files"] * bool(plan.paths), directory / "machines.log")
                try:
                    keys = await machines.keys(plan.agents)
                    built = World(plan, ours, theirs, machines, keys, certificate, first_port, received)
                    await built.publish_policies()
                    yield built
                except Exception:
                    sys.stderr.write(f"{ours.tails()}\n{machines.tail()}\n{_tail(directory / 'theirs' / 'verifier.log')}\n")
                    raise
                finally:
                    machines.stop()
        finally:
            for receiver in received.values():
                await receiver.stop()
            await asyncio.to_thread(theirs.stop)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


def _pair(file: Path) -> str:
    """Write key and certificate of the machines' HTTPS servers, as the incumbent's agent does; return the latter."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "machine")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(secret + text)
    return text.decode("ascii")


def _free_range(count: int) -> int:
    """Return the first of ``count`` ports in a row that nobody listens at, below those that are given to clients."""
    for first in range(20_000, 32_000 - count, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise OSError(f"there are no {count} free ports in a row")
