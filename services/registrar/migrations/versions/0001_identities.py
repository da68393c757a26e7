"""Identities, pending challenges and the outbox of events."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import BYTES, create_index, create_table, key_bytes

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Pages follow the order of ids: it must not depend on the database's locale.
AGENT_ID = sa.String(80).with_variant(sa.String(80, collation="C"), "postgresql")


def upgrade() -> None:
    create_table(
        "registrar_identity",
        sa.Column("agent_id", AGENT_ID, primary_key=True),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("enrolment", sa.Integer, nullable=False),
        sa.Column("ek_public", BYTES, nullable=False),
        sa.Column("ek_certificate", BYTES, nullable=False),
        sa.Column("ek_trust", sa.String(16), nullable=False),
        sa.Column("ak_public", BYTES, nullable=False),
        sa.Column("ak_name", BYTES, nullable=False),
        sa.Column("transport_key", BYTES, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    create_table(
        "registrar_challenge",
        sa.Column("challenge_id", key_bytes(16), primary_key=True),
        sa.Column("agent_id", AGENT_ID, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("proof_digest", BYTES, nullable=False),
        sa.Column("ek_public", BYTES, nullable=False),
        sa.Column("ek_certificate", BYTES, nullable=False),
        sa.Column("ek_trust", sa.String(16), nullable=False),
        sa.Column("ak_public", BYTES, nullable=False),
        sa.Column("ak_name", BYTES, nullable=False),
        sa.Column("transport_key", BYTES, nullable=False),
    )
    create_index("registrar_challenge_agent", "registrar_challenge", ["agent_id", "issued_at"])
    create_index("registrar_challenge_issued", "registrar_challenge", ["issued_at"])
    create_index("registrar_challenge_expiry", "registrar_challenge", ["expires_at"])
    create_table(
        "registrar_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.String(160), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("data", BYTES, nullable=False),
    )


def downgrade() -> None:
    for table in ("registrar_outbox", "registrar_challenge", "registrar_identity"):
        op.drop_table(table)
