"""When the last command about an agent was signed."""

from alembic import op

from attestream.database.steps import add_number

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_number("verifier_attesters", "commanded_at")


def downgrade() -> None:
    op.drop_column("verifier_attesters", "commanded_at")
