"""What a customer said that staff are still to be told."""

import sqlalchemy as sa
from alembic import op

revision = "handoff_0002"
down_revision = "handoff_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("handoff", sa.Column("unsaid", sa.Text(), nullable=False, server_default=""))
    op.add_column("handoff", sa.Column("heard", sa.String(32), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("handoff", "heard")
    op.drop_column("handoff", "unsaid")
