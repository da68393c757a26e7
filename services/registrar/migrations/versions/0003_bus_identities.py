"""Identities on the bus, and which of them are void."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import create_index, create_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("registrar_bus_account", "registrar_standing", "registrar_bus_revocation", "registrar_bus_key")


def upgrade() -> None:
    create_table(
        "registrar_bus_key",
        sa.Column("bus_key", sa.String(64), primary_key=True),
        sa.Column("agent_id", sa.String(80), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    create_index("registrar_bus_key_agent", "registrar_bus_key", ["agent_id"])
    create_index("registrar_bus_key_expiry", "registrar_bus_key", ["expires_at"])
    create_table(
        "registrar_bus_revocation",
        sa.Column("bus_key", sa.String(64), primary_key=True),
        sa.Column("agent_id", sa.String(80), nullable=False),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    create_index("registrar_bus_revocation_end", "registrar_bus_revocation", ["until"])
    create_table(
        "registrar_standing",
        sa.Column("agent_id", sa.String(80), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
    )
    create_table(
        "registrar_bus_account",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("confirmed", sa.BigInteger, nullable=False),
    )
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("registrar_challenge")}
    if "bus_key" not in columns:
        op.add_column("registrar_challenge", sa.Column("bus_key", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("registrar_challenge", "bus_key")
    for table in TABLES:
        op.drop_table(table)
