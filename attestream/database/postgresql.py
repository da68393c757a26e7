"""Engines for PostgreSQL, by psycopg."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from attestream.database.transactions import TIMEOUT_OPTION

CONNECT_TIMEOUT_S: Final = 5
POOL_TIMEOUT_S: Final = 15


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
