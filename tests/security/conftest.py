from __future__ import annotations

import asyncio
import json

import pytest

from attestream.bus.topology import bucket_config, object_config, stream_config
from devtools.bus_probe import Probe
from devtools.secure_bus import secure_installation, secure_server, user_credentials
from schemas import topology
from schemas.roles import Role, inbox

STREAMS = (
    *(stream_config(stream) for stream in topology.STREAMS),
    *(bucket_config(bucket) for bucket in topology.BUCKETS),
    *(object_config(name) for name in topology.OBJECT_BUCKETS),
)


class SecureBus:
    """A bus with accounts, its streams, and identities at will."""

    def __init__(self, installation, server):
        self.installation = installation
        self.server = server

    async def probe(self, role, name="me"):
        """Return a probe that is ``name`` in ``role`` and hears its own inbox."""
        probe = await Probe.open(self.server.url, user_credentials(self.installation, role, name))
        assert await probe.subscribe(f"{inbox(role, name)}.>")
        return probe

    async def provision(self):
        probe = await self.probe(Role.PROVISIONER)
        for config in STREAMS:
            answer = await probe.ask(
                f"$JS.API.STREAM.CREATE.{config['name']}",
                json.dumps(config).encode(),
                f"{inbox(Role.PROVISIONER, 'me')}.{config['name']}",
            )
            assert answer is not None
            assert "error" not in json.loads(answer), answer
        await probe.close()

    async def counts(self):
        """Return how many messages each stream holds."""
        probe = await self.probe(Role.PROVISIONER, "counter")
        found = {}
        for config in STREAMS:
            place = f"{inbox(Role.PROVISIONER, 'counter')}.{config['name']}"
            answer = await probe.ask(f"$JS.API.STREAM.INFO.{config['name']}", b"", place)
            assert answer is not None
            found[config["name"]] = json.loads(answer).get("state", {}).get("messages")
        await probe.close()
        return found


@pytest.fixture(scope="module")
def secure_bus(tmp_path_factory):
    installation = secure_installation(tmp_path_factory.mktemp("secure") / "installation")
    server = secure_server(installation)
    server.start()
    try:
        bus = SecureBus(installation, server)
        asyncio.run(bus.provision())
        yield bus
    finally:
        server.stop()
