"""Every role against everything that any role may do, and against what nobody may, on a server with real accounts."""

from __future__ import annotations

import pytest

from devtools.secure_bus import secure_installation
from schemas import topology
from schemas.roles import GRANTS, NAME, Role, grant

ME = "me"
OTHER = "other%2Eone"
STREAM_NAMES = (
    *(stream.name for stream in topology.STREAMS),
    *(f"KV_{bucket.name}" for bucket in topology.BUCKETS),
    *(f"OBJ_{name}" for name in topology.OBJECT_BUCKETS),
)
NOBODYS = (
    ">",
    "x",
    "_INBOX.x",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.INFO",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$JS.API.ACCOUNT.PURGE.services",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.TEMPLATE.CREATE.MINE",
    "att.result.x.y",
    "att.revoked.x",
    "att.evidence.7.x",
    "att.command.7.x",
    "$KV.attestream",
    *(
        f"$JS.API.{verb}.{stream}"
        for stream in STREAM_NAMES
        for verb in (
            "STREAM.DELETE",
            "STREAM.PURGE",
            "STREAM.MSG.DELETE",
            "STREAM.SNAPSHOT",
            "STREAM.RESTORE",
            "STREAM.LEADER.STEPDOWN",
            "STREAM.PEER.REMOVE",
            "CONSUMER.NAMES",
            "CONSUMER.LIST",
            "CONSUMER.CREATE",
        )
    ),
    *(
        f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}"
        for stream in STREAM_NAMES
        for verb in ("CREATE", "DURABLE.CREATE", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN")
        for consumer in ("any", "notifier", "verifier-evidence-1")
    ),
    *(f"$JS.API.CONSUMER.CREATE.{stream}.any.>" for stream in STREAM_NAMES),
)
"""What no role may publish that somebody holds for long."""


def instances(pattern):
    """Return subjects that ``pattern`` stands for: with the prober's name, with another's, and with anything in between."""
    for name in (ME, OTHER):
        words = pattern.replace(NAME, name).replace("*", "some")
        yield words.removesuffix(">") + "some.thing" if words.endswith(">") else words


def matches(pattern, subject):
    wanted, given = pattern.replace(NAME, ME).split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in ("*", given[index]):
            return False
    return len(given) == len(wanted)


PUBLISHES = sorted({one for granted in GRANTS for pattern in granted.publish for one in instances(pattern)} | {*NOBODYS})
SUBSCRIBES = sorted(
    {one for granted in GRANTS for pattern in granted.subscribe for one in (*instances(pattern), pattern.replace(NAME, "*"))}
    | {pattern.replace(NAME, name) for granted in GRANTS for pattern in granted.subscribe for name in (ME, OTHER)}
    | {">", "*", "*.>", "_INBOX.>", "_INBOX_agent.>", "_R_.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>"}
    | {"$KV.>", "$O.>", "att.>", "att.*.>", "att.evidence.>", "att.agent.>", "att.command.>", "att.dead.>", "att.query.>"}
)


@pytest.mark.parametrize("role", Role)
async def test_role_publishes_what_its_grant_says_and_nothing_else(secure_bus, role):
    probe = await secure_bus.probe(role)
    refused = await probe.refused_publishes(PUBLISHES)
    await probe.close()
    allowed = {subject for subject in PUBLISHES if any(matches(pattern, subject) for pattern in grant(role).publish)}
    assert set(PUBLISHES) - refused == allowed
    assert len(PUBLISHES) > 300


@pytest.mark.parametrize("role", Role)
async def test_role_hears_what_its_grant_says_and_nothing_else(secure_bus, role):
    probe = await secure_bus.probe(role)
    refused = await probe.refused_subscriptions(SUBSCRIBES)
    await probe.close()
    allowed = {subject for subject in SUBSCRIBES if any(covers(pattern, subject) for pattern in grant(role).subscribe)}
    assert set(SUBSCRIBES) - refused == allowed


def covers(pattern, subscription):
    """Whether all that ``subscription`` may bring is within ``pattern``."""
    wanted, given = pattern.replace(NAME, ME).split("."), subscription.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or given[index] == ">" or token not in ("*", given[index]):
            return False
    return len(given) == len(wanted)


PASSING = {Role.BACKUP: ("STREAM.SNAPSHOT",), Role.RESTORER: ("STREAM.DELETE", "STREAM.RESTORE")}
"""What roles may whose identities are made for one command."""


def test_nobody_is_granted_what_nobody_may():
    for granted in GRANTS:
        excepted = tuple(f"$JS.API.{verb}." for verb in PASSING.get(granted.role, ()))
        for subject in NOBODYS:
            if not (excepted and subject.startswith(excepted)):
                assert not any(matches(pattern, subject) for pattern in granted.publish), (granted.role, subject)


def test_no_identity_that_may_copy_or_delete_streams_lies_about(tmp_path):
    place = secure_installation(tmp_path / "installation")
    assert place.credentials(Role.VERIFIER).exists()
    assert not any(place.credentials(role).exists() for role in PASSING)
