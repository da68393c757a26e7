"""Bringing a service's tables to their newest version, with any number of processes starting at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from alembic import command, context
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from attestream.database.transactions import transaction, watched
from attestream.errors import ConfigError, StorageError

MIGRATION_TIMEOUT_S: Final = 600
"""Seconds that a migration may take, and that others wait for it."""

_migrating: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


async def migrate(engine: AsyncEngine, package: str) -> None:
    """Bring the tables of a service to their newest version.

    ``package`` holds ``env.py``, which only calls :func:`run_migrations`, and ``versions/``. Processes that start at once
    wait for each other: on PostgreSQL by an advisory lock, on MariaDB and MySQL by a named one, on SQLite by the write lock.
    A migration that fails leaves nothing behind, except on MariaDB and MySQL, which commit every change of a table by
    itself: there it is taken up where it ended (:mod:`attestream.database.steps`).

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
    async with lock, _ALONE[engine.dialect.name](engine, package) as connection:
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


@asynccontextmanager
async def _alone_on_sqlite(engine: AsyncEngine, _package: str) -> AsyncIterator[AsyncConnection]:
    async with transaction(engine) as connection:
        yield connection


@asynccontextmanager
async def _alone_on_postgresql(engine: AsyncEngine, package: str) -> AsyncIterator[AsyncConnection]:
    async with watched(engine, writing=True, timeout_s=MIGRATION_TIMEOUT_S), engine.begin() as connection:
        await connection.execute(text(f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT_S}s'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(package)})
        yield connection


@asynccontextmanager
async def _alone_on_mysql(engine: AsyncEngine, package: str) -> AsyncIterator[AsyncConnection]:
    async with watched(engine, writing=True, timeout_s=2 * MIGRATION_TIMEOUT_S), engine.connect() as connection:
        limit = "max_statement_time" if getattr(engine.dialect, "is_mariadb", False) else "max_execution_time"
        await connection.execute(text(f"SET SESSION {limit} = 0"))
        # Such locks are the whole server's: their name must tell the database too.
        name = (await connection.execute(text("SELECT SHA2(CONCAT(DATABASE(), :key), 224)"), {"key": package})).scalar_one()
        taken = await connection.execute(text("SELECT GET_LOCK(:name, :s)"), {"name": name, "s": MIGRATION_TIMEOUT_S})
        if taken.scalar_one() != 1:
            raise StorageError(f"another process has been migrating the tables of {package} for {MIGRATION_TIMEOUT_S} s")
        try:
            # Begin anew: what was read before the lock may be old.
            await connection.commit()
            yield connection
            await connection.commit()
        finally:
            # Its end gives the lock back, in whatever state it is.
            await connection.invalidate()


_ALONE: Final = {"sqlite": _alone_on_sqlite, "postgresql": _alone_on_postgresql, "mysql": _alone_on_mysql}


def _upgrade(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _service(package: str) -> str:
    """Return ``registrar`` for ``services.registrar.migrations``."""
    names = package.split(".")
    return names[-2] if len(names) > 1 else names[0]


def _lock_key(package: str) -> int:
    return int.from_bytes(hashlib.sha256(b"attestream/migrate/" + package.encode()).digest()[:8], "big", signed=True)
