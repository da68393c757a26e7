"""The server sends its answers to any subject of the asker's account: one agent can have all others hear old revocations."""

from __future__ import annotations

import asyncio

from attestream.bus import stored
from attestream.signing import Signer, TrustedKeys
from devtools.bus_identities import connect_with
from devtools.secure_bus import agent_credentials
from schemas import subjects
from schemas.base import encode
from schemas.events import Revocation, Standing
from schemas.roles import Role, inbox
from services.agent import revocations as module
from services.agent.belief import pinned
from services.agent.revocations import LOOKS, Revocations

KEPT, REQUESTS = 40, 25
REQUEST = b'{"seq":1,"next_by_subj":">","batch":100}'


def revocation(number):
    return Revocation(
        id=f"amplified-{number}",
        agent_id="bad",
        at=number,
        signed_at=number,
        standing=Standing.FAILED,
        enrolment=1,
        policy="web@1",
        findings=[],
    )


async def eventually(condition, timeout_s=30):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_agent_that_has_old_revocations_sent_to_all_costs_them_little(secure_bus, tmp_path, monkeypatch):
    signer = Signer.generate(tmp_path / "notifier.pem")
    notifier = await secure_bus.probe(Role.NOTIFIER)
    for number in range(KEPT):
        place = f"{inbox(Role.NOTIFIER, 'me')}.{number}"
        assert await notifier.ask(subjects.revocation("bad"), encode(signer.sign(revocation(number))), place) is not None

    looks, judged, acted, heard = [], [], [], []
    real = stored.get_batch

    async def counted(bus, stream, request):
        looks.append(request)
        return await real(bus, stream, request)

    monkeypatch.setattr(module, "get_batch", counted)
    believed = pinned(TrustedKeys.from_pems([signer.public_pem]))

    async def judge(signed, received_at):
        judged.append(received_at)
        return await believed(signed, received_at)

    async def act(one):
        acted.append(one.id)

    bus = await connect_with(secure_bus.server.url, agent_credentials(secure_bus.installation, "victim"))
    victim = Revocations(bus, judge, tmp_path / "victim", act)
    hear = victim._hear

    async def noted(message):
        await hear(message)
        heard.append(message.subject)

    monkeypatch.setattr(victim, "_hear", noted)
    task = asyncio.create_task(victim.run())
    await eventually(lambda: len(acted) == KEPT)
    before = len(looks)

    hostile = await secure_bus.probe(Role.AGENT, "hostile")
    for _ in range(REQUESTS):
        assert await hostile.publish("$JS.API.DIRECT.GET.REVOCATIONS", REQUEST, "att.revoked.anybody")
    await eventually(lambda: len(heard) >= KEPT * REQUESTS)
    assert len(judged) == KEPT
    # Some more may be earned on a slow machine, at one in five seconds.
    assert len(looks) - before < 3 * LOOKS

    # What is new is heard at once all the same.
    place = f"{inbox(Role.NOTIFIER, 'me')}.new"
    assert await notifier.ask(subjects.revocation("bad"), encode(signer.sign(revocation(KEPT))), place) is not None
    await eventually(lambda: len(acted) == KEPT + 1)
    assert acted == [f"amplified-{number}" for number in range(KEPT + 1)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()
    for probe in (notifier, hostile):
        await probe.close()
