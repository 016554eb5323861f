"""Sidecars and who of them judges, and what that one knows."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "sidecars",
        sa.Column("node", sa.String(255), primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("heard_at", sa.Float(53), nullable=False),
    )
    lease = op.create_table(
        "judge",
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
    )
    op.bulk_insert(lease, [{"token": 0, "node": "", "until": 0.0}])
    op.create_table(
        "evidence",
        sa.Column("kind", sa.String(63), primary_key=True),
        sa.Column("key", sa.String(511), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    for table in ("evidence", "judge", "sidecars"):
        op.drop_table(table)
