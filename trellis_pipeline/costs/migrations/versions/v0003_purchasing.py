"""The journal of intents, the kill switch, given alerts and account balances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trellis_pipeline.costs.schema import Usd, UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; all start empty."""
    op.create_table(
        "intents",
        sa.Column("task_uuid", sa.Text, primary_key=True),
        sa.Column("request_key", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("catalog", sa.Text, nullable=False),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("generator", sa.Text, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease_until", UtcTime, nullable=False),
        sa.Column("made_at", UtcTime, nullable=False),
        sa.Column("submitted_at", UtcTime),
        sa.Column("ended_at", UtcTime),
        sa.Column("called_back_at", UtcTime),
        sa.Column("token_sha256", sa.Text, nullable=False),
        sa.Column("token_used_at", UtcTime),
        sa.Column("cause", sa.Text, nullable=False),
        sa.UniqueConstraint("request_key", "number", name="intents_one_of_each_number"),
    )
    op.create_index("intents_by_state", "intents", ["state"])
    op.create_table(
        "switches",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("since", UtcTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("percent", sa.Integer, primary_key=True),
        sa.Column("cap", Usd, primary_key=True),
        sa.Column("ts", UtcTime, nullable=False),
    )
    op.create_table(
        "balances",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("ts", UtcTime, nullable=False),
        sa.Column("generator", sa.Text, nullable=False),
        sa.Column("amount", Usd, nullable=False),
        sa.Column("raw_text", sa.Text, nullable=False),
        sa.Column("settled", Usd, nullable=False),
        sa.Column("reserved", Usd, nullable=False),
        sa.Column("topped_up", Usd, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """The ledger itself stays whole without them."""
    for table in ("balances", "alerts", "switches", "intents"):
        op.drop_table(table)
