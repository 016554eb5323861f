"""Versions, the desired state with its generation, and the changes that led to it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "versions",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("published_at", sa.Float(53), nullable=False),
        sa.UniqueConstraint("model", "version"),
    )
    op.create_table(
        "desired",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    generation = op.create_table("generation", sa.Column("value", sa.Integer, nullable=False))
    op.bulk_insert(generation, [{"value": 0}])
    op.create_table(
        "changes",
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float(53), nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("changes", "generation", "desired", "versions"):
        op.drop_table(table)
