"""Which version of the roster of keys is the newest."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import create_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "registrar_roster",
        sa.Column("installation", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("registrar_roster")
