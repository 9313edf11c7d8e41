"""What was spent, by catalog, day, generator, product or run: sums of the events, made by the database.

All amounts are exact: the database adds decimals or whole nano-dollars, never floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, case, func, literal, select

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.schema import spend_events
from trellis_pipeline.errors import ConfigError

_KEYS: dict[str, Any] = {
    "catalog": spend_events.c.catalog,
    "day": spend_events.c.day,
    "generator": spend_events.c.generator,
    "product": spend_events.c.catalog + "/" + spend_events.c.sku,
    "run": spend_events.c.run_id,
}
GROUPINGS: tuple[str, ...] = tuple(_KEYS)


@dataclass(frozen=True, slots=True)
class CostLine:
    """One line of a report.

    settled_usd: spent, after refunds and corrections. reserved_usd: set aside and not yet settled.
    generations: settlements. seconds: their generation time. overrun_usd: by how much settlements exceeded
    their reservations, the only way in which a budget can be crossed.
    """

    key: str
    settled_usd: Decimal
    reserved_usd: Decimal
    generations: int
    seconds: float
    overrun_usd: Decimal


def report(
    ledger: Ledger,
    by: str = "catalog",
    since: date | None = None,
    until: date | None = None,
    *,
    catalog: str | None = None,
) -> tuple[CostLine, ...]:
    """One line for each catalog, UTC day, generator, product (`catalog/sku`) or run, sorted by that key.

    since, until: first and last day, both included. An event counts on the day its money was set aside.
    catalog: only this one's events.

    Raises ConfigError for another `by`.
    """
    if by not in _KEYS:
        raise ConfigError(f"costs cannot be reported by {by!r}; use one of {', '.join(GROUPINGS)}")
    key = _KEYS[by]
    query = _query(key, since, until).group_by(key).order_by(key)
    if catalog is not None:
        query = query.where(spend_events.c.catalog == catalog)
    return _lines(ledger, query)


def totals(ledger: Ledger, since: date | None = None, until: date | None = None) -> CostLine:
    """The same, all in one line with the key `total`."""
    (line,) = _lines(ledger, _query(literal("total"), since, until))
    return line


def _query(key: Any, since: date | None, until: date | None) -> Select[Any]:
    columns = spend_events.c
    settled = columns.kind == "settle"
    over = columns.settled_change + columns.reserved_change
    zero = literal(ZERO, columns.amount.type)
    query = select(
        key.label("key"),
        func.sum(columns.settled_change).label("settled"),
        func.sum(columns.reserved_change).label("reserved"),
        func.count(case((settled, 1))).label("generations"),
        func.sum(columns.seconds).label("seconds"),
        func.sum(case((settled & (over > zero), over), else_=zero)).label("overrun"),
    )
    if since is not None:
        query = query.where(columns.day >= since)
    if until is not None:
        query = query.where(columns.day <= until)
    return query


def _lines(ledger: Ledger, query: Select[Any]) -> tuple[CostLine, ...]:
    with ledger.reading() as connection:
        return tuple(
            CostLine(
                str(row.key),
                row.settled or ZERO,
                row.reserved or ZERO,
                row.generations,
                row.seconds or 0.0,
                row.overrun or ZERO,
            )
            for row in connection.execute(query)
        )
