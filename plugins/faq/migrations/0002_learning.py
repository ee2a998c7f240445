"""What nobody could answer, and answers that wait for approval."""

import sqlalchemy as sa
from alembic import op

revision = "faq_0002"
down_revision = "faq_0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "faq_unanswered",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("misses", sa.Integer(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.Column("settled_at", sa.Float(), nullable=False),
        sa.UniqueConstraint("key", name="uq_faq_unanswered_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_faq_unanswered_last_at", "faq_unanswered", ["last_at"])
    op.create_table(
        "faq_candidate",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("questions", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("decided_by", sa.String(256), nullable=False),
        sa.Column("decided_at", sa.Float()),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sa.UniqueConstraint("trace", name="uq_faq_candidate_trace"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("faq_candidate")
    op.drop_table("faq_unanswered")
