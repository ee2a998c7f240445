"""The tables of digests that were sent or asked for, and of who sends them."""

import sqlalchemy as sa
from alembic import op

revision = "digest_0001"
down_revision = None
branch_labels = ("digest",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "digest_run",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("due_at", sa.Float(), primary_key=True),
        sa.Column("asked", sa.Boolean(), nullable=False),
        sa.Column("done_at", sa.Float()),
    )
    op.create_table(
        "digest_lease",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("digest_lease")
    op.drop_table("digest_run")
