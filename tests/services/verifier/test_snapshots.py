"""What a new owner reads behind a partition's mark tells it as much as the whole record would, whatever happened before."""

import contextlib
import random
from types import SimpleNamespace

import pytest

from attestream.appraisal.policy import compile_policy
from attestream.bus.partitions import partition
from attestream.database import migrate, open_engine, transaction
from attestream.errors import BusError, StorageError
from attestream.tpm.public import parse_public
from devtools.pool import allowing, eventually, make_agent
from schemas import subjects
from schemas.events import Event, EventKind, Standing
from services.verifier import record
from services.verifier.attester import Attester
from services.verifier.journal import Journal
from services.verifier.lease import Fence
from services.verifier.snapshots import MARK_S, Mark, Snapshots
from services.verifier.store import ATTESTERS, SNAPSHOTS, Store
from services.verifier.tail import Tail

POLICY = compile_policy(b'{"format":"attestream-policy/1","bank":"sha256","pcrs":{"0":["' + b"00" * 32 + b'"]}}')
AK = parse_public(make_agent("any").tpm.ak_public)
CHANGES = {
    EventKind.UNREACHABLE: Standing.UNREACHABLE,
    EventKind.RECOVERED: Standing.TRUSTED,
    EventKind.FAILED: Standing.FAILED,
    EventKind.WARNED: Standing.TRUSTED,
}


class LossyBus:
    """A bus that can lose the receipt of what it has stored."""

    def __init__(self, bus):
        self._bus = bus
        self.loses = False

    async def publish_durable(self, *arguments, **options):
        ack = await self._bus.publish_durable(*arguments, **options)
        if self.loses:
            raise BusError("no receipt came")
        return ack


class WeakStore(Store):
    """A store whose database refuses at times."""

    refuses = False

    async def save(self, rows, marks=()):
        self._check()
        await super().save(rows, marks)

    async def delete(self, agent_id, fence, **more):
        self._check()
        await super().delete(agent_id, fence, **more)

    def _check(self):
        if self.refuses:
            raise StorageError("refused")


class Owner:
    """What the journal needs of a partition."""

    def __init__(self, bus, index, name):
        self.index = index
        self.fence = Fence(bus, index, name)
        self.owned = True
        self.late = False
        self.unsettled = set()

    def check_owned(self):
        assert self.owned


class Life:
    """A partition with some agents, owned by one worker after another."""

    def __init__(self, bus, store, seed):
        self.random = random.Random(seed)
        self.bus, self.store = bus, store
        self.lossy = LossyBus(bus)
        self.index = seed
        self.ids = [f"agent-{seed}-{number}" for number in range(4)]
        self.now = 1_800_000_000_000
        self.owners = 0
        self.short = 0
        """Takeovers that had a mark to begin at."""

    async def begin(self):
        """Own the partition for the first time."""
        await self._own({})
        self.attesters = {id_: self._attester(id_, 0, Standing.PENDING) for id_ in self.ids}
        for attester in self.attesters.values():
            await self.journal.transition(attester, EventKind.ADDED, Standing.PENDING)
        await self.journal.flush()

    async def step(self):
        """Let something happen."""
        acts = [self.change] * 5 + [self.lose, self.write, self.write, self.refuse, self.delay, self.elsewhere, self.crash]
        await self.random.choice(acts)()

    async def change(self):
        if self.attesters:
            kind = self.random.choice(list(CHANGES))
            await self.journal.transition(self._any(), kind, CHANGES[kind])

    async def lose(self):
        self.lossy.loses = True
        with contextlib.suppress(BusError):
            await self.change()
        self.lossy.loses = False

    async def write(self):
        self.now += int(self.random.choice((0.1, MARK_S + 1)) * 1000)
        await self.journal._write(at_once=self.random.random() < 0.3)

    async def refuse(self):
        self.store.refuses = True
        if self.random.random() < 0.5 or len(self.attesters) < 2:
            with contextlib.suppress(StorageError):
                await self.change()
                self.now += 10_000
                await self.journal._write()
        else:
            with pytest.raises(StorageError):
                await self.delete()
        self.store.refuses = False

    async def delete(self):
        attester = self._any()
        await self.journal.transition(attester, EventKind.DELETED, Standing.UNKNOWN)
        del self.attesters[attester.agent_id]
        if self.random.random() < 0.5:
            self.store.refuses = False
            await self.journal._write(at_once=True)
            self.store.refuses = True
        await self.journal.erase(attester)

    async def delay(self):
        self.owner.owned, self.owner.late = False, True
        await self.journal._write(at_once=True)
        self.owner.owned, self.owner.late = True, False

    async def elsewhere(self):
        event = Event(id=f"other:{self.random.random()}", kind=EventKind.TRUSTED, agent_id="other", at=self.now)
        ack = await self.bus.publish_durable(subjects.event(event.kind, "other"), event, message_id=event.id)
        self.journal.snapshots.reached(ack.sequence)

    async def crash(self):
        """Another takes over, by the mark, and finds what the whole record would have told it."""
        before = {id_: attester.standing for id_, attester in self.attesters.items()}
        doubtful = set(self.owner.unsettled)
        rows, events = await self._own(before)
        self.attesters = {}
        for row in rows.values():
            event = events.get(row.agent_id)
            standing = event.standing if event is not None else Standing(row.standing)
            number = event.event_number if event is not None else row.event_number
            attester = self._attester(row.agent_id, number, standing)
            if standing is Standing.UNKNOWN:
                await self.journal.erase(attester)
                continue
            if event is not None:
                self.journal.touch(attester)
            self.attesters[row.agent_id] = attester
        found = {id_: attester.standing for id_, attester in self.attesters.items()}
        assert {id_: found[id_] for id_ in found if id_ not in doubtful} == {
            id_: before[id_] for id_ in before if id_ not in doubtful
        }

    async def _own(self, before):
        self.owners += 1
        self.owner = Owner(self.bus, self.index, f"worker-{self.owners}")
        token_before = await self.owner.fence.take(self.now)
        snapshot = await self.store.partition(self.index)
        rows = {row.agent_id: row for row in snapshot.rows}
        since = snapshot.mark.since(token_before, self.owner.fence.token) if snapshot.mark else None
        self.short += since is not None
        answers = []
        for start in (since, None):
            last = await record.last_events(self.bus, Tail(self.bus), list(rows), start, self.owner.fence)
            answers.append((await record.newer_events(self.bus, rows, last))[0])
        events, whole = answers
        # An end that the row knows is told of by its standing.
        known = {id_ for id_, row in rows.items() if row.standing == Standing.UNKNOWN}
        assert {id_: events[id_] for id_ in events.keys() - known} == {id_: whole[id_] for id_ in whole.keys() - known}
        self.journal = Journal(self.lossy, self.store, lambda: self.now, f"worker-{self.owners}", flush_ms=10)
        self.journal.begin(self.owner)
        return rows, events

    def _any(self):
        return self.random.choice(list(self.attesters.values()))

    def _attester(self, agent_id, number, standing):
        attester = Attester(agent_id, self.owner, POLICY, "base@1")
        attester.ak, attester.transport, attester.incarnation = AK, b"t" * 32, "i"
        attester.event_number, attester.standing = number, standing
        return attester


@pytest.fixture
async def store(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/verifier.db")
    await migrate(engine, "services.verifier.migrations")
    yield WeakStore(engine)
    await engine.dispose()


@pytest.mark.parametrize("seed", range(16))
async def test_a_mark_hides_nothing_whatever_happened_before(bus, store, seed):
    life = Life(bus, store, seed)
    await life.begin()
    for _ in range(80):
        await life.step()
    await life.crash()
    await life.journal.flush()
    await life.crash()
    assert life.short, "there was never a mark that counted"


def owner(index=7, token=10, **changes):
    values = {"owned": True, "unsettled": set(), "fence": SimpleNamespace(token=token)}
    return SimpleNamespace(index=index, **(values | changes))


@pytest.mark.parametrize(
    ("before", "token", "since"),
    [
        (10, 200, 100),
        (11, 200, None),  # an owner in between has left no mark
        (0, 200, None),  # the record was purged, or its beginning has expired
        (10, 100, None),  # the record was put back to an older copy
        (10, 50, None),
    ],
)
def test_a_mark_counts_only_for_the_next_owner(before, token, since):
    assert Mark(7, 10, 100).since(before, token) == since


def test_a_mark_that_is_older_than_its_own_fence_is_none():
    assert Mark(7, 10, 9).since(10, 200) is None


def test_what_is_in_doubt_is_not_marked():
    snapshots = Snapshots(None)
    for each in (owner(1), owner(2, unsettled={"a"}), owner(3, owned=False)):
        snapshots.begin(each)
    snapshots.reached(50)
    assert snapshots.marks(0) == [Mark(1, 10, 50)]


def test_marks_are_written_now_and_then_and_once():
    snapshots = Snapshots(None)
    snapshots.begin(owner())
    marks = snapshots.marks(100)
    assert marks == [Mark(7, 10, 10)]
    # The database has refused them.
    assert snapshots.marks(100 + MARK_S) == marks
    snapshots.written(marks)
    assert snapshots.marks(100 + 2 * MARK_S) == []
    snapshots.reached(11)
    assert snapshots.marks(100 + 2 * MARK_S + 1) == []
    assert snapshots.marks(100 + 2 * MARK_S + 1, at_once=True) == [Mark(7, 10, 11)]


def test_a_partition_that_was_given_up_is_not_marked():
    snapshots = Snapshots(None)
    first, second = owner(), owner()
    snapshots.begin(first)
    snapshots.begin(second)
    snapshots.end(first)
    assert snapshots.marks(0, at_once=True)
    snapshots.end(second)
    assert snapshots.marks(0, at_once=True) == []


async def test_the_end_of_the_record_is_read_once_for_all(bus):
    async def put(agent_id, number):
        event = Event(id=f"{agent_id}:{number}", kind=EventKind.TRUSTED, agent_id=agent_id, at=1, event_number=number)
        return (await bus.publish_durable(subjects.event(event.kind, agent_id), event, message_id=event.id)).sequence

    start = await put("a", 1)
    await put("a", 2)
    await put("b", 1)
    end = await put("c", 1)
    tail = Tail(bus)
    first = await tail.read(start, end, ["a", "c"])
    assert [stored.subject.rpartition(".")[2] for stored in first] == ["a", "c"]
    assert first[0].sequence == start + 1
    # Somebody whose mark is older reads on from there.
    assert [stored.sequence for stored in await tail.read(start - 1, end, ["b", "nobody"])] == [start + 2]


async def test_a_worker_that_ends_in_order_leaves_marks(pool, tenant, fleet):
    await pool.start("first")
    await tenant.push("base", allowing("boot_aggregate"))
    await tenant.add("agent-0")
    await tenant.becomes("agent-0", Standing.TRUSTED)
    index = partition(subjects.token("agent-0"))
    await pool.stop("first")
    snapshot = await pool.store.partition(index)
    last = [event.event_number for event in await tenant.events("agent-0")][-1]
    assert [row.event_number for row in snapshot.rows] == [last]
    assert snapshot.mark is not None
    assert snapshot.mark.fence == snapshot.rows[0].fence
    await pool.start("second")
    await tenant.becomes("agent-0", Standing.TRUSTED)

    async def marked():
        mark = (await pool.store.partition(index)).mark
        return mark.fence > snapshot.mark.fence

    await eventually(marked)


async def test_rows_of_an_old_backup_do_not_bring_trust_back(pool, tenant, fleet, bus):
    """Whoever restores the database of yesterday must not forget who has failed since."""
    await pool.start("first")
    await tenant.push("base", allowing("boot_aggregate"))
    await tenant.add("agent-0")
    await tenant.becomes("agent-0", Standing.TRUSTED)
    await pool.stop("first")
    index = partition(subjects.token("agent-0"))
    backup = await pool.store.partition(index)
    await pool.start("second")
    fleet.agents["agent-0"].run("/opt/intruder", b"i" * 32)
    await tenant.becomes("agent-0", Standing.FAILED)
    await pool.stop("second")
    async with transaction(pool.engine) as connection:
        await connection.execute(ATTESTERS.delete())
        await connection.execute(SNAPSHOTS.delete())
    await pool.store.save(backup.rows, [backup.mark])
    worker = await pool.start("third")
    attester = await eventually(lambda: worker.attester("agent-0"))
    assert attester.standing is Standing.FAILED
