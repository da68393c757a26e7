import asyncio
import textwrap

import pytest
from sqlalchemy import text

from attestream.database import migrate, open_engine, reading, transaction
from attestream.errors import ConfigError, StorageError

ENV = "from attestream.database import run_migrations\n\nrun_migrations()\n"
FIRST = """
    import sqlalchemy as sa
    from alembic import op

    revision = "1"
    down_revision = None

    def upgrade():
        op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))
        op.execute("INSERT INTO things (id) VALUES (1)")
"""
BROKEN = """
    from alembic import op

    revision = "2"
    down_revision = "1"

    def upgrade():
        op.execute("INSERT INTO things (id) VALUES (2)")
        op.execute("INSERT INTO no_such_table (id) VALUES (1)")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Name of a package of migrations with one step, and a function that adds a step."""
    root = tmp_path / "packages"
    migrations = root / f"owner{tmp_path.name.replace('-', '_')}" / "migrations"
    (migrations / "versions").mkdir(parents=True)
    (migrations / "env.py").write_text(ENV)
    monkeypatch.syspath_prepend(str(root))

    def add(name: str, source: str) -> None:
        (migrations / "versions" / f"{name}.py").write_text(textwrap.dedent(source))

    add("one", FIRST)
    return f"{migrations.parent.name}.migrations", add


@pytest.fixture
async def engine(database_url):
    engine = open_engine(database_url)
    yield engine
    await engine.dispose()


async def ids(engine) -> list[int]:
    async with reading(engine) as connection:
        return list((await connection.execute(text("SELECT id FROM things ORDER BY id"))).scalars())


async def test_migrate_brings_the_tables_and_can_be_repeated(engine, package):
    name, _ = package
    await migrate(engine, name)
    await migrate(engine, name)
    assert await ids(engine) == [1]


async def test_many_engines_of_one_process_migrate_at_once(database_url, package):
    engines = [open_engine(database_url) for _ in range(5)]
    await asyncio.gather(*(migrate(engine, package[0]) for engine in engines))
    assert await ids(engines[0]) == [1]
    for engine in engines:
        await engine.dispose()


async def test_a_failing_migration_leaves_nothing_behind(engine, package):
    name, add = package
    await migrate(engine, name)
    add("two", BROKEN)
    with pytest.raises(StorageError):
        await migrate(engine, name)
    assert await ids(engine) == [1]


async def test_a_database_of_a_newer_version_is_refused(engine, package):
    name, _ = package
    await migrate(engine, name)
    async with transaction(engine) as connection:
        await connection.execute(text(f"UPDATE {name.split('.')[0]}_version SET version_num = '99'"))
    with pytest.raises(ConfigError, match="can not be migrated"):
        await migrate(engine, name)


async def test_a_package_without_migrations_is_named(engine):
    with pytest.raises(ConfigError, match=r"attestream\.errors"):
        await migrate(engine, "attestream.errors")


async def test_a_block_that_raises_is_rolled_back(engine, package):
    await migrate(engine, package[0])

    async def write_and_fail() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("INSERT INTO things (id) VALUES (7)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    assert await ids(engine) == [1]


async def test_what_was_read_does_not_change_before_it_is_written(engine, package):
    await migrate(engine, package[0])
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER)"))
        await connection.execute(text("INSERT INTO counters VALUES (1, 0)"))
    lock = "" if engine.dialect.name == "sqlite" else " FOR UPDATE"

    async def add_one() -> None:
        async with transaction(engine) as connection:
            n = (await connection.execute(text(f"SELECT n FROM counters WHERE id = 1{lock}"))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(text("UPDATE counters SET n = :n WHERE id = 1"), {"n": n + 1})

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with reading(engine) as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar_one() == 20


async def test_errors_are_storage_errors_and_tell_strangers_nothing(engine):
    with pytest.raises(StorageError) as raised:
        async with reading(engine) as connection:
            await connection.execute(text("SELECT * FROM secret_table"))
    assert "secret_table" not in raised.value.message
    assert not raised.value.permanent


async def test_sqlite_is_set_up_to_survive_a_kill(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    async with reading(engine) as connection:
        settings = {
            name: (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    await engine.dispose()
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 10_000}


async def test_sqlite_readers_wait_for_no_writer(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER)"))
    async with transaction(engine) as writer:
        await writer.execute(text("INSERT INTO things VALUES (1)"))
        async with asyncio.timeout(20):
            assert await ids(engine) == []
    assert await ids(engine) == [1]
    await engine.dispose()


async def test_a_database_that_is_not_there_is_a_storage_error(tmp_path):
    absent = open_engine(f"sqlite:///{tmp_path / 'no' / 'such' / 'directory' / 'a.db'}")
    refused = open_engine(f"postgresql://nobody@/x?host={tmp_path}")
    for engine in (absent, refused):
        with pytest.raises(StorageError):
            async with reading(engine):
                pass
        await engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "oracle://h/d",
        "mysql://h/d",
        "mysql://u@h",
        "mariadb://u@h/d?charset=latin1",
        "mariadb://u@h/d?ssl_ca=/no/such/file",
        "mariadb://u@h/d?ssl_cert=/no/such/file",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///f.db?mode=ro",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(ConfigError):
        open_engine(url)


def test_a_refused_url_does_not_tell_its_password():
    with pytest.raises(ConfigError) as raised:
        open_engine("oracle://user:hunter2@host/db")
    assert "hunter2" not in str(raised.value)
