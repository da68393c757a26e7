"""What only shows on more than one server: replicated streams, and a peer that stalls behind TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestream.bus.connection import BusSettings, connect
from attestream.bus.encryption import Encryption
from attestream.embedded.nats import NatsServer
from attestream.errors import FencedError
from devtools.bare_cluster import bare_cluster, replicated
from schemas import subjects


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    servers = bare_cluster(tmp_path)
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


async def test_guarded_writers_on_replicated_streams(cluster):
    """On several replicas the server refuses guarded writes that overlap, owner or not (error 10164): these are repeated.
    Those of an ex-owner are fenced. A server that dies costs an election, not a message."""
    bus = await connect(BusSettings(urls=[server.url for server in cluster], reconnect_spread_s=0.1))
    await replicated(bus)
    fence = subjects.event_fence(1)
    old = await bus.publish_durable(fence, b"old", message_id="f1")

    async def write(i: int, owner: int):
        return await bus.publish_durable(
            subjects.event("failed", f"a{i}"), b"x", message_id=f"{owner}.{i}", guard=(fence, owner), timeout_s=30.0
        )

    acks = await asyncio.gather(*(write(i, old.sequence) for i in range(32)))
    assert len({ack.sequence for ack in acks}) == 32
    new = await bus.publish_durable(fence, b"new", message_id="f2")
    late = await asyncio.gather(*(write(i, old.sequence) for i in range(100, 110)), return_exceptions=True)
    assert {type(error) for error in late} == {FencedError}
    victim = next(server for server in cluster if server.url.endswith(str(bus.nc.connected_url.port)))
    writing = asyncio.gather(*(write(i, new.sequence) for i in range(200, 220)))
    await asyncio.sleep(0)
    victim.kill()
    assert len({ack.sequence for ack in await writing}) == 20
    await bus.close()


def certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certified = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "server.pem", directory / "server.key"
    paths[0].write_bytes(certified.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_stalled_server_behind_tls_is_left_in_seconds(tmp_path):
    """nats.py #671: closing a TLS connection waits half a minute for a peer that has stalled."""
    chain, key = certificate(tmp_path)
    servers = [NatsServer(tmp_path / name, extra=f'tls {{ cert_file: "{chain}", key_file: "{key}" }}') for name in "ab"]
    for server in servers:
        server.start()
    bus = await connect(
        BusSettings(
            urls=[server.url for server in servers],
            reconnect_spread_s=0.1,
            ping_interval_s=0.2,
            encryption=Encryption(ca_file=chain),
        )
    )
    back = asyncio.Event()

    async def noted() -> None:
        back.set()

    bus.on_reconnect(noted)
    stalled = next(server for server in servers if server.url.endswith(str(bus.nc.connected_url.port)))
    os.kill(stalled.pid, signal.SIGSTOP)
    try:
        await asyncio.wait_for(back.wait(), 40)
    finally:
        os.kill(stalled.pid, signal.SIGCONT)
        await bus.close()
        for server in servers:
            server.stop()
