"""Who works on a talk, why it was handed over, when somebody must answer; notes, and signs of trouble."""

import sqlalchemy as sa
from alembic import op

revision = "handoff_0002"
down_revision = "handoff_0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name, kind, default in (
        ("grouped", sa.Boolean(), sa.false()),
        ("reason", sa.String(32), sa.text("'asked'")),
        ("source", sa.String(256), sa.text("''")),
        ("agent", sa.String(256), sa.text("''")),
        ("agent_chat", sa.String(256), sa.text("''")),
        ("reminders", sa.Integer(), sa.text("0")),
    ):
        op.add_column("handoff", sa.Column(name, kind, nullable=False, server_default=default))
    op.add_column("handoff", sa.Column("taken_at", sa.Float()))
    op.add_column("handoff", sa.Column("due_at", sa.Float()))
    op.create_table(
        "handoff_note",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("handoff", sa.BigInteger(), nullable=False),
        sa.Column("agent", sa.String(256), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.UniqueConstraint("trace", name="uq_handoff_note_trace"),
    )
    op.create_index("ix_handoff_note_handoff", "handoff_note", ["handoff"])
    op.create_table(
        "handoff_sign",
        sa.Column("session", sa.String(512), primary_key=True),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("misses", sa.Integer(), nullable=False),
        sa.Column("unsure", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("handoff_sign")
    op.drop_table("handoff_note")
    for column in ("due_at", "taken_at", "reminders", "agent_chat", "agent", "source", "reason", "grouped"):
        op.drop_column("handoff", column)
