"""Checking the books: the running totals against the sums of the events, and making them anew.

Written apart from the ledger's own bookkeeping and in another way (sums over everything, not changes), so
that one finds the other's mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, delete, func, insert, literal, select

from trellis_pipeline.costs.budgets import ScopeName
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.schema import open_reservations, scope_totals, spend_events


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Where the running totals do not say what the events say. Amounts: (settled, reserved) in USD."""

    scope: str
    key: str
    totals: tuple[Decimal, Decimal]
    events: tuple[Decimal, Decimal]


def compare(connection: Connection) -> tuple[Discrepancy, ...]:
    """Every place where totals or open reservations do not say what the events say."""
    wrong = []
    for name, sums in sums_by_scope(connection).items():
        query = select(scope_totals).where(scope_totals.c.scope == name)
        totals = {row.key: (row.settled, row.reserved) for row in connection.execute(query)}
        for key in sorted(sums.keys() | totals.keys()):
            said, true = totals.get(key, (ZERO, ZERO)), sums.get(key, (ZERO, ZERO))
            if said != true:
                wrong.append(Discrepancy(name, key, said, true))
    held = connection.execute(select(func.sum(open_reservations.c.amount))).scalar() or ZERO
    reserved = connection.execute(select(func.sum(spend_events.c.reserved_change))).scalar() or ZERO
    if held != reserved:
        wrong.append(Discrepancy("open_reservations", "", (ZERO, held), (ZERO, reserved)))
    return tuple(wrong)


def rewrite(connection: Connection) -> None:
    """Replace the running totals by the sums of the events. The caller holds the lock on the total row."""
    connection.execute(delete(scope_totals))
    for name, sums in sums_by_scope(connection).items():
        rows = [
            {"scope": name, "key": key, "settled": settled, "reserved": reserved}
            for key, (settled, reserved) in sums.items()
        ]
        if rows:
            connection.execute(insert(scope_totals), rows)


def sums_by_scope(connection: Connection) -> dict[ScopeName, dict[str, tuple[Decimal, Decimal]]]:
    """(settled, reserved) of every scope and key, summed from the events."""
    columns = spend_events.c
    keys: dict[ScopeName, Any] = {
        "total": literal(""),
        "day": columns.day,
        "catalog": columns.catalog,
        "run": columns.run_id,
        "product": columns.catalog + "/" + columns.sku,
    }
    settled, reserved = func.sum(columns.settled_change), func.sum(columns.reserved_change)
    sums: dict[ScopeName, dict[str, tuple[Decimal, Decimal]]] = {}
    for name, key in keys.items():
        query = select(key.label("key"), settled.label("settled"), reserved.label("reserved"))
        if name != "total":
            query = query.group_by(key)
        sums[name] = {
            str(row.key): (row.settled, row.reserved)
            for row in connection.execute(query)
            if row.settled is not None
        }
    return sums
