"""The first tables: inbox, outbox, history and secrets."""

import sqlalchemy as sa
from alembic import op

revision = "core_0001"
down_revision = None
branch_labels = ("core",)
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("bot", sa.String(64), nullable=False),
        sa.Column("delivery", sa.String(256), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("done_at", sa.Float()),
        sa.UniqueConstraint("connector", "bot", "delivery", name="uq_inbox_connector"),
        sqlite_autoincrement=True,
    )
    unfinished = sa.text("done_at IS NULL")
    op.create_index("ix_inbox_open", "inbox", ["id"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("ix_inbox_user", "inbox", ["connector", "user"])
    op.create_index("ix_inbox_received_at", "inbox", ["received_at"])
    op.create_table(
        "outbox",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("inbox_id", sa.BigInteger()),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("bot", sa.String(64), nullable=False),
        sa.Column("chat", sa.String(128), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("platform_id", sa.String(128)),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("sent_at", sa.Float()),
        sqlite_autoincrement=True,
    )
    pending = sa.text("state = 0")
    op.create_index("ix_outbox_open", "outbox", ["id"], sqlite_where=pending, postgresql_where=pending)
    op.create_index("ix_outbox_inbox_id", "outbox", ["inbox_id"])
    op.create_index("ix_outbox_key", "outbox", ["key"], unique=True)
    op.create_index("ix_outbox_user", "outbox", ["connector", "user"])
    op.create_index("ix_outbox_created_at", "outbox", ["created_at"])
    op.create_table(
        "history",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("session", sa.String(512), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("inbox_id", sa.BigInteger(), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("sources", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float()),
        sa.Column("vote", sa.Integer()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_history_session", "history", ["session", "id"])
    op.create_index("ix_history_user", "history", ["connector", "user"])
    op.create_index("ix_history_inbox_id", "history", ["inbox_id"])
    op.create_index("ix_history_created_at", "history", ["created_at"])
    op.create_table(
        "secret",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    for table in ("secret", "history", "outbox", "inbox"):
        op.drop_table(table)
