"""A row for each machine, which whoever enrols it locks."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import create_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table("registrar_machine", sa.Column("ek_digest", sa.String(64), primary_key=True))


def downgrade() -> None:
    op.drop_table("registrar_machine")
