"""Databases of services: SQLite by default, PostgreSQL by URL; one engine, one way to begin, one way to migrate.

Each service owns its tables and no service reads another's. Services may share one database: tables and the version table
carry the service's name.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import sqlite3
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from alembic import command, context
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from attestream.errors import ConfigError, StorageError

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a SQLite connection waits for another's write to end."""

CONNECT_TIMEOUT_S: Final = 5
POOL_TIMEOUT_S: Final = 15
_SQLITE_CONNECTIONS: Final = 4
_POSTGRESQL_CONNECTIONS: Final = 8
_READING: Final = "attestream_reading"

_log = logging.getLogger(__name__)
_writers: weakref.WeakKeyDictionary[Engine, asyncio.Lock] = weakref.WeakKeyDictionary()
_migrating: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


def open_engine(url: str) -> AsyncEngine:
    """Return an engine for ``sqlite:///path`` or ``postgresql://...``. Connections are made when first needed.

    SQLite runs in WAL mode with foreign keys on and ``synchronous=NORMAL``: a killed process loses nothing that was
    committed, a power cut may lose the last commits but never corrupts (https://www.sqlite.org/wal.html).

    :raises ConfigError: when the URL is not one of these two.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("the database URL can not be parsed", remedy="Use sqlite:///PATH or postgresql://...") from error
    name = parsed.get_backend_name()
    if name == "sqlite":
        return _sqlite_engine(parsed)
    if name in ("postgresql", "postgres"):
        return _postgresql_engine(parsed)
    raise ConfigError(f"no support for {name!r} databases", remedy="Use sqlite:///PATH or postgresql://...")


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in one transaction that may write: committed at its end, rolled back when it raises.

    On SQLite the write lock is taken at the beginning, so that what was read can not change before it is written.

    :raises StorageError: when the database does not answer or refuses.
    """
    # SQLite has one writer at a time: waiting here is fair and quick, its own waiting polls with growing pauses.
    turn = _writers.setdefault(engine.sync_engine, asyncio.Lock()) if engine.dialect.name == "sqlite" else nullcontext()
    with storage_errors():
        async with turn, engine.begin() as connection:
            yield connection


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in one transaction that only reads; on SQLite it waits for no writer.

    :raises StorageError: when the database does not answer or refuses.
    """
    with storage_errors():
        async with engine.execution_options(**{_READING: True}).connect() as connection:
            yield connection


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the database layer raises in the block into :class:`StorageError`."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        # Strangers may be told of a StorageError: the reason, which can name hosts and tables, stays in the log.
        _log.warning("the database failed: %s: %.300s", type(error).__name__, getattr(error, "orig", None) or error)
        raise StorageError("the database does not answer, or refuses") from error


async def migrate(engine: AsyncEngine, package: str) -> None:
    """Bring the tables of a service to their newest version, in one transaction.

    ``package`` holds ``env.py``, which only calls :func:`run_migrations`, and ``versions/``. Processes that start at once
    wait for each other: on PostgreSQL by an advisory lock, on SQLite by the write lock.

    :raises ConfigError: when ``package`` holds no migrations, or the database is of a newer version than this program.
    :raises StorageError: when the database does not answer or refuses.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{package} is not a package of migrations")
    config = Config()
    config.set_main_option("script_location", str(Path(next(iter(spec.submodule_search_locations)))).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = f"{_service(package)}_version"
    # Alembic keeps its context in module globals: two migrations of one process must not overlap.
    lock = _migrating.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock, transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(package)})
        try:
            await connection.run_sync(_upgrade, config)
        except CommandError as error:
            raise ConfigError(
                f"the tables of {package} can not be migrated: {error}",
                remedy="Run a version of Attestream that is not older than the one that last used this database.",
            ) from error


def run_migrations() -> None:
    """Run the migrations on the connection that :func:`migrate` holds. Called by each ``env.py``, by nothing else."""
    attributes = context.config.attributes
    context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
    with context.begin_transaction():
        context.run_migrations()


def _upgrade(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _service(package: str) -> str:
    """Return ``registrar`` for ``services.registrar.migrations``."""
    names = package.split(".")
    return names[-2] if len(names) > 1 else names[0]


def _lock_key(package: str) -> int:
    return int.from_bytes(hashlib.sha256(b"attestream/migrate/" + package.encode()).digest()[:8], "big", signed=True)


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=_POSTGRESQL_CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "attestream"},
    )


def _sqlite_engine(url: URL) -> AsyncEngine:
    if not url.database or url.database == ":memory:" or url.query:
        raise ConfigError("a SQLite URL must name a file and nothing else", remedy="Use sqlite:///PATH.")
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=_SQLITE_CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # None: the driver begins no transaction by itself, _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        _switch_to_wal(cursor)
    finally:
        cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # SQLite does not apply its busy timeout to this switch: processes that open a new file at once must try again.
    for _ in range(BUSY_TIMEOUT_MS // 20):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            await_only(asyncio.sleep(0.02))
        else:
            return
    raise sqlite3.OperationalError("the file stays locked; it can not be switched to WAL mode")


def _begin_sqlite(connection: Connection) -> None:
    deferred = connection.get_execution_options().get(_READING, False)
    connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")
