"""The table of blocked users."""

import sqlalchemy as sa
from alembic import op

revision = "moderation_0001"
down_revision = None
branch_labels = ("moderation",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "moderation_block",
        sa.Column("bot", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(128), primary_key=True),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("until", sa.Float(), nullable=True),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_moderation_block_until", "moderation_block", ["until"])


def downgrade() -> None:
    op.drop_table("moderation_block")
