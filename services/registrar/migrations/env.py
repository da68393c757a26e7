"""Called by Alembic."""

from attestream.database import run_migrations

run_migrations()
