"""What the latest generations of a preset cost and how long they took: the ground of every estimate.

Only the newest settlements count, so that estimates follow the provider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

from sqlalchemy import Connection, Select, literal, or_, select

from trellis_pipeline.costs.events import WITH_A_MODEL
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.schema import spend_events
from trellis_pipeline.errors import LedgerError

HISTORY = 500

Figure = TypeVar("Figure", Decimal, float)


def amounts(connection: Connection, generator: str, preset: str) -> tuple[Decimal, ...]:
    """USD of the latest settlements, newest first.

    Estimates are left out, since nobody learns from own guesses; so are models that were given away, and work
    that was broken off (both would teach that a model costs next to nothing).
    """
    query = _settlements(generator, preset).where(
        spend_events.c.source != "estimate",
        spend_events.c.amount > ZERO,
        spend_events.c.cause.in_(WITH_A_MODEL),
    )
    return tuple(connection.execute(query.with_only_columns(spend_events.c.amount)).scalars())


def seconds(connection: Connection, generator: str, preset: str) -> tuple[float, ...]:
    """Generation times of the latest settlements, newest first.

    Those that state no time are left out, and so is work on the own machine that was broken off.
    """
    query = _settlements(generator, preset).where(
        spend_events.c.seconds > 0,
        or_(spend_events.c.source != "gpu_time", spend_events.c.cause.in_(WITH_A_MODEL)),
    )
    return tuple(connection.execute(query.with_only_columns(spend_events.c.seconds)).scalars())


def _settlements(generator: str, preset: str) -> Select[tuple[int]]:
    return (
        select(spend_events.c.seq)
        .where(
            spend_events.c.kind == literal("settle", literal_execute=True),
            spend_events.c.generator == generator,
            spend_events.c.preset == preset,
        )
        .order_by(spend_events.c.seq.desc())
        .limit(HISTORY)
    )


def quantile(figures: Sequence[Figure], q: float) -> Figure | None:
    """The q-th quantile (0..1) by nearest rank, so always a figure that did occur; None of nothing."""
    if not 0 <= q <= 1:
        raise LedgerError(f"a quantile is from 0 to 1, not {q}")
    if not figures:
        return None
    return sorted(figures)[max(0, math.ceil(q * len(figures)) - 1)]
