"""Events and reservations: how one is written, how a reservation is closed, what became of it.

These are the statements inside the ledger's transactions; `ledger` decides what belongs into one.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, literal, select

from trellis_pipeline.costs.budgets import SpendScope
from trellis_pipeline.costs.money import ZERO, format_usd
from trellis_pipeline.costs.schema import open_reservations, spend_events
from trellis_pipeline.errors import LedgerError

Source = Literal["estimate", "provider_cost", "price_list", "gpu_time"]
SOURCES: tuple[Source, ...] = ("estimate", "provider_cost", "price_list", "gpu_time")

REPRODUCTION = "reproduction"
"""The cause of a settlement for a model that was there already and was bought once more, to compare."""

NO_PRICE = "the provider named no price"
"""The cause of a settlement for a model whose price is an estimate."""

WITH_A_MODEL = ("", NO_PRICE, REPRODUCTION)
"""Causes of settlements that a model came of. Any other is the name of what ended the work without one."""

_SCOPE_FIELDS = tuple(field.name for field in fields(SpendScope))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside. amount: USD. day: the UTC day whose budget it counts in."""

    id: str
    amount: Decimal
    scope: SpendScope
    day: date
    made_at: datetime


def append(
    connection: Connection,
    reservation: Reservation,
    kind: str,
    amount: Decimal,
    ts: datetime,
    *,
    source: str,
    settled_change: Decimal = ZERO,
    reserved_change: Decimal = ZERO,
    raw_cost_text: str = "",
    seconds: float = 0.0,
    cause: str = "",
    price_book_version: str = "",
) -> None:
    """Add one event about `reservation`. Amounts in USD; the two changes are what it does to the balances.

    Raises LedgerError for an unknown source.
    """
    if source not in SOURCES:
        raise LedgerError(f"{source!r} is not a source of an amount; use one of {', '.join(SOURCES)}")
    connection.execute(
        insert(spend_events),
        {name: getattr(reservation.scope, name) for name in _SCOPE_FIELDS}
        | {
            "event_id": uuid.uuid4().hex,
            "ts": ts,
            "day": reservation.day,
            "kind": kind,
            "reservation_id": reservation.id,
            "amount": amount,
            "settled_change": settled_change,
            "reserved_change": reserved_change,
            "currency": "USD",
            "source": source,
            "price_book_version": text(price_book_version),
            "raw_cost_text": text(raw_cost_text),
            "seconds": float(seconds),
            "cause": text(cause),
        },
    )


def take(connection: Connection, reservation_id: str) -> Reservation:
    """Close an open reservation and return it as it was made; LedgerError if it is not open."""
    taken = connection.execute(
        delete(open_reservations).where(open_reservations.c.reservation_id == reservation_id)
    ).rowcount
    stored = reserved_as(connection, reservation_id)
    if taken != 1 or stored is None:
        raise LedgerError(f"reservation {reservation_id[:64]}: {_fate(connection, reservation_id)}")
    return stored


def reserved_as(connection: Connection, reservation_id: str) -> Reservation | None:
    """The reservation as it was made, open or not; None if this ledger never made it."""
    row = (
        connection.execute(
            select(spend_events).where(
                spend_events.c.reservation_id == reservation_id,
                spend_events.c.kind == literal("reserve", literal_execute=True),
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else reservation_of(row)


def refundable(connection: Connection, reservation_id: str, amount: Decimal) -> Reservation:
    """The reservation that `amount` USD is paid back of; LedgerError where less than that is settled."""
    stored = reserved_as(connection, reservation_id)
    kept = connection.execute(
        select(func.sum(spend_events.c.settled_change)).where(spend_events.c.reservation_id == reservation_id)
    ).scalar()
    if stored is None or amount > (kept or ZERO):
        raise LedgerError(
            f"reservation {reservation_id}: {format_usd(amount)} cannot be refunded, "
            f"{format_usd(kept or ZERO)} of it is settled"
        )
    return stored


def reservation_of(row: Mapping[Any, Any]) -> Reservation:
    """The reservation that a `reserve` event states."""
    scope = SpendScope(**{name: row[name] for name in _SCOPE_FIELDS})
    return Reservation(row["reservation_id"], row["amount"], scope, row["day"], row["ts"])


def _fate(connection: Connection, reservation_id: str) -> str:
    """What became of a reservation that is not open."""
    closing = connection.execute(
        select(spend_events.c.kind, spend_events.c.amount, spend_events.c.ts).where(
            spend_events.c.reservation_id == reservation_id, spend_events.c.kind.in_(["settle", "release"])
        )
    ).one_or_none()
    if closing is None:
        return "was never made in this ledger; nothing is booked"
    done = "settled" if closing.kind == "settle" else "released"
    when = f"{closing.ts:%Y-%m-%d %H:%M:%S} UTC"
    return f"was {done} at {when} with {format_usd(closing.amount)}; not booked again"


def storable(scope: SpendScope) -> SpendScope:
    """The scope with its texts as the database will keep them."""
    values: dict[str, Any] = {}
    for name in _SCOPE_FIELDS:
        value = getattr(scope, name)
        values[name] = text(value) if isinstance(value, str) else value
    return SpendScope(**values)


def text(value: str) -> str:
    """Text that every database can keep: Postgres has no NUL, and half a surrogate pair is no text."""
    return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:1000]
