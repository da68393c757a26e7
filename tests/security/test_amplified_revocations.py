"""The server sends its answers to any subject of the asker's account: one agent can have all others hear old revocations."""

from __future__ import annotations

import asyncio

from attestream.bus import stored
from attestream.signing import Signer, TrustedKeys
from devtools.bus_identities import connect_with
from devtools.pool import eventually
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


async def keep(notifier, signer, number):
    """Put a revocation on the record."""
    place = f"{inbox(Role.NOTIFIER, 'me')}.{number}"
    assert await notifier.ask(subjects.revocation("bad"), encode(signer.sign(revocation(number))), place) is not None


class Victim:
    """An agent that notes what it looks up, judges, acts on and hears."""

    def __init__(self, bus, directory, signer, monkeypatch):
        self.looks, self.judged, self.acted, self.heard = [], [], [], []
        self._believed = pinned(TrustedKeys.from_pems([signer.public_pem]))
        self.revocations = Revocations(bus, self._judge, directory, self._act)
        self._hear = self.revocations._hear
        monkeypatch.setattr(module, "get_batch", self._look)
        monkeypatch.setattr(self.revocations, "_hear", self._note)

    async def _look(self, bus, stream, request):
        self.looks.append(request)
        return await stored.get_batch(bus, stream, request)

    async def _judge(self, signed, received_at):
        self.judged.append(received_at)
        return await self._believed(signed, received_at)

    async def _act(self, one):
        self.acted.append(one.id)

    async def _note(self, message):
        await self._hear(message)
        self.heard.append(message.subject)


async def test_an_agent_that_has_old_revocations_sent_to_all_costs_them_little(secure_bus, tmp_path, monkeypatch):
    signer = Signer.generate(tmp_path / "notifier.pem")
    notifier = await secure_bus.probe(Role.NOTIFIER)
    for number in range(KEPT):
        await keep(notifier, signer, number)

    bus = await connect_with(secure_bus.server.url, agent_credentials(secure_bus.installation, "victim"))
    victim = Victim(bus, tmp_path / "victim", signer, monkeypatch)
    task = asyncio.create_task(victim.revocations.run())
    await eventually(lambda: len(victim.acted) == KEPT)
    before = len(victim.looks)

    hostile = await secure_bus.probe(Role.AGENT, "hostile")
    for _ in range(REQUESTS):
        assert await hostile.publish("$JS.API.DIRECT.GET.REVOCATIONS", REQUEST, "att.revoked.anybody")
    await eventually(lambda: len(victim.heard) >= KEPT * REQUESTS)
    assert len(victim.judged) == KEPT
    # Some more may be earned on a slow machine, at one in five seconds.
    assert len(victim.looks) - before < 3 * LOOKS

    # What is new is heard at once all the same.
    await keep(notifier, signer, KEPT)
    await eventually(lambda: len(victim.acted) == KEPT + 1)
    assert victim.acted == [f"amplified-{number}" for number in range(KEPT + 1)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()
    for probe in (notifier, hostile):
        await probe.close()
