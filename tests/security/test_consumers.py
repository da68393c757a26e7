"""What the right to create a consumer is worth to somebody who has taken a service over."""

from __future__ import annotations

import json

import pytest

from schemas.roles import GRANTS, Role, inbox

ME = "me"
FAILED = "att.event.failed.*"


async def create(probe, role, *, stream="EVENTS", name="notifier", filter_=FAILED, **config):
    """Create a consumer by the subject for ``name`` and ``filter_``; return the server's error, if there is one."""
    wanted = {"durable_name": name, "filter_subject": filter_, "ack_policy": "explicit"} | config
    body = json.dumps({"stream_name": stream, "config": wanted}).encode()
    answer = await probe.ask(
        f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{filter_}", body, f"{inbox(role, ME)}.{len(probe.heard)}"
    )
    assert answer is not None
    return json.loads(answer).get("error", {}).get("description", "")


@pytest.mark.parametrize(
    "other",
    [
        {"filter_subject": ">"},
        {"filter_subject": "att.event.>"},
        {"filter_subject": ""},
        {"filter_subject": "", "filter_subjects": ["att.event.trusted.*", FAILED]},
        {"durable_name": "registrar"},
    ],
)
async def test_consumer_is_no_other_than_its_subject_says(secure_bus, other):
    """Otherwise the right to follow failures would be the right to follow everything, or to take another's consumer."""
    probe = await secure_bus.probe(Role.NOTIFIER)
    assert await create(probe, Role.NOTIFIER, **other)
    assert not await create(probe, Role.NOTIFIER)
    await probe.close()


@pytest.mark.parametrize("role", [granted.role for granted in GRANTS if granted.role is not Role.VERIFIER])
async def test_nobody_but_a_verifier_can_take_evidence_or_commands_away(secure_bus, role):
    probe = await secure_bus.probe(role)
    names = ("verifier-evidence-1", "verifier-commands-1", "mine")
    wanted = [
        f"$JS.API.CONSUMER.{verb}.{stream}.{name}"
        for stream in ("EVIDENCE", "COMMANDS")
        for name in names
        for verb in ("CREATE", "DURABLE.CREATE", "MSG.NEXT", "DELETE", "INFO", "PAUSE")
    ]
    wanted += [f"$JS.API.CONSUMER.CREATE.{stream}.mine.att.x" for stream in ("EVIDENCE", "COMMANDS")]
    wanted += [f"$JS.ACK.{stream}.{name}.1.1.1.1.1" for stream in ("EVIDENCE", "COMMANDS") for name in names]
    wanted += [f"$JS.API.DIRECT.GET.{stream}" for stream in ("EVIDENCE", "COMMANDS")]
    wanted += [f"$JS.API.STREAM.MSG.GET.{stream}" for stream in ("EVIDENCE", "COMMANDS")]
    assert await probe.refused_publishes(wanted) == set(wanted)
    await probe.close()


async def test_verifier_can_not_follow_a_whole_work_queue(secure_bus):
    """One consumer without a partition would take everything, and the server lets no second one in."""
    probe = await secure_bus.probe(Role.VERIFIER)
    wanted = [
        "$JS.API.CONSUMER.CREATE.EVIDENCE.mine",
        "$JS.API.CONSUMER.CREATE.EVIDENCE.mine.>",
        "$JS.API.CONSUMER.CREATE.EVIDENCE.mine.att.evidence.7",
        "$JS.API.CONSUMER.DURABLE.CREATE.EVIDENCE.mine",
    ]
    assert await probe.refused_publishes(wanted) == set(wanted)
    assert not await create(probe, Role.VERIFIER, stream="EVIDENCE", name="verifier-evidence-7", filter_="att.evidence.7.*")
    stolen = await create(probe, Role.VERIFIER, stream="EVIDENCE", name="mine", filter_="att.evidence.7.*")
    assert "unique" in stolen
    await probe.close()
