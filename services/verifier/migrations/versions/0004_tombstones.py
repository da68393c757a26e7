"""What is left of agents that were deleted, for as long as an old command could bring them back."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import create_index, create_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "verifier_tombstones",
        sa.Column("agent_id", sa.String(80), primary_key=True),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("commanded_at", sa.BigInteger, nullable=False),
    )
    create_index("verifier_tombstones_age", "verifier_tombstones", ["commanded_at"])


def downgrade() -> None:
    op.drop_table("verifier_tombstones")
