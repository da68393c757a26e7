"""Evidence of several parts is whole again in any order of arrival, and what never becomes whole is given up."""

import itertools

import msgspec

from schemas.attestation import PART_BYTES, Evidence, EvidencePart, ImaDelta
from schemas.base import encode
from services.verifier.assembly import LIFETIME_MS, MAX_DELIVERIES, MAX_HELD, MAX_HELD_BYTES, ORPHANS_MS, Assembly

HEAD = Evidence(
    agent_id="a",
    enrolment=1,
    nonce=b"n",
    seq=7,
    issued_at=1,
    quote=b"q",
    signature=b"s",
    transport_key=b"t",
    ima=ImaDelta(ima_first=0, count=3, data=b""),
    parts=3,
)
PARTS = [
    EvidencePart(agent_id="a", seq=7, index=0, boot=False, data=b"one"),
    EvidencePart(agent_id="a", seq=7, index=1, boot=False, data=b"two"),
    EvidencePart(agent_id="a", seq=7, index=2, boot=True, data=b"boot"),
]


class Given(str):
    """A delivery by its name."""

    size: int


def offer(assembly, message, name, now=0):
    delivery = Given(name)
    delivery.size = len(encode(message))
    return assembly.head(message, delivery, now) if isinstance(message, Evidence) else assembly.part(message, delivery, now)


def test_any_order_gives_the_whole():
    for order in itertools.permutations([HEAD, *PARTS]):
        assembly = Assembly()
        wholes = [offer(assembly, message, object()) for message in order]
        assert wholes[:3] == [None, None, None]
        whole = wholes[3]
        assert whole.evidence.ima.data == b"onetwo"
        assert whole.evidence.boot_log == b"boot"
        assert whole.evidence.parts == 0
        assert len(whole.deliveries) == 4
        assert assembly.drain() == []


def test_a_part_twice_counts_once_but_is_acknowledged_twice():
    assembly = Assembly()
    offer(assembly, HEAD, "h")
    offer(assembly, PARTS[0], "p0")
    offer(assembly, PARTS[0], "p0 again")
    offer(assembly, PARTS[1], "p1")
    whole = offer(assembly, PARTS[2], "p2")
    assert whole.evidence.ima.data == b"onetwo"
    assert len(whole.deliveries) == 5


def test_what_stays_incomplete_is_given_up():
    assembly = Assembly()
    offer(assembly, HEAD, "h", now=0)
    assert assembly.given_up(LIFETIME_MS) == []
    assert assembly.given_up(LIFETIME_MS + 1) == ["h"]


def test_parts_without_their_quote_are_given_up_sooner():
    assembly = Assembly()
    offer(assembly, PARTS[0], "p0", now=0)
    assert assembly.given_up(ORPHANS_MS) == []
    assert assembly.given_up(ORPHANS_MS + 1) == ["p0"]


def test_orphans_of_many_agents_leave_room_for_honest_evidence():
    assembly = Assembly()
    offer(assembly, msgspec.structs.replace(HEAD, agent_id="honest", parts=200), "honest")
    held = 1
    for number in range(199):
        offer(assembly, msgspec.structs.replace(PARTS[0], agent_id="honest", index=number), f"honest {number}")
        held += 1
    for number in range(4000):
        part = msgspec.structs.replace(PARTS[0], agent_id=f"hostile-{number % 20}", index=number // 20)
        offer(assembly, part, number)
        gone = assembly.given_up(0)
        held += 1 - len(gone)
        assert held <= MAX_HELD
        assert not any(str(name).startswith("honest") for name in gone)
    assert offer(assembly, msgspec.structs.replace(PARTS[0], agent_id="honest", index=199), "last") is not None


def test_evidence_of_an_older_challenge_is_given_up():
    assembly = Assembly()
    offer(assembly, PARTS[0], "old")
    offer(assembly, msgspec.structs.replace(PARTS[0], seq=9), "new")
    assert assembly.given_up(0) == ["old"]
    offer(assembly, PARTS[1], "late")
    assert assembly.given_up(0) == ["late"]
    assert assembly.drain() == ["new"]


def test_one_agent_can_not_fill_the_partition_with_parts_that_never_complete():
    assembly = Assembly()
    held = 0
    for number in range(5000):
        offer(assembly, msgspec.structs.replace(PARTS[0], seq=number // 100, index=number % 100), number)
        held += 1 - len(assembly.given_up(0))
        assert held <= 100
    for number in range(5000):
        offer(assembly, msgspec.structs.replace(PARTS[0], seq=1000), number)
        held += 1 - len(assembly.given_up(0))
        assert held <= MAX_DELIVERIES + 1


def test_parts_out_of_bounds_are_not_kept():
    assembly = Assembly()
    offer(assembly, msgspec.structs.replace(PARTS[0], index=100_000), "far")
    offer(assembly, msgspec.structs.replace(PARTS[0], index=-1), "negative")
    offer(assembly, HEAD, "h")
    assert offer(assembly, PARTS[1], "p1") is None


def held_after(assembly, messages):
    """Return the most bytes that were held while ``messages`` came in."""
    held = most = 0
    for number, message in enumerate(messages):
        whole = offer(assembly, message, number)
        held += len(encode(message)) - sum(delivery.size for delivery in assembly.given_up(0))
        most = max(most, held)
        assert whole is None
    return most


def test_what_is_no_part_counts_as_held_too():
    """Parts that are too large, that come twice, and heads: each waits for its acknowledgement with all that is in it."""
    large = msgspec.structs.replace(PARTS[0], data=bytes(4 * PART_BYTES - 4096))
    head = msgspec.structs.replace(HEAD, boot_log=large.data)
    for message in (large, msgspec.structs.replace(large, index=-1), head):
        assert held_after(Assembly(), [message] * 400) <= MAX_HELD_BYTES + 4 * PART_BYTES


def test_who_sends_too_much_pushes_out_nobody_else():
    assembly = Assembly()
    other = msgspec.structs.replace(PARTS[0], agent_id="b")
    offer(assembly, other, "other")
    large = msgspec.structs.replace(PARTS[0], data=bytes(4 * PART_BYTES - 4096))
    held_after(assembly, [large] * 200)
    assert "other" in assembly.drain()
