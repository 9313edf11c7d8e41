"""The events, the open reservations, and the triggers that keep the events append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trellis_pipeline.costs.schema import Usd, UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXTS_BEFORE = ("currency", "source", "price_book_version", "generator", "model", "catalog", "sku", "preset")

# "INSERT OR REPLACE" removes rows in SQLite without firing DELETE triggers, so it needs one of its own.
_SQLITE_TRIGGERS = (
    """CREATE TRIGGER spend_events_no_update BEFORE UPDATE ON spend_events
       BEGIN SELECT RAISE(ABORT, 'spend_events is append-only'); END""",
    """CREATE TRIGGER spend_events_no_delete BEFORE DELETE ON spend_events
       BEGIN SELECT RAISE(ABORT, 'spend_events is append-only'); END""",
    """CREATE TRIGGER spend_events_no_replace BEFORE INSERT ON spend_events
       WHEN EXISTS (SELECT 1 FROM spend_events WHERE seq = NEW.seq OR event_id = NEW.event_id)
         OR (NEW.kind IN ('settle', 'release') AND EXISTS (SELECT 1 FROM spend_events
             WHERE reservation_id = NEW.reservation_id AND kind IN ('settle', 'release')))
         OR (NEW.kind = 'reserve' AND EXISTS (SELECT 1 FROM spend_events
             WHERE reservation_id = NEW.reservation_id AND kind = 'reserve'))
       BEGIN SELECT RAISE(ABORT, 'spend_events is append-only'); END""",
)
_POSTGRES_TRIGGERS = (
    """CREATE FUNCTION spend_events_append_only() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RAISE EXCEPTION 'spend_events is append-only'; END $$""",
    """CREATE TRIGGER spend_events_no_change BEFORE UPDATE OR DELETE ON spend_events
       FOR EACH ROW EXECUTE FUNCTION spend_events_append_only()""",
    """CREATE TRIGGER spend_events_no_truncate BEFORE TRUNCATE ON spend_events
       FOR EACH STATEMENT EXECUTE FUNCTION spend_events_append_only()""",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "spend_events",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("ts", UtcTime, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reservation_id", sa.Text, nullable=False),
        sa.Column("amount", Usd, nullable=False),
        sa.Column("settled_change", Usd, nullable=False),
        sa.Column("reserved_change", Usd, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _TEXTS_BEFORE),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("request_key", sa.Text, nullable=False),
        sa.Column("raw_cost_text", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
    )
    for name, columns, unique, where in [
        ("spend_events_one_reserve", ["reservation_id"], True, "kind = 'reserve'"),
        ("spend_events_one_closing", ["reservation_id"], True, "kind IN ('settle', 'release')"),
        ("spend_events_history", ["generator", "preset", "seq"], False, "kind = 'settle'"),
    ]:
        condition = sa.text(where)
        op.create_index(
            name, "spend_events", columns, unique=unique, sqlite_where=condition, postgresql_where=condition
        )
    op.create_table(
        "open_reservations",
        sa.Column("reservation_id", sa.Text, primary_key=True),
        sa.Column("ts", UtcTime, nullable=False),
        sa.Column("amount", Usd, nullable=False),
    )
    triggers = _POSTGRES_TRIGGERS if op.get_bind().dialect.name == "postgresql" else _SQLITE_TRIGGERS
    for trigger in triggers:
        op.execute(sa.text(trigger))


def downgrade() -> None:
    """Books are not thrown away by a command; restore a backup instead."""
    raise NotImplementedError("the ledger's first migration cannot be undone; restore a backup instead")
