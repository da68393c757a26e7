"""Databases of services: SQLite by default, PostgreSQL or MariaDB (MySQL) by URL; one way to begin, one way to migrate.

Each service owns its tables and no service reads another's. Services may share one database: tables and the version table
carry the service's name.
"""

from attestream.database.engines import file_of, open_engine
from attestream.database.migrations import migrate, run_migrations
from attestream.database.size import report_size
from attestream.database.transactions import reading, transaction

__all__ = ["file_of", "migrate", "open_engine", "reading", "report_size", "run_migrations", "transaction"]
