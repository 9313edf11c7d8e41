"""Running totals beside the events, so that a reservation does not sum the whole history.

Filled from the events that are there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trellis_pipeline.costs.schema import Usd

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Dates are kept as ISO text in SQLite and turn into it by a cast in Postgres.
_KEYS = {
    "total": "''",
    "day": "CAST(day AS TEXT)",
    "catalog": "catalog",
    "run": "run_id",
    "product": "catalog || '/' || sku",
}


def upgrade() -> None:
    """Make the table and fill it."""
    op.create_table(
        "scope_totals",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("settled", Usd, nullable=False),
        sa.Column("reserved", Usd, nullable=False),
    )
    for scope, key in _KEYS.items():
        op.execute(
            sa.text(
                # Both texts come from the constants above.
                "INSERT INTO scope_totals (scope, key, settled, reserved) "  # noqa: S608
                f"SELECT '{scope}', {key}, SUM(settled_change), SUM(reserved_change) "
                "FROM spend_events GROUP BY 2"
            )
        )


def downgrade() -> None:
    """The totals can be made again at any time."""
    op.drop_table("scope_totals")
