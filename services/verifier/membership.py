"""Which worker should own which partition: rendezvous hashing with a ceiling.

Every worker computes the same answer from the same list of live workers; nobody coordinates. The lease of a partition,
not this answer, decides who owns it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def weight(worker: str, partition: int) -> int:
    """Return how much ``worker`` wants ``partition``; evenly spread and the same everywhere."""
    return int.from_bytes(hashlib.blake2b(f"{partition}/{worker}".encode(), digest_size=8).digest(), "big")


def assign(workers: Iterable[str], partitions: int) -> dict[str, list[int]]:
    """Share out ``partitions`` so that no worker has more than ``ceil(partitions / workers)``.

    A partition goes to the worker of the highest weight that has room. When a worker comes or goes, most of the others'
    partitions stay where they are.
    """
    shares: dict[str, list[int]] = {worker: [] for worker in sorted(set(workers))}
    if not shares:
        return shares
    ceiling = -(-partitions // len(shares))
    for partition in range(partitions):
        for worker in sorted(shares, key=lambda name: weight(name, partition), reverse=True):
            if len(shares[worker]) < ceiling:
                shares[worker].append(partition)
                break
    return shares
