"""How large a database is: nothing else tells that it fills its disk before it does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.database.transactions import reading
from attestream.errors import StorageError
from attestream.telemetry import DATABASE_SIZE, gauge

LOOK_S: Final = 60.0

_QUERIES: Final = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "postgresql": "SELECT pg_database_size(current_database())",
    "mysql": "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables"
    " WHERE table_schema = DATABASE()",
}


async def size(engine: AsyncEngine) -> int:
    """Return the bytes of the whole database, with what other services keep in it.

    :raises StorageError: the database does not answer.
    """
    async with reading(engine) as connection:
        return int((await connection.execute(text(_QUERIES[engine.dialect.name]))).scalar_one())


async def report_size(engine: AsyncEngine, service: str) -> None:
    """Report the size of the database of ``service`` as a metric, for ever."""
    measured = gauge(DATABASE_SIZE)
    while True:
        # Whoever needs the database says that it is away.
        with contextlib.suppress(StorageError):
            measured.set(await size(engine), {"service": service})
        await asyncio.sleep(LOOK_S)
