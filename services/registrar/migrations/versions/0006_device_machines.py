"""Which machine a challenge is for: its device identity may tell that, and not its endorsement key."""

from alembic import op

from attestream.database.steps import add_text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_text("registrar_challenge", "ek_digest", 64)


def downgrade() -> None:
    op.drop_column("registrar_challenge", "ek_digest")
