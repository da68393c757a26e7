"""Which machine an identity is of, and which agents have failed."""

import sqlalchemy as sa
from alembic import op

from attestream.database.steps import add_flag, add_text, create_index
from attestream.errors import AttestreamError
from services.registrar.machines import key_digest

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IDENTITY = sa.table(
    "registrar_identity",
    sa.column("agent_id", sa.String),
    sa.column("active", sa.Boolean),
    sa.column("ek_public", sa.LargeBinary),
    sa.column("ek_digest", sa.String),
)
STANDING = sa.table("registrar_standing", sa.column("reason", sa.String), sa.column("failed", sa.Boolean))
BATCH = 1_000


def upgrade() -> None:
    add_text("registrar_identity", "ek_digest", 64)
    create_index("registrar_identity_machine", "registrar_identity", ["ek_digest"])
    add_flag("registrar_standing", "failed")
    connection = op.get_bind()
    connection.execute(sa.update(STANDING).where(STANDING.c.reason == "failed").values(failed=True))
    query = sa.select(IDENTITY.c.agent_id, IDENTITY.c.ek_public).where(IDENTITY.c.active).order_by(IDENTITY.c.agent_id)
    update = sa.update(IDENTITY).where(IDENTITY.c.agent_id == sa.bindparam("one")).values(ek_digest=sa.bindparam("machine"))
    last = ""
    while rows := connection.execute(query.where(IDENTITY.c.agent_id > last).limit(BATCH)).all():
        last = rows[-1].agent_id
        if known := [{"one": row.agent_id, "machine": digest} for row in rows if (digest := _digest(row.ek_public))]:
            connection.execute(update, known)


def _digest(ek_public: bytes) -> str:
    try:
        return key_digest(ek_public)
    except AttestreamError:
        # Not a key that this version takes: nobody else can enrol with it either.
        return ""


def downgrade() -> None:
    op.drop_column("registrar_standing", "failed")
    op.drop_index("registrar_identity_machine", "registrar_identity")
    op.drop_column("registrar_identity", "ek_digest")
