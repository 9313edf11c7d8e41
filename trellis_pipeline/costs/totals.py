"""The running totals: what is settled and what is set aside, one row for each scope and key.

They could be summed from the events at any time; they are kept because a reservation has to know them at
once, and because adding to the row of the `total` scope is the lock that everybody in Postgres takes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from trellis_pipeline.costs.budgets import ScopeName
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.schema import scope_totals

Totals = dict[ScopeName, tuple[Decimal, Decimal]]
"""(settled, reserved) in USD of each scope that has a row."""


def _upsert(dialect: str) -> ReturningInsert[Any]:
    new = (sqlite if dialect == "sqlite" else postgresql).insert(scope_totals)
    statement: ReturningInsert[Any] = new.on_conflict_do_update(
        index_elements=["scope", "key"],
        set_={
            "settled": scope_totals.c.settled + new.excluded.settled,
            "reserved": scope_totals.c.reserved + new.excluded.reserved,
        },
    ).returning(scope_totals.c.scope, scope_totals.c.settled, scope_totals.c.reserved)
    return statement


# Made once: building the statement takes longer than running it.
_UPSERTS = {dialect: _upsert(dialect) for dialect in ("sqlite", "postgresql")}


def add(
    connection: Connection, keys: Mapping[ScopeName, str], *, settled: Decimal, reserved: Decimal
) -> Totals:
    """Add USD to the rows of these scopes, making those that are missing; returns them as they are then.

    The rows are locked in the order of `keys` until the transaction ends.
    """
    rows = [
        {"scope": name, "key": key, "settled": settled, "reserved": reserved} for name, key in keys.items()
    ]
    result = connection.execute(_UPSERTS[connection.dialect.name], rows)
    return {row.scope: (row.settled, row.reserved) for row in result}


def lock(connection: Connection) -> None:
    """Take the row that every change of the totals takes first, until the transaction ends."""
    add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)


def read(connection: Connection, keys: Mapping[ScopeName, str]) -> Totals:
    """The rows of these scopes; one that nothing was ever booked in is left out."""
    found: Totals = {}
    for name, key in keys.items():
        row = connection.execute(
            select(scope_totals.c.settled, scope_totals.c.reserved).where(
                scope_totals.c.scope == name, scope_totals.c.key == key
            )
        ).one_or_none()
        if row is not None:
            found[name] = (row.settled, row.reserved)
    return found
