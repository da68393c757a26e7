"""Engines for PostgreSQL, by psycopg."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from attestream.database.transactions import ROLLBACK_S, TIMEOUT_OPTION

CONNECT_TIMEOUT_S: Final = 5
POOL_TIMEOUT_S: Final = 15


class _Connection(AsyncConnection[Any]):
    """Does not wait for ever."""

    async def rollback(self) -> None:
        """Roll back, for no longer than :data:`ROLLBACK_S`."""
        giving_up = asyncio.get_running_loop().call_later(ROLLBACK_S, self._hang_up)
        try:
            await super().rollback()
        finally:
            giving_up.cancel()

    def _hang_up(self) -> None:
        # A cancellation would have the driver ask the server, twice, to end what it does.
        # It may be closed by now.
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as wire:
            wire.shutdown(socket.SHUT_RDWR)


def engine(url: URL, connections: int, timeout_s: float) -> AsyncEngine:
    """Return an engine with at most ``connections`` connections.

    The server itself ends a statement, and a transaction of a client that has stopped, after ``timeout_s`` seconds: what
    that client had locked is free again (PostgreSQL documentation, chapter "Client Connection Defaults").
    """
    milliseconds = int(timeout_s * 1000)
    limits = ("statement_timeout", "idle_in_transaction_session_timeout")
    return create_async_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,
        execution_options={TIMEOUT_OPTION: timeout_s},
        connect_args={
            "async_creator_fn": _Connection.connect,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "attestream",
            "options": " ".join(f"-c {limit}={milliseconds}" for limit in limits),
            # A host that has vanished does not say goodbye.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
        },
    )
