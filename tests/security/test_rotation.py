"""A running installation is given another root key, another certificate authority and another cluster secret: its agent
stays trusted, and who knew the first root key verifies everything all the same."""

import json
import os
import signal
import ssl
from datetime import UTC, datetime

import nats.errors
import pytest

from attestream.bus.connection import connect
from attestream.client import connect as connect_client
from attestream.client import new_command_id, trusted
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.installation import procedures
from attestream.installation.certificate_authority import prune_authorities, retired
from devtools.bus_identities import enrolled
from devtools.fleet.audit import Record
from devtools.pool import allowing, eventually, make_agent
from devtools.secure_bus import log_in
from devtools.site import Site
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import decode, encode
from schemas.commands import AddAgent, Attestation
from schemas.events import EventKind, Standing
from schemas.roles import Role

AGENT = "host"


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path, sections={"registrar": {"accept_ek": "any"}})
    try:
        await made.start_bus()
        for kind in ("registrar", "verifier"):
            await made.service(kind, kind)
        yield made
    finally:
        made.close()


@pytest.fixture
async def agent(site):
    """The connection of an agent that answers; it looks at ``ca.pem`` when it connects, as every client does."""
    machine, key = make_agent(AGENT), NKey.generate(Kind.USER)
    entrance = await site.connect(Role.ENROLMENT)
    identity = Credentials((await enrolled(entrance, machine, key)).bus_token, key)
    await entrance.close()
    bus = await connect(site.settings(AGENT, identity=lambda: identity))

    async def challenged(message):
        evidence = machine.answer(decode(message.data, Challenge))
        if machine.is_news(evidence):
            number = f"{AGENT}:{evidence.seq}"
            await bus.publish_durable(subjects.evidence(AGENT), evidence, message_id=number)
        else:
            await bus.nc.publish(message.reply, encode(evidence))

    await bus.subscribe(subjects.challenge_of(AGENT), challenged)
    yield bus
    await bus.close()


@pytest.fixture
async def relying(site, tmp_path):
    """A program that was given the first root key, and ``ca.pem`` as it is from time to time."""
    pinned, person = tmp_path / "pinned.pem", site.place.operator("admin")
    pinned.write_bytes(site.place.root_public.read_bytes())
    trust = trusted(pinned, signing_key=person / "signing.pem")
    async with connect_client(
        site.urls, trust=trust, credentials=person / "bus.creds", ca_file=site.place.ca_file
    ) as client:
        client.places = tmp_path / "places"
        yield client


async def reloaded(site):
    """Have the server read its certificates again, as its administrator does."""
    server = site.buses["bus-1"]
    before = server.log.read_text().count("Reloaded server configuration")
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: server.log.read_text().count("Reloaded server configuration") > before, 30)


async def lets_in(site, ca):
    try:
        client = await log_in(site.urls[0], site.place.credentials(Role.NOTIFIER), ca=ca)
    except (nats.errors.Error, ssl.SSLError):
        return False
    await client.close()
    return True


async def attested_anew(client):
    """Wait until the agent has been attested once more, and is trusted."""
    before = (await client.agent(AGENT)).attestations

    async def more():
        found = await client.agent(AGENT)
        return found.attestations > before and found.standing is Standing.TRUSTED

    await eventually(more, 30)


async def test_an_installation_changes_its_keys_while_its_agent_stays_trusted(site, agent, relying, tmp_path):
    await relying.push_policy("base", json.dumps(allowing("boot_aggregate")).encode())
    attestation = Attestation(policy="base", interval_ms=200, lease_ms=60_000)
    await relying.command(AddAgent(command_id=new_command_id(), agent_id=AGENT, attestation=attestation))
    await attested_anew(relying)

    procedures.replace_cluster_secret(site.place, at_once=False)
    verifier = site.services["verifier"]
    await verifier.said("nonces are made from another cluster secret")
    await attested_anew(relying)

    # The verifier signs with a key that only a roster by the new root key names.
    former = site.place.root_public.read_text()
    assert "the bus has the new roster" in await procedures.rotate_root_key(site.place, site.urls, overlap_s=60)
    await procedures.rotate_role(site.place, Role.VERIFIER, site.urls, overlap_s=60, only="signing")
    assert site.place.root_public.read_text() != former
    assert verifier.stop() == 0
    await verifier.restart()
    await attested_anew(relying)
    results = await Record(relying.bus).results()
    assert results[AGENT].standing is Standing.TRUSTED
    assert relying.bus.trust.keyring.roster.vouchers

    old_ca = tmp_path / "old-ca.pem"
    old_ca.write_bytes(site.place.ca_file.read_bytes())
    procedures.rotate_ca(site.place, overlap_s=1)
    await reloaded(site)
    assert await lets_in(site, old_ca)
    procedures.rotate_ca(site.place, overlap_s=1)
    await reloaded(site)
    assert await lets_in(site, site.place.ca_file)
    assert not await lets_in(site, old_ca)
    await attested_anew(relying)  # over connections from before
    [(_, until)] = retired(site.place)
    assert prune_authorities(site.place, datetime.fromtimestamp(until, UTC))
    await reloaded(site)
    for bus in (agent, relying.bus):
        reconnects = bus.reconnects
        await bus.nc.force_reconnect()
        await eventually(lambda bus=bus, before=reconnects: bus.reconnects > before, 30)
    await attested_anew(relying)

    record = Record(relying.bus)
    events = await record.events()
    assert {event.kind for event in events if event.agent_id == AGENT} == {
        EventKind.ENROLLED,
        EventKind.ADDED,
        EventKind.TRUSTED,
    }
    assert (record.rejected, relying.bus.trust.rejected) == (set(), 0)
