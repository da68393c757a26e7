"""One agent that asks for its renewal without end takes nothing from the others."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from attestream.bus.topology import ensure_topology
from attestream.clock import unix_ms
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from devtools.bus_identities import connect_with, enrolled, registrar_config, renewed
from devtools.secure_bus import secure_installation, secure_server
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import RenewRequest, renewal_bytes
from schemas.roles import Role
from services.registrar.gate import BURST_PER_SOURCE, RenewalGate
from services.registrar.service import serving

FLOOD = 2_000


def test_each_agent_has_a_rate_of_its_own():
    now = 0.0
    gate = RenewalGate(lambda: now)
    one, other = (Msg(Client(), f"att.registrar.renew.{name}") for name in "ab")
    assert [gate(one) for _ in range(BURST_PER_SOURCE + 5)].count(True) == BURST_PER_SOURCE
    assert gate(other)
    now = 6.0
    assert gate(one)
    assert not gate(one)


@pytest.fixture
async def buses(tmp_path):
    installation = secure_installation(tmp_path / "installation")
    server = secure_server(installation)
    server.start()
    made = []

    async def of(who):
        made.append(await connect_with(server.url, installation.credentials(who) if isinstance(who, Role) else who))
        return made[-1]

    of.config = registrar_config(installation, tmp_path / "registrar.db")
    await ensure_topology(await of(Role.PROVISIONER))
    yield of
    for bus in made:
        await bus.close()
    server.kill()


async def entered(buses, enrolment, agent_id):
    """Return the key of a new agent, and its connection."""
    tpm = SoftTpm(ek="p256", ak="p256", ak_policy=secrets.token_bytes(32), keys=KeyPool(1))
    key = NKey.generate(Kind.USER)
    token = (await enrolled(enrolment, SoftAgent(agent_id, tpm), key)).bus_token
    return key, await buses(Credentials(token, key))


async def test_a_flood_of_renewals_by_one_agent_stops_nobody_elses(buses, monkeypatch):
    async with serving(await buses(Role.REGISTRAR), buses.config):
        enrolment = await buses(Role.ENROLMENT)
        honest, mine = await entered(buses, enrolment, "honest")
        hostile, theirs = await entered(buses, enrolment, "hostile")
        judged = []
        verify = "services.registrar.renewals.verify"
        monkeypatch.setattr(verify, lambda public, *rest: judged.append(public))
        at = unix_ms()
        signature = hostile.sign(renewal_bytes("hostile", hostile.public, at))
        request = encode(RenewRequest(agent_id="hostile", bus_key=hostile.public, at=at, signature=signature))
        for _ in range(FLOOD):
            await theirs.nc.publish(subjects.renewal("hostile"), request, reply=theirs.nc.new_inbox())
        await asyncio.wait_for(theirs.nc.flush(), 30)
        assert await renewed(mine, "honest", honest)
        assert honest.public in judged
        # Some more may have earned their way through on a slow machine, at one in five seconds.
        assert judged.count(hostile.public) < FLOOD // 10
