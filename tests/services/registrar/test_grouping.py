import asyncio

import pytest

from attestream.errors import StorageError
from services.registrar.grouping import MOST, Group


class Work:
    """Doubles numbers when it is let, and remembers in which groups they came. ``bad`` ones make it fail."""

    def __init__(self, bad=(), error=RuntimeError):
        self.turns = []
        self.let = asyncio.Event()
        self.bad = set(bad)
        self.error = error

    async def __call__(self, numbers):
        self.turns.append(list(numbers))
        await self.let.wait()
        if self.bad & set(numbers):
            raise self.error
        return [2 * number for number in numbers]


async def submitted(work, numbers):
    """Submit one number, and the others while it is being worked on; return what each came to."""
    group = Group(work)
    tasks = [asyncio.create_task(group.submit(numbers[0]))]
    async with asyncio.timeout(30):
        while not work.turns:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(group.submit(number)) for number in numbers[1:]]
        await asyncio.sleep(0)
        work.let.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_comes_meanwhile_is_done_together_and_in_order():
    work = Work()
    numbers = list(range(1 + MOST + 3))
    assert await submitted(work, numbers) == [2 * number for number in numbers]
    assert work.turns == [numbers[:1], numbers[1 : 1 + MOST], numbers[1 + MOST :]]


async def test_nobody_waits_for_others_to_come():
    work = Work()
    work.let.set()
    group = Group(work)
    async with asyncio.timeout(30):
        assert await group.submit(1) == 2
        assert await group.submit(2) == 4
    assert work.turns == [[1], [2]]


async def test_one_that_can_not_be_done_spoils_no_other():
    work = Work(bad=[2])
    outcomes = await submitted(work, [0, 1, 2, 3])
    assert outcomes[:2] == [0, 2]
    assert outcomes[3] == 6
    assert isinstance(outcomes[2], RuntimeError)


async def test_a_statement_that_the_database_refuses_spoils_no_other():
    error = StorageError("the database refuses")
    error.reason = "refused"
    assert await submitted(Work(bad=[2], error=error), [0, 1, 2, 3]) == [0, 2, error, 6]


async def test_an_outage_meets_all_at_once_and_is_not_tried_for_each():
    error = StorageError("the database does not answer")
    error.reason = "unreachable"
    work = Work(bad=[2], error=error)
    assert await submitted(work, [0, 1, 2, 3]) == [0, error, error, error]
    assert work.turns == [[0], [1, 2, 3]]


async def test_who_does_not_wait_any_more_holds_nobody_up():
    work = Work()
    group = Group(work)
    first, second = (asyncio.create_task(group.submit(number)) for number in (1, 2))
    async with asyncio.timeout(30):
        while not work.turns:
            await asyncio.sleep(0)
        first.cancel()
        work.let.set()
        assert await second == 4
    with pytest.raises(asyncio.CancelledError):
        await first
