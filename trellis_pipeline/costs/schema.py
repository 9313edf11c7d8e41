"""The ledger's tables.

`spend_events` is the truth: rows are added, never changed (a trigger in the database refuses), and every sum
can be made from it again. `open_reservations` and `scope_totals` are kept in the same transactions so that a
reservation costs the same at a hundred thousand products as at ten; `Ledger.verify` checks them against the
events, `Ledger.rebuild` makes them anew.

Migrations, not this module, create the tables; a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from trellis_pipeline.costs.money import NANO, from_nano, to_nano


class Usd(TypeDecorator[Decimal]):
    """Exact dollars: NUMERIC(18, 9) in Postgres, whole nano-dollars in SQLite, which has no decimals."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """SQLite would keep NUMERIC as a float."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(18, 9))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Decimal to what the database keeps."""
        if value is None or dialect.name != "sqlite":
            return value
        return to_nano(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """What the database keeps, also a SUM of it, to Decimal."""
        if value is None:
            return None
        return from_nano(value) if dialect.name == "sqlite" else Decimal(value).quantize(NANO)


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time everywhere, also in SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware time to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Back with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

spend_events = Table(
    "spend_events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("ts", UtcTime, nullable=False),
    # The UTC day on which the money was set aside; the same for all events of one reservation.
    Column("day", Date, nullable=False),
    Column("kind", Text, nullable=False),  # reserve, settle, release, adjust, refund
    Column("reservation_id", Text, nullable=False),  # empty for adjust
    Column("amount", Usd, nullable=False),  # the figure the event is about
    # What the event does to the two balances. Summing these columns gives them, whatever the kinds.
    Column("settled_change", Usd, nullable=False),
    Column("reserved_change", Usd, nullable=False),
    Column("currency", Text, nullable=False),
    Column("source", Text, nullable=False),  # estimate, provider_cost, price_list, gpu_time
    Column("price_book_version", Text, nullable=False),
    Column("generator", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("catalog", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("preset", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request_key", Text, nullable=False),
    Column("raw_cost_text", Text, nullable=False),  # the provider's number, verbatim
    Column("seconds", Float, nullable=False),
    Column("cause", Text, nullable=False),
)
Index(
    "spend_events_one_reserve",
    spend_events.c.reservation_id,
    unique=True,
    sqlite_where=text("kind = 'reserve'"),
    postgresql_where=text("kind = 'reserve'"),
)
Index(
    "spend_events_one_closing",
    spend_events.c.reservation_id,
    unique=True,
    sqlite_where=text("kind IN ('settle', 'release')"),
    postgresql_where=text("kind IN ('settle', 'release')"),
)
Index(
    "spend_events_history",
    spend_events.c.generator,
    spend_events.c.preset,
    spend_events.c.seq,
    sqlite_where=text("kind = 'settle'"),
    postgresql_where=text("kind = 'settle'"),
)

open_reservations = Table(
    "open_reservations",
    metadata,
    Column("reservation_id", Text, primary_key=True),
    Column("ts", UtcTime, nullable=False),
    Column("amount", Usd, nullable=False),
)

scope_totals = Table(
    "scope_totals",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("settled", Usd, nullable=False),
    Column("reserved", Usd, nullable=False),
)

# The journal of intents (`purchasing.journal`): what was asked of a generator, or is about to be. It stands
# in the ledger's database because an intent and its reservation are written in one transaction.
intents = Table(
    "intents",
    metadata,
    Column("task_uuid", Text, primary_key=True),  # also the id of its reservation
    Column("request_key", Text, nullable=False),
    Column("number", Integer, nullable=False),  # 1 for the first purchase of this request, 2 for the next
    Column("catalog", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("generator", Text, nullable=False),
    Column("asked", Text, nullable=False),  # JSON: the request and what it was made from, to finish it later
    Column("state", Text, nullable=False),  # open, done, failed
    Column("owner", Text, nullable=False),  # who is at it: host, process and its start; empty for nobody
    Column("lease_until", UtcTime, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("submitted_at", UtcTime),  # the last time it was handed to the provider
    Column("ended_at", UtcTime),
    Column("called_back_at", UtcTime),  # when a webhook last said that there is news
    Column("token_sha256", Text, nullable=False),  # of the webhook's token; empty where there is none
    Column("token_used_at", UtcTime),
    Column("cause", Text, nullable=False),
    UniqueConstraint("request_key", "number", name="intents_one_of_each_number"),
)
Index("intents_by_state", intents.c.state)

# Where a generation's time went, where it was made on the user's own machine; written with its settlement.
stage_seconds = Table(
    "stage_seconds",
    metadata,
    Column("reservation_id", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("seconds", Float, nullable=False),
)

# The kill switch: a row means that spending is paused.
switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("since", UtcTime, nullable=False),
    Column("reason", Text, nullable=False),
)

# Which budget alerts were given, so that each is given once. cap: what it was about; a new cap alerts anew.
alerts = Table(
    "alerts",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("percent", Integer, primary_key=True),
    Column("cap", Usd, primary_key=True),
    Column("ts", UtcTime, nullable=False),
)

# What the provider said is left in the account, beside what the ledger said at that moment. Both are sums
# since the beginning, so two rows can be compared whatever clocks did and in any order of commits.
balances = Table(
    "balances",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("ts", UtcTime, nullable=False),
    Column("generator", Text, nullable=False),
    Column("amount", Usd, nullable=False),  # negative where the account is overdrawn
    Column("raw_text", Text, nullable=False),
    Column("settled", Usd, nullable=False),
    Column("reserved", Usd, nullable=False),
    Column("topped_up", Usd, nullable=False),  # said by the user, since the row before
    Column("verdict", Text, nullable=False),  # first, ok, warn, fail
)
