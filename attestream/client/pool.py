"""The verifier workers: who they are, and what they can be told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from attestream.errors import MalformedError, RefusedError, TimedOutError
from schemas import subjects
from schemas.base import SchemaError, decode
from schemas.commands import DrainWorker, Rebalanced, RebalanceWorkers, WorkerStatus
from schemas.enrolment import Done
from schemas.roles import Role
from schemas.topology import WORKERS

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_LOOK_S: Final = 0.2
_VERIFIER: Final = (Role.VERIFIER,)


async def workers(bus: Bus) -> list[WorkerStatus]:
    """Return the workers that are alive, by name.

    :raises BusError: when the bus does not answer.
    :raises MalformedError: when a heartbeat can not be read.
    """
    from attestream.bus import keyvalue

    found = await keyvalue.entries(bus, WORKERS.name)
    try:
        alive = [decode(entry.value, WorkerStatus) for entry in found.values()]
    except SchemaError as error:
        raise MalformedError(f"a worker's heartbeat can not be read: {error}") from error
    return sorted(alive, key=lambda worker: worker.worker)


async def drain(bus: Bus, worker: str, *, drain: bool, wait: bool, timeout_s: float) -> WorkerStatus | None:
    """Tell ``worker`` to give its partitions away, or to take part again; ``wait`` until it has given away all.

    Return its last heartbeat; None when it has none yet.

    :raises RefusedError: when there is no such worker, or nobody who could take its partitions.
    :raises TimedOutError: when it does not answer, or still has partitions after ``timeout_s`` seconds.
    """
    if worker not in {status.worker for status in await workers(bus)}:
        raise RefusedError(
            f"there is no worker {worker[:64]!r}", remedy="`attestream workers list` shows those that are alive."
        )
    order = DrainWorker(worker=worker, drain=drain)
    orders = subjects.worker_orders(worker)
    await bus.request(orders, order, Done, timeout_s=timeout_s, sign=True, signed_by=_VERIFIER)
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        status = next((status for status in await workers(bus) if status.worker == worker), None)
        if not (drain and wait) or status is None or not status.partitions:
            return status
        if asyncio.get_running_loop().time() >= deadline:
            raise TimedOutError(
                f"{worker} still has {len(status.partitions)} partitions after {timeout_s:g} s",
                remedy="It goes on giving them away: look again with `attestream workers list`.",
            )
        await asyncio.sleep(_LOOK_S)


async def rebalance(bus: Bus, *, timeout_s: float) -> int:
    """Have the partitions shared out by the loads of now, and return how many of them move.

    :raises TimedOutError: when no worker answers.
    """
    subject = subjects.VERIFIER_REBALANCE
    answer = await bus.request(subject, RebalanceWorkers(), Rebalanced, timeout_s=timeout_s, sign=True, signed_by=_VERIFIER)
    return answer.moves
