"""The first tables of the knowledge: documents and passages."""

import sqlalchemy as sa
from alembic import op

revision = "knowledge_0001"
down_revision = None
branch_labels = ("knowledge",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "kb_document",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("title", sa.String(512), nullable=False),
        sa.Column("added", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("read_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_kb_document_path", "kb_document", ["path"], unique=True)
    op.create_table(
        "kb_passage",
        sa.Column(
            "document_id",
            sa.String(32),
            sa.ForeignKey("kb_document.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("citation", sa.String(512), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("kb_passage")
    op.drop_table("kb_document")
