"""Orders may bring a reference: its digest, that of the one it replaces, and of which rows it is."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for name, kind in (("reference", sa.String(64)), ("replaced", sa.String(64)), ("rows", sa.Text())):
        op.add_column("orders", sa.Column(name, kind, nullable=False, server_default=""))


def downgrade() -> None:
    for name in ("reference", "replaced", "rows"):
        op.drop_column("orders", name)
