"""Where the time of generations went that were made on the user's own machine.

The amount of a settlement says what a model cost; these rows say what it was paid for, so that somebody who
rents the GPU sees how much of it went into loading weights. They are written in the settlement's own
transaction, once, and never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, literal, select

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import spend_events, stage_seconds


@dataclass(frozen=True, slots=True)
class StageTotal:
    """One stage of one generator, over all its settled generations. seconds: their sum."""

    generator: str
    stage: str
    generations: int
    seconds: float


def record(connection: Connection, reservation_id: str, seconds: Mapping[str, float]) -> None:
    """Write the seconds of one generation by stage. To be called once, in the settlement's transaction."""
    rows = [
        {"reservation_id": reservation_id, "stage": stage, "seconds": float(spent)}
        for stage, spent in seconds.items()
    ]
    if rows:
        connection.execute(insert(stage_seconds), rows)


def stage_totals(ledger: Ledger, catalog: str | None = None) -> tuple[StageTotal, ...]:
    """Sums for all settled generations, or those of one catalog, by generator and stage."""
    query = (
        select(
            spend_events.c.generator,
            stage_seconds.c.stage,
            func.count().label("generations"),
            func.sum(stage_seconds.c.seconds).label("seconds"),
        )
        .join(spend_events, spend_events.c.reservation_id == stage_seconds.c.reservation_id)
        .where(spend_events.c.kind == literal("settle", literal_execute=True))
        .group_by(spend_events.c.generator, stage_seconds.c.stage)
        .order_by(spend_events.c.generator, stage_seconds.c.stage)
    )
    if catalog is not None:
        query = query.where(spend_events.c.catalog == catalog)
    with ledger.reading() as connection:
        return tuple(
            StageTotal(row.generator, row.stage, row.generations, float(row.seconds))
            for row in connection.execute(query)
        )
