"""Engines for SQLite files, by aiosqlite.

WAL mode with foreign keys on and ``synchronous=NORMAL``: a killed process loses nothing that was committed, a power cut may
lose the last commits but never corrupts (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from attestream.database.transactions import READING_OPTION, TIMEOUT_OPTION
from attestream.errors import ConfigError

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a connection waits for another's write to end."""

POOL_TIMEOUT_S: Final = 15


def engine(url: URL, connections: int, timeout_s: float) -> AsyncEngine:
    """Return an engine with at most ``connections`` connections.

    :raises ConfigError: when the URL names anything but a file.
    """
    if not url.database or url.database == ":memory:" or url.query or url.host:
        raise ConfigError("a SQLite URL must name a file and nothing else", remedy="Use sqlite:///PATH.")
    made = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        hide_parameters=True,
        execution_options={TIMEOUT_OPTION: timeout_s},
    )
    event.listen(made.sync_engine, "connect", _prepare)
    event.listen(made.sync_engine, "begin", _begin)
    return made


def _prepare(connection: Any, _record: Any) -> None:
    # None: the driver begins no transaction by itself, _begin does.
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


def _begin(connection: Connection) -> None:
    deferred = connection.get_execution_options().get(READING_OPTION, False)
    connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")
