"""The tables of a service to a file and back, whatever database they are in: what SQLite gave, PostgreSQL takes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Final, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from attestream.backup.contents import Appendable
from attestream.database import reading, transaction
from attestream.errors import ConfigError, MalformedError

BATCH: Final = 500
"""Rows in one frame of a file, and in one statement."""

MAX_FRAME_BYTES: Final = 256 << 20

_LENGTH: Final = 4


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one table, each in the order of ``columns``."""

    table: str
    columns: list[str]
    rows: list[list[Any]]


async def save(engine: AsyncEngine, service: str, file: Appendable) -> int:
    """Write all rows of ``service`` to ``file`` as they were at one moment, and return their number.

    :raises StorageError: the database does not answer.
    """
    rows = 0
    packed = gzip.GzipFile(fileobj=cast("BinaryIO", file), mode="wb", mtime=0)
    async with reading(engine) as connection:
        if engine.dialect.name != "sqlite":  # where a read transaction is a snapshot anyway
            await connection.execution_options(isolation_level="REPEATABLE READ")
        for table in await _tables(connection, service):
            names = [str(column.name) for column in table.columns]
            result = await connection.stream(sa.select(table))
            async for part in result.partitions(BATCH):
                frame = Frame(str(table.name), names, [list(row) for row in part])
                data = msgspec.msgpack.encode(frame)
                packed.write(len(data).to_bytes(_LENGTH, "big") + data)
                rows += len(frame.rows)
    packed.close()
    return rows


async def load(engine: AsyncEngine, service: str, part: AbstractContextManager[io.RawIOBase]) -> int:
    """Put the rows in ``part`` into the empty tables of ``service``, all or none, and return their number.

    None, when ``part`` raises at its end.

    :raises ConfigError: a table holds rows already, or is missing.
    :raises MalformedError: the file does not hold rows of these tables.
    :raises StorageError: the database does not answer or refuses.
    """
    rows = 0
    async with transaction(engine) as connection:
        tables = {table.name: table for table in await _tables(connection, service)}
        await _check_empty(connection, service, tables)
        with part as file:
            for frame in frames(file):
                rows += await _insert(connection, tables.get(frame.table), frame)
        await _continue_numbering(connection, tables)
    return rows


async def _insert(connection: AsyncConnection, table: sa.Table | None, frame: Frame) -> int:
    if table is None or not set(frame.columns) <= {column.name for column in table.columns}:
        raise MalformedError(
            f"the backup has a table {frame.table[:64]!r} that this version does not know in that form",
            remedy="Restore with the version that made the backup, then upgrade.",
        )
    values = [dict(zip(frame.columns, row, strict=True)) for row in frame.rows]
    if values:
        try:
            await connection.execute(sa.insert(table), values)
        except (ValueError, TypeError, OverflowError, sa.exc.DataError, sa.exc.IntegrityError) as error:
            # A driver may refuse a value before the database sees it.
            raise MalformedError(f"the backup has a row that table {frame.table} does not take") from error
    return len(values)


async def _tables(connection: AsyncConnection, service: str) -> list[sa.Table]:
    def reflect(sync: sa.Connection) -> list[sa.Table]:
        metadata = sa.MetaData()
        metadata.reflect(sync, only=lambda name, _: name.startswith(f"{service}_") and name != f"{service}_version")
        return list(metadata.sorted_tables)

    return await connection.run_sync(reflect)


async def _check_empty(connection: AsyncConnection, service: str, tables: dict[str, sa.Table]) -> None:
    if not tables:
        raise ConfigError(f"the database of the {service} has no tables yet")
    for table in tables.values():
        if (await connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))).first() is not None:
            raise ConfigError(
                f"the database of the {service} is not empty: {table.name} holds rows",
                remedy="Restore into an empty database.",
            )


async def _continue_numbering(connection: AsyncConnection, tables: dict[str, sa.Table]) -> None:
    """Let PostgreSQL count on behind the numbers that came with the rows; the others do so by themselves."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables.values():
        for column in table.primary_key.columns:
            if isinstance(column.type, sa.Integer) and column.server_default is not None:
                sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
                highest = sa.select(sa.func.max(column)).scalar_subquery()
                await connection.execute(sa.select(sa.func.setval(sequence, highest)).where(highest.is_not(None)))


def frames(file: io.RawIOBase | io.BytesIO) -> Iterator[Frame]:
    """Yield what :func:`save` wrote.

    :raises MalformedError: ``file`` holds something else.
    """
    decoder = msgspec.msgpack.Decoder(Frame)
    try:
        with gzip.GzipFile(fileobj=cast("BinaryIO", file), mode="rb") as packed:
            while head := packed.read(_LENGTH):
                length = int.from_bytes(head, "big")
                if len(head) != _LENGTH or length > MAX_FRAME_BYTES:
                    raise MalformedError("a file of the backup does not hold rows")
                frame = decoder.decode(packed.read(length))
                if len(set(frame.columns)) != len(frame.columns) or any(
                    len(row) != len(frame.columns) or not _are_values(row) for row in frame.rows
                ):
                    raise MalformedError(f"the backup has a row that table {frame.table[:64]!r} can not have")
                yield frame
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"a file of the backup does not hold rows: {error}") from error


def _are_values(row: list[Any]) -> bool:
    return all(value is None or isinstance(value, bool | int | float | str | bytes) for value in row)
