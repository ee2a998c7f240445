"""Who has a talk and how it stands, what was said in it, and how the bot did before it."""

import sqlalchemy as sa
from alembic import op

revision = "handoff_0002"
down_revision = "handoff_0001"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for column in (
        sa.Column("state", sa.String(16), nullable=False, server_default="closed"),
        sa.Column("reason", sa.String(16), nullable=False, server_default="asked"),
        sa.Column("grouped", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("thread", sa.String(128), nullable=False, server_default=""),
        sa.Column("agent", sa.String(256), nullable=False, server_default=""),
        sa.Column("agent_name", sa.String(256), nullable=False, server_default=""),
        sa.Column("desk", sa.String(256), nullable=False, server_default=""),
        sa.Column("taken_at", sa.Float(), nullable=True),
        sa.Column("replied_at", sa.Float(), nullable=True),
        sa.Column("due_at", sa.Float(), nullable=True),
        sa.Column("escalations", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("told_away", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("handoff", column)
    for state, which in (("queued", sa.false()), ("human", sa.true())):
        rows = sa.table("handoff", *map(sa.column, ("state", "closed_at", "by_platform")))
        still_open = rows.c.closed_at.is_(None) & (rows.c.by_platform == which)
        op.execute(rows.update().where(still_open).values(state=state))
    op.create_table(
        "handoff_line",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("handoff", sa.BigInteger(), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("bot", sa.String(64), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("said_by", sa.String(256), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_handoff_line_handoff", "handoff_line", ["handoff", "id"])
    op.create_index("ix_handoff_line_trace", "handoff_line", ["trace"], unique=True)
    op.create_index("ix_handoff_line_at", "handoff_line", ["at"])
    op.create_table(
        "handoff_streak",
        sa.Column("session", sa.String(512), primary_key=True),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("bot", sa.String(64), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("misses", sa.Integer(), nullable=False),
        sa.Column("unsure", sa.Integer(), nullable=False),
        sa.Column("offered", sa.String(16), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_handoff_streak_at", "handoff_streak", ["at"])


def downgrade() -> None:
    op.drop_table("handoff_streak")
    op.drop_table("handoff_line")
    for name in (
        "state",
        "reason",
        "grouped",
        "thread",
        "agent",
        "agent_name",
        "desk",
        "taken_at",
        "replied_at",
        "due_at",
        "escalations",
        "told_away",
    ):
        op.drop_column("handoff", name)
