"""Who carries questions and answers gives nobody the answer to another question, not even one that is rightly signed."""

import pytest

from attestream.errors import SignatureError, TimedOutError
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import AgentQuery, DeleteIdentity, Done
from schemas.roles import Role


async def done(*_):
    return Done()


async def test_the_confirmation_of_one_order_is_not_taken_for_that_of_another(bus, as_holder):
    """Two orders are under way. The broker drops the second, and gives the first the place of the second's answer."""
    registrar, olga = await as_holder("registrar"), await as_holder("olga")
    await registrar.serve("test.real", "q", DeleteIdentity, done, signed=True, authorise=(Role.OPERATOR,))
    first = DeleteIdentity(agent_id="first")
    answers = []

    async def broker(second):
        headers = olga.trust.sign("test.real", encode(first))
        headers[subjects.HEADER_REPLY_TO] = second.headers[subjects.HEADER_REPLY_TO]
        answers.append(await bus.nc.request("test.real", encode(first), headers=headers, timeout=10))
        await bus.nc.publish(second.reply, answers[0].data, headers=answers[0].headers)

    await bus.subscribe("test.carried", broker)
    with pytest.raises(SignatureError):
        await olga.request(
            "test.carried", DeleteIdentity(agent_id="second"), Done, sign=True, signed_by=(Role.REGISTRAR,), timeout_s=20
        )
    assert len(answers) == 1
    assert subjects.HEADER_SIGNATURE not in (answers[0].headers or {})


async def test_nobody_foretells_where_the_next_answer_is_signed_for(bus, as_holder):
    """The client library counts its inboxes up: after two of them all that follow were known."""
    asker, places = await as_holder("verifier"), []

    async def collect(message):
        places.append(message.headers[subjects.HEADER_REPLY_TO])

    await bus.subscribe("test.places", collect)
    for _ in range(8):
        with pytest.raises(TimedOutError):
            await asker.request("test.places", AgentQuery(agent_id="a"), Done, signed_by=(Role.REGISTRAR,), timeout_s=0.05)
    await bus.nc.flush()
    secrets = {place.split(".")[-2] for place in places}
    assert len(secrets) == len(places) > 1
    assert min(map(len, secrets)) >= 22
    # No two have a beginning in common that is worth guessing on from.
    assert len({secret[:8] for secret in secrets}) == len(secrets)
