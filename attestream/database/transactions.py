"""Transactions: bounded in time, with one kind of error, and an outage told once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from attestream.errors import StorageError
from attestream.telemetry import DATABASE_FAILURES, counter

READING_OPTION: Final = "attestream_reading"
TIMEOUT_OPTION: Final = "attestream_timeout_s"
"""Execution option of every engine: seconds after which a statement is given up."""

GRACE_S: Final = 5.0
"""Seconds that a server has beyond that to say so itself. Then the transaction is given up and its connection closed."""

ROLLBACK_S: Final = 5.0
"""Most seconds for a rollback: the one with which a connection is given back can not be interrupted from outside."""

_MESSAGES: Final = {
    "unreachable": "the database does not answer",
    "locked": "the database is locked by another process",
    "full": "the database has no space left",
    "refused": "the database refuses",
}
_REMEDIES: Final = {
    "unreachable": "Check that the database server runs and that its URL is right; what was asked for may be repeated.",
    "locked": "Look for a process that was stopped or hangs inside a write; what was asked for may be repeated.",
    "full": "Make space where the database is; what was asked for may be repeated.",
    "refused": "Look into the service's log for the database's reason.",
}

# https://www.postgresql.org/docs/current/errcodes-appendix.html: by class, or by the whole code.
_POSTGRESQL: Final = {
    "08": "unreachable",
    "57": "unreachable",
    "53300": "unreachable",
    "25P03": "unreachable",
    "40": "locked",
    "55P03": "locked",
    "53100": "full",
}
# https://mariadb.com/kb/en/mariadb-error-code-reference/
_MYSQL: Final = {
    **dict.fromkeys((1040, 1053, 1152, 1203, 1927, 1969, 2002, 2003, 2006, 2013, 2014, 2055, 3024), "unreachable"),
    **dict.fromkeys((1205, 1213), "locked"),
    **dict.fromkeys((1021, 1114), "full"),
}
# https://www.sqlite.org/rescode.html
_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "unreachable",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
}

_log = logging.getLogger(__name__)
_writers: weakref.WeakKeyDictionary[Engine, asyncio.Lock] = weakref.WeakKeyDictionary()
_outages: weakref.WeakKeyDictionary[Engine, dict[bool, _Outage]] = weakref.WeakKeyDictionary()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in one transaction that may write: committed at its end, rolled back when it raises.

    On SQLite the write lock is taken at the beginning, so that what was read can not change before it is written. Keep the
    block short: a process that is stopped inside it holds up all others of that file.

    :raises StorageError: when the database does not answer or refuses. What was written is then there as a whole or not at
        all; repeat it.
    """
    # SQLite has one writer at a time: waiting here is fair and quick, its own waiting polls with growing pauses.
    turn = _writers.setdefault(engine.sync_engine, asyncio.Lock()) if engine.dialect.name == "sqlite" else nullcontext()
    async with watched(engine, writing=True), turn, engine.begin() as connection:
        yield connection


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in one transaction that only reads; on SQLite it waits for no writer.

    :raises StorageError: when the database does not answer or refuses.
    """
    async with (
        watched(engine, writing=False),
        engine.execution_options(**{READING_OPTION: True}).connect() as connection,
    ):
        yield connection


@asynccontextmanager
async def watched(engine: AsyncEngine, *, writing: bool, timeout_s: float | None = None) -> AsyncIterator[None]:
    """Turn what the database layer raises in the block into :class:`StorageError`, and give the block up when it hangs."""
    if timeout_s is None:
        timeout_s = engine.sync_engine.get_execution_options()[TIMEOUT_OPTION]
    try:
        async with asyncio.timeout(timeout_s + GRACE_S):
            yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = _reason(error)
        _outage(engine, writing=writing).failed(reason, error)
        # Strangers may be told of a StorageError: the cause, which can name hosts and tables, stays in the log.
        failure = StorageError(_MESSAGES[reason], remedy=_REMEDIES[reason])
        failure.reason = reason
        raise failure from error
    _outage(engine, writing=writing).ended()


class _Outage:
    """Whether reads, or writes, of one engine fail at present. Begin and end are told, what is between is counted."""

    def __init__(self, backend: str, what: str) -> None:
        self._backend = backend
        self._what = what
        self._since = 0.0
        self._failures = 0
        self._counter = counter(DATABASE_FAILURES)

    def failed(self, reason: str, error: BaseException) -> None:
        self._counter.add(1, {"reason": reason})
        detail = f"{type(error).__name__}: {getattr(error, 'orig', None) or str(error) or 'nothing came in time'}"
        if reason == "refused":
            _log.warning("%s: %.300s", _MESSAGES[reason], detail)
            return
        self._failures += 1
        if self._failures == 1:
            self._since = time.monotonic()
            _log.error(
                "%s (%s, %s), this is said once: %.300s. %s",
                _MESSAGES[reason],
                self._backend,
                self._what,
                detail,
                _REMEDIES[reason],
            )

    def ended(self) -> None:
        if self._failures:
            _log.warning(
                "the database answers again (%s, %s) after %.1f s and %d failed transactions",
                self._backend,
                self._what,
                time.monotonic() - self._since,
                self._failures,
            )
            self._failures = 0


def _outage(engine: AsyncEngine, *, writing: bool) -> _Outage:
    # Apart: while a writer hangs, SQLite still answers those who read.
    outages = _outages.setdefault(engine.sync_engine, {})
    if writing not in outages:
        outages[writing] = _Outage(engine.dialect.name, "writing" if writing else "reading")
    return outages[writing]


def _reason(error: BaseException) -> str:
    """Return a key of :data:`_MESSAGES`."""
    if isinstance(error, OSError | PoolTimeoutError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return "unreachable"
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code & 0xFF, "refused")
    if isinstance(cause, sqlite3.Error):
        return "refused"
    if hasattr(cause, "sqlstate"):
        # Without a code the server has not been reached.
        state = cause.sqlstate or "08"
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], "refused")
    number = cause.args[0] if cause is not None and cause.args else None
    return _MYSQL.get(number, "refused") if isinstance(number, int) else "refused"
