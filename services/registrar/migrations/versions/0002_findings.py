"""Why an identity was admitted."""

from alembic import op

from attestream.database.steps import add_bytes

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("registrar_identity", "registrar_challenge")


def upgrade() -> None:
    for table in TABLES:
        add_bytes(table, "findings")


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "findings")
