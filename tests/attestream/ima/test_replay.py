import hashlib

from attestream.ima.replay import Replay

VALUES = [hashlib.sha256(bytes([number])).digest() for number in range(6)]


def pcr_after(count: int, start: bytes = bytes(32)) -> bytes:
    for value in VALUES[:count]:
        start = hashlib.sha256(start + value).digest()
    return start


def replayed(target: bytes, start: bytes = b"") -> tuple[Replay, list[bool]]:
    replay = Replay("sha256", start, target)
    return replay, [replay.feed(value) for value in VALUES]


def test_whole_log_is_proven():
    replay, behind = replayed(pcr_after(6))

    assert (replay.proven, replay.tail, replay.seen, replay.value) == (6, 0, 6, pcr_after(6))
    assert not any(behind)


def test_entries_behind_the_proven_position_are_told():
    replay, behind = replayed(pcr_after(4))

    assert (replay.proven, replay.tail, replay.value) == (4, 2, pcr_after(4))
    assert behind == [False, False, False, False, True, True]


def test_nothing_is_proven_by_another_value():
    replay, behind = replayed(bytes(31) + b"\x01")

    assert (replay.proven, replay.tail) == (None, 6)
    assert not any(behind)


def test_start_value_proves_zero_entries():
    replay, behind = replayed(pcr_after(3), pcr_after(3))

    assert (replay.proven, replay.tail, replay.value) == (0, 6, pcr_after(3))
    assert all(behind)


def test_start_value_is_continued():
    start = hashlib.sha256(b"earlier").digest()

    replay, _ = replayed(pcr_after(6, start), start)

    assert replay.proven == 6
