"""Which worker should own which partition: as even in load as whole partitions allow, with few of them moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

IDLE: Final = 1
"""What a partition counts beside its load: partitions without agents are spread too."""

EVEN: Final = 0.02
"""Difference between the busiest and the idlest worker, in shares of the mean, that is not worth a move."""


def weight(worker: str, partition: int) -> int:
    """Return how much ``worker`` wants ``partition``; evenly spread and the same everywhere."""
    return int.from_bytes(hashlib.blake2b(f"{partition}/{worker}".encode(), digest_size=8).digest(), "big")


def share_out(members: Iterable[str], loads: Sequence[int], owners: Sequence[str]) -> list[str]:
    """Return the worker of each partition.

    :param members: the workers that may own any.
    :param loads: of each partition, in any unit that is the same for all.
    :param owners: who has each now; whoever is no member has nothing.

    A partition stays where it is unless its owner has gone or a move makes the busiest worker less busy.
    """
    names = sorted(set(members))
    if not names:
        return list(owners)
    costs = [IDLE + load for load in loads]
    shares: dict[str, set[int]] = {name: set() for name in names}
    totals = dict.fromkeys(names, 0)
    orphans = []
    for index, owner in enumerate(owners):
        if owner in shares:
            shares[owner].add(index)
            totals[owner] += costs[index]
        else:
            orphans.append(index)
    for index in sorted(orphans, key=lambda index: (-costs[index], index)):
        taker = min(names, key=lambda name: (totals[name], -weight(name, index)))
        shares[taker].add(index)
        totals[taker] += costs[index]
    for _ in range(4 * len(costs)):
        if not _level(shares, totals, costs):
            break
    planned = list(owners)
    for name, share in shares.items():
        for index in share:
            planned[index] = name
    return planned


def _level(shares: dict[str, set[int]], totals: dict[str, int], costs: Sequence[int]) -> bool:
    """Move a partition from the busiest worker to the idlest, or swap two; return whether that was worth it."""
    busy = max(totals, key=lambda name: (totals[name], name))
    idle = min(totals, key=lambda name: (totals[name], name))
    gap = totals[busy] - totals[idle]
    if gap * len(totals) <= EVEN * sum(totals.values()):
        return False
    moves: list[tuple[int, int, int | None]] = [
        (costs[index], index, None) for index in sorted(shares[busy]) if 0 < costs[index] < gap
    ]
    best = min(moves, key=lambda move: abs(2 * move[0] - gap), default=None)
    if best is None or 2 * abs(2 * best[0] - gap) > gap:
        for mine in sorted(shares[busy]):
            moves += [
                (costs[mine] - costs[other], mine, other)
                for other in sorted(shares[idle])
                if 0 < costs[mine] - costs[other] < gap
            ]
        best = min(moves, key=lambda move: abs(2 * move[0] - gap), default=None)
    if best is None:
        return False
    shift, given, taken = best
    shares[busy].remove(given)
    shares[idle].add(given)
    if taken is not None:
        shares[idle].remove(taken)
        shares[busy].add(taken)
    totals[busy] -= shift
    totals[idle] += shift
    return True
