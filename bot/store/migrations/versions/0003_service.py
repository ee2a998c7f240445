"""What running a service needs: where answers came from, counts, and who did what."""

import sqlalchemy as sa
from alembic import op

revision = "core_0003"
down_revision = "core_0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("history", sa.Column("trace", sa.String(32), nullable=False, server_default=""))
    op.add_column("history", sa.Column("model", sa.String(128), nullable=False, server_default=""))
    op.add_column("history", sa.Column("prefix", sa.String(64), nullable=False, server_default=""))
    op.add_column("history", sa.Column("miss", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "tally",
        sa.Column("quarter", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("chat", sa.String(256), primary_key=True),
        sa.Column("measure", sa.String(32), primary_key=True),
        sa.Column("label", sa.String(200), primary_key=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
    )
    op.create_index("ix_tally_measure", "tally", ["measure", "quarter"])
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("trace", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"])


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("tally")
    for column in ("miss", "prefix", "model", "trace"):
        op.drop_column("history", column)
