"""Databases of services: SQLite by default, PostgreSQL or MariaDB (MySQL) by URL; one way to begin, one way to migrate.

Each service owns its tables and no service reads another's. Services may share one database: tables and the version table
carry the service's name.
"""

from attestream.database.engines import open_engine
from attestream.database.migrations import migrate, run_migrations
from attestream.database.transactions import reading, transaction

__all__ = ["migrate", "open_engine", "reading", "run_migrations", "transaction"]
