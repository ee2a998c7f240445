"""The table of hand-overs."""

import sqlalchemy as sa
from alembic import op

revision = "handoff_0001"
down_revision = None
branch_labels = ("handoff",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "handoff",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("session", sa.String(512), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("bot", sa.String(64), nullable=False),
        sa.Column("chat", sa.String(128), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("user_name", sa.String(256), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("by_platform", sa.Boolean(), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.Column("unsaid", sa.Text(), nullable=False),
        sa.Column("heard", sa.String(32), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.Column("closed_by", sa.String(256), nullable=False),
        sa.Column("closed_trace", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    still_open = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_handoff_open",
        "handoff",
        ["session"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("ix_handoff_closed_at", "handoff", ["closed_at"])


def downgrade() -> None:
    op.drop_table("handoff")
