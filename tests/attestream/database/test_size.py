"""The size of a database is told, whatever kind it is of."""

from __future__ import annotations

import secrets

import pytest
from sqlalchemy import text

from attestream.database import file_of, migrate, transaction
from attestream.database.size import size
from attestream.errors import ConfigError
from services.registrar.tables import MIGRATIONS


async def test_what_is_stored_makes_it_larger(database_url, open_one):
    engine = open_one(database_url)
    await migrate(engine, MIGRATIONS)
    before = await size(engine)
    assert before > 0
    row = {"data": secrets.token_bytes(3_000_000)}
    async with transaction(engine) as connection:
        await connection.execute(
            text("INSERT INTO registrar_outbox (id, message_id, subject, data) VALUES (1, 'a', 'a', :data)"), row
        )
    if engine.dialect.name == "mysql":
        # Its figures are estimates, which it makes anew when it is told to.
        async with engine.connect() as connection:
            await connection.execute(text("ANALYZE TABLE registrar_outbox"))
    assert await size(engine) > before + 2_500_000


@pytest.mark.parametrize(
    ("url", "file"), [("sqlite:////a/b.db", "/a/b.db"), ("sqlite:///b.db", "b.db"), ("postgresql://h/d", None)]
)
def test_a_file_is_known_by_its_url(url, file):
    found = file_of(url)
    assert (str(found) if found is not None else None) == file


def test_what_is_no_url_has_no_file():
    with pytest.raises(ConfigError):
        file_of("nonsense")
