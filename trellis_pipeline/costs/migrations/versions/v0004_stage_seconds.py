"""Where a generation's time went, for generators on the user's own machine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; purchases of before have no rows in it."""
    op.create_table(
        "stage_seconds",
        sa.Column("reservation_id", sa.Text, primary_key=True),
        sa.Column("stage", sa.Text, primary_key=True),
        sa.Column("seconds", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """The ledger itself stays whole without it."""
    op.drop_table("stage_seconds")
