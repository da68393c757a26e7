"""One row for each agent under attestation."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import BYTES, create_index, create_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "verifier_attesters",
        sa.Column("agent_id", sa.String(80), primary_key=True),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("policy", sa.String(80), nullable=False),
        sa.Column("interval_ms", sa.Integer, nullable=False),
        sa.Column("lease_ms", sa.Integer, nullable=False),
        sa.Column("enrolment", sa.Integer, nullable=False),
        sa.Column("identity", BYTES, nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("state", BYTES, nullable=False),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("event_number", sa.Integer, nullable=False),
        sa.Column("last_command", sa.String(64), nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("findings", BYTES, nullable=False),
    )
    create_index("ix_verifier_attesters_partition", "verifier_attesters", ["partition"])


def downgrade() -> None:
    op.drop_table("verifier_attesters")
