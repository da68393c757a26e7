"""The server sends its answers to any subject of the asker's account: one agent can have others hear what is no order."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from attestream.signing import Signer
from devtools.bus_identities import connect_with
from devtools.pool import eventually
from devtools.secure_bus import agent_credentials
from schemas import subjects
from schemas.base import encode
from schemas.events import Revocation, Standing
from schemas.roles import Role, inbox
from services.agent.answering import COMPLAINTS, Answerer

KEPT, REQUESTS = 20, 10
REQUEST = b'{"seq":1,"next_by_subj":">","batch":100}'


async def test_an_agent_that_has_others_sent_what_is_no_challenge_does_not_fill_their_logs(secure_bus, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "services.agent.answering")
    signer = Signer.generate(tmp_path / "notifier.pem")
    notifier = await secure_bus.probe(Role.NOTIFIER)
    fields = {"signed_at": 1, "standing": Standing.FAILED, "enrolment": 1, "policy": "web@1", "findings": []}
    for number in range(KEPT):
        message = encode(signer.sign(Revocation(id=f"order-{number}", agent_id="bad", at=number, **fields)))
        assert await notifier.ask(subjects.revocation("bad"), message, f"{inbox(Role.NOTIFIER, 'me')}.o{number}") is not None

    heard = []
    bus = await connect_with(secure_bus.server.url, agent_credentials(secure_bus.installation, "victim"))
    victim = Answerer(bus, "victim", None, ThreadPoolExecutor(1))

    async def hear(message):
        await victim.hear(message)
        heard.append(message)

    await bus.subscribe(subjects.challenge("victim"), hear)
    await bus.nc.flush()
    hostile = await secure_bus.probe(Role.AGENT, "hostile")
    for _ in range(REQUESTS):
        assert await hostile.publish("$JS.API.DIRECT.GET.REVOCATIONS", REQUEST, subjects.challenge("victim"))
    await eventually(lambda: asyncio.sleep(0, len(heard) >= KEPT * REQUESTS))
    assert 1 <= len([record for record in caplog.records if "was refused" in record.message]) <= COMPLAINTS + 2
    await bus.close()
    for probe in (notifier, hostile):
        await probe.close()
