"""Why an identity was admitted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("registrar_identity", "registrar_challenge")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("findings", sa.LargeBinary, nullable=False, server_default=sa.text("''")))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "findings")
