"""Statements that each kind of database words in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite


def insert_missing(dialect: str, table: sa.Table, row: Mapping[str, Any] | None = None, *, key: str) -> sa.Executable:
    """Return the statement that inserts ``row`` unless there is one with its ``key``; that one is left as it is.

    Without ``row`` it is to be executed with a list of rows.
    """
    given = row or {}
    if dialect == "mysql":
        # Not INSERT IGNORE, which would also cut what does not fit.
        return mysql.insert(table).values(**given).on_duplicate_key_update({key: table.c[key]})
    if dialect == "postgresql":
        return postgresql.insert(table).values(**given).on_conflict_do_nothing(index_elements=[key])
    return sqlite.insert(table).values(**given).on_conflict_do_nothing(index_elements=[key])


def upsert_fenced(dialect: str, table: sa.Table, *, fence: str) -> sa.Executable:
    """Return the statement that inserts rows, or replaces those with the same key whose ``fence`` is not newer.

    It is to be executed with a list of rows.
    """
    if dialect == "mysql":
        return _upsert_fenced_mysql(table, fence)
    statement = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key), set_=changed, where=table.c[fence] <= statement.excluded[fence]
    )


def _upsert_fenced_mysql(table: sa.Table, fence: str) -> sa.Executable:
    statement = mysql.insert(table)
    names = [column.name for column in table.c if not column.primary_key and column.name != fence]
    # Assignments take effect from left to right: the fence, which all others are compared with, goes last.
    changed = [
        (name, sa.func.IF(table.c[fence] <= statement.inserted[fence], statement.inserted[name], table.c[name]))
        for name in (*names, fence)
    ]
    return statement.on_duplicate_key_update(changed)
