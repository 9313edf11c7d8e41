"""The books as they can be looked at: an open database, and every question that changes nothing.

How the budgets stand, what models did cost, what is still set aside, whether the totals agree with the
events. `ledger.Ledger` is these books with a pen. What is asked here never keeps a writer waiting, and all
queries of one `reading` see one state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, literal, select

from trellis_pipeline.costs import audit, history, switch, totals
from trellis_pipeline.costs import budgets as wall
from trellis_pipeline.costs.budgets import Budgets, Headroom, SpendScope
from trellis_pipeline.costs.database import connect, database_errors, describe
from trellis_pipeline.costs.events import Reservation, reservation_of, reserved_as, storable
from trellis_pipeline.costs.migrations import migrate
from trellis_pipeline.costs.schema import open_reservations, spend_events
from trellis_pipeline.costs.switch import Pause


def opened(url: URL) -> Engine:
    """An engine for a parsed URL, its tables made or migrated. Raises what `Ledger.open` raises."""
    engine = connect(url)
    try:
        with database_errors(url):
            migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


class Books:
    """The ledger's database, open. Every method may raise StorageUnavailable where it cannot be used."""

    def __init__(self, engine: Engine, url: URL, clock: Callable[[], datetime]) -> None:
        """engine: connected to `url`, its tables there; closed by `close`. clock: see `Ledger.open`."""
        self._engine = engine
        self._url = url
        self._clock = clock
        # Several queries of one report must see one state of the books; Postgres has to be asked for that.
        self._one_state: dict[str, Any] = (
            {"read_only": True} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        )

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe(self._url)!r})"

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reports: sees one state of the books, and never keeps a writer waiting."""
        with (
            database_errors(self._url),
            self._engine.connect().execution_options(**self._one_state) as connection,
        ):
            yield connection

    def headroom(self, scope: SpendScope, budgets: Budgets) -> Headroom:
        """How all five scopes stand for this product today."""
        keys = storable(scope).keys(self._clock().astimezone(UTC).date())
        with self.reading() as connection:
            return wall.headroom(keys, totals.read(connection, keys), budgets)

    def history(self, generator: str, preset: str) -> tuple[Decimal, ...]:
        """What the latest generations of this preset cost, at most `history.HISTORY`, newest first.

        Settlements by estimate are left out: the ledger would learn from its own guesses. Reading them takes
        milliseconds; one estimate serves all products of a run.
        """
        with self.reading() as connection:
            return history.amounts(connection, generator, preset)

    def seconds_history(self, generator: str, preset: str) -> tuple[float, ...]:
        """How long the latest generations of this preset took, in seconds, newest first.

        At most `history.HISTORY`; those that state no time are left out.
        """
        with self.reading() as connection:
            return history.seconds(connection, generator, preset)

    def percentile(self, generator: str, preset: str, q: float) -> Decimal | None:
        """The q-th quantile (0..1) of `history`, by nearest rank; None without history."""
        return history.quantile(self.history(generator, preset), q)

    def open_reservations(self, older_than: timedelta = timedelta(0)) -> tuple[Reservation, ...]:
        """Reservations neither settled nor released, oldest first: in flight, or left by a killed run."""
        query = (
            select(spend_events)
            .join(open_reservations, open_reservations.c.reservation_id == spend_events.c.reservation_id)
            .where(
                spend_events.c.kind == literal("reserve", literal_execute=True),
                open_reservations.c.ts <= self._clock().astimezone(UTC) - older_than,
            )
            .order_by(spend_events.c.seq)
        )
        with self.reading() as connection:
            return tuple(reservation_of(row) for row in connection.execute(query).mappings())

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation with that id if it is still open, else None."""
        with self.reading() as connection:
            known = connection.execute(
                select(open_reservations.c.reservation_id).where(
                    open_reservations.c.reservation_id == reservation_id
                )
            ).scalar()
            return reserved_as(connection, reservation_id) if known else None

    def paused(self) -> Pause | None:
        """The pause in force, None while money may be spent."""
        with self.reading() as connection:
            return switch.read(connection)

    def verify(self) -> tuple[audit.Discrepancy, ...]:
        """Compare the running totals and the open reservations with the events; empty where all is right."""
        with self.reading() as connection:
            return audit.compare(connection)
