"""The lean connections that ten thousand agents are simulated with: on a real secure server."""

import time

import pytest

from attestream.bus import jetstream
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import user_token
from attestream.installation.bus_keys import load_seed, load_token
from attestream.tpm.structures import parse_quote
from devtools.crowd import Crowd
from devtools.pool import eventually, make_agent
from schemas import subjects, topology
from schemas.attestation import Challenge, Evidence
from schemas.base import decode, encode
from schemas.roles import Role, inbox

NAMES = ["host.1", "host-2", "host-3"]


@pytest.fixture
async def buses(installation, secured):
    made = {}
    for role in (Role.PROVISIONER, Role.VERIFIER):
        made[role] = await connect(
            BusSettings(urls=[secured.url], credentials=installation.credentials(role), reconnect_spread_s=0.1)
        )
    await ensure_topology(made[Role.PROVISIONER])
    yield made
    for bus in made.values():
        await bus.close()


def identity(installation, name, issuer_of=Role.AGENT):
    issuer = load_seed(installation.issuer(issuer_of), Kind.ACCOUNT, "issuer")
    account = load_token(installation.account_token(Role.AGENT)).subject
    key = NKey.generate(Kind.USER)
    token = user_token(issuer, key.public, subjects.token(name), account=account, now=int(time.time()))
    return Credentials(token, key)


@pytest.fixture
async def crowd(installation, secured, buses):
    made = Crowd(secured.url, [(make_agent(name), identity(installation, name)) for name in NAMES], spread_s=0.2)
    await made.enter()
    yield made
    made.leave()


async def test_everybody_says_hello_and_comes_back_after_a_crash_of_the_server(crowd, secured, buses):
    async def stored():
        return (await jetstream.call(buses[Role.PROVISIONER], f"STREAM.INFO.{topology.EVIDENCE.name}"))["state"]["messages"]

    await eventually(lambda: crowd.connected == 3 and not crowd.unconfirmed, 30)
    assert await stored() == 3
    secured.kill()
    await eventually(lambda: crowd.connected == 0, 30)
    secured.start()
    await eventually(lambda: crowd.connected == 3 and not crowd.unconfirmed, 30)
    assert await stored() == 6
    assert crowd.complaints == {}


async def test_challenges_are_answered_over_ones_own_connection(crowd, buses):
    await eventually(lambda: crowd.connected == 3, 30)
    verifier = buses[Role.VERIFIER]
    now = int(time.time() * 1000)
    challenge = Challenge(
        agent_id=NAMES[0], nonce=bytes(32), seq=1, issued_at=now, deadline=now + 60_000, banks={"sha256": [10]}
    )
    place = f"{inbox(Role.VERIFIER, 'verifier')}.answers"
    heard = await verifier.nc.subscribe(f"{place}.*")
    await verifier.nc.publish(subjects.challenge(NAMES[0]), encode(challenge), reply=f"{place}.1")
    await eventually(lambda: crowd.members[0].answered, 30)
    await eventually(lambda: not crowd.unconfirmed, 30)
    assert [member.answered > 0 for member in crowd.members] == [True, False, False]

    # With the digest that the verifier knows by now, the answer goes to whoever asked.
    known = crowd.members[0].agent.answer(challenge)
    bare = Challenge(
        agent_id=NAMES[0],
        nonce=bytes(32),
        seq=2,
        issued_at=now,
        deadline=now + 60_000,
        banks={"sha256": [10]},
        known_digest=parse_quote(known.quote).pcr_digest,
    )
    await verifier.nc.publish(subjects.challenge(NAMES[0]), encode(bare), reply=f"{place}.2")
    answer = decode((await heard.next_msg(timeout=30)).data, Evidence)
    assert (answer.agent_id, answer.seq, answer.pcr_values) == (NAMES[0], 2, {})


async def test_who_is_refused_is_counted_and_not_let_in(installation, secured, buses):
    agents = [(make_agent("host"), identity(installation, "host", Role.ENROLMENT))]
    crowd = Crowd(secured.url, agents, spread_s=0.1)
    try:
        await crowd.enter()
        await eventually(lambda: sum(crowd.complaints.values()) > 1, 30)
        assert crowd.connected == 0
    finally:
        crowd.leave()
