"""What migrations are made of: the same tables on every database, and steps that may be repeated.

MariaDB and MySQL commit every change of a table by itself. A migration that was cut off there is run again from its start,
so a step passes over what is there.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

BYTES: Final = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
"""Bytes of any length (up to 16 MiB)."""

_TABLE: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    # By default ids that differ only in case, or in an accent, would be the same.
    "mysql_collate": "utf8mb4_bin",
}


def key_bytes(length: int) -> sa.types.TypeEngine[bytes]:
    """Return the type of bytes that may be a key, at most ``length`` of them."""
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def create_table(name: str, *columns: sa.Column[Any]) -> None:
    """Make a table. Its texts are compared byte by byte on MariaDB and MySQL."""
    if not _repeated() or not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, **_TABLE)


def create_index(name: str, table: str, columns: list[str]) -> None:
    """Make an index."""
    if not _repeated() or name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns)


def add_bytes(table: str, column: str) -> None:
    """Add a column of bytes that is empty in the rows that are there."""
    if not _repeated():
        op.add_column(table, sa.Column(column, BYTES, nullable=False, server_default=sa.text("''")))
    elif column not in {there["name"] for there in sa.inspect(op.get_bind()).get_columns(table)}:
        # MySQL takes a default for such a column only as an expression.
        op.add_column(table, sa.Column(column, BYTES, nullable=False, server_default=sa.text("('')")))


def add_number(table: str, column: str) -> None:
    """Add a column of integers of 64 bits that is 0 in the rows that are there."""
    _add(table, sa.Column(column, sa.BigInteger, nullable=False, server_default="0"))


def add_flag(table: str, column: str) -> None:
    """Add a column of booleans that is false in the rows that are there."""
    _add(table, sa.Column(column, sa.Boolean, nullable=False, server_default=sa.false()))


def add_text(table: str, column: str, length: int) -> None:
    """Add a column of texts of at most ``length`` characters that is empty in the rows that are there."""
    _add(table, sa.Column(column, sa.String(length), nullable=False, server_default=""))


def _add(table: str, column: sa.Column[Any]) -> None:
    if column.name not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def _repeated() -> bool:
    return op.get_bind().dialect.name == "mysql"
