"""The first tables of the FAQ: entries and files."""

import sqlalchemy as sa
from alembic import op

revision = "faq_0001"
down_revision = None
branch_labels = ("faq",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "faq_entry",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("origin", sa.String(1024), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("texts", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_faq_entry_origin", "faq_entry", ["origin", "position"])
    op.create_table(
        "faq_file",
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("faq_file")
    op.drop_table("faq_entry")
