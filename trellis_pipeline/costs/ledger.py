"""The ledger: money is set aside before it is spent, and every change is an event that stays.

A bill arrives when the work is done, and many products are under way at once, so each of them must find the
budgets already reduced by all the others. Spending is therefore two events: `reserve` the worst case, then
`settle` the truth or `release` what was not bought. In between, and for as long as an outcome is unknown, the
money stays set aside: `settled + reserved <= cap` holds at every instant for every scope, as long as no
settlement is larger than its reservation; where one is, the overrun is reported.

One transaction covers all five scopes. SQLite lets one writer in at a time; in Postgres the row of the
`total` scope is locked first by everyone, which comes to the same without any retries.
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, func, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from trellis_pipeline.costs import audit
from trellis_pipeline.costs import budgets as wall
from trellis_pipeline.costs.budgets import Budgets, Headroom, ScopeName, SpendScope
from trellis_pipeline.costs.database import connect, database_errors, describe, parse_url
from trellis_pipeline.costs.events import Reservation, append, reservation_of, reserved_as, storable, take
from trellis_pipeline.costs.migrations import migrate
from trellis_pipeline.costs.money import ZERO, checked, format_usd
from trellis_pipeline.costs.schema import open_reservations, scope_totals, spend_events
from trellis_pipeline.errors import BudgetExceeded, LedgerError

# Percentiles follow the provider: only this many of the latest settlements count.
HISTORY = 500

Also = Callable[[Connection], None]


class Ledger:
    """The books. Safe for many threads; other processes open the same URL themselves.

    Every method may raise StorageUnavailable where the database cannot be used. If that happens to `reserve`,
    the money may have been set aside all the same; it then shows in `open_reservations`.
    """

    def __init__(self, engine: Engine, url: URL, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._url = url
        self._clock = clock
        # Threads that wait here are woken at once; those that wait for SQLite's own lock sleep in between.
        is_file = engine.dialect.name == "sqlite"
        self._gate: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if is_file else contextlib.nullcontext()
        )
        # Several queries of one report must see one state of the books; Postgres has to be asked for that.
        self._one_state: dict[str, Any] = (
            {"read_only": True} if is_file else {"isolation_level": "REPEATABLE READ"}
        )
        new = (sqlite if is_file else postgresql).insert(scope_totals)
        self._add_to_totals = new.on_conflict_do_update(
            index_elements=["scope", "key"],
            set_={
                "settled": scope_totals.c.settled + new.excluded.settled,
                "reserved": scope_totals.c.reserved + new.excluded.reserved,
            },
        ).returning(scope_totals.c.scope, scope_totals.c.settled, scope_totals.c.reserved)

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Ledger:
        """Open the ledger at `url` (see `database.parse_url`), making or migrating it where needed.

        clock: gives the current time with its zone; decides the day a reservation counts in.

        Raises ConfigError for a URL that cannot work, LedgerError for a ledger of a newer version.
        """
        parsed = parse_url(url)
        engine = connect(parsed)
        try:
            with database_errors(parsed):
                migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, parsed, clock)

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({describe(self._url)!r})"

    # -- spending ------------------------------------------------------------------------------------------

    def reserve(
        self,
        amount: Decimal,
        scope: SpendScope,
        budgets: Budgets,
        *,
        reservation_id: str | None = None,
        price_book_version: str = "",
        also: Also | None = None,
    ) -> Reservation:
        """Set `amount` USD aside in all five scopes, or in none.

        reservation_id: a name that no reservation had before; a random one if left out.
        also: more to write in the same transaction, for example the journal's intent; if it raises, nothing
        was reserved.

        Raises BudgetExceeded, which names the scope, its cap and what is left.
        """
        amount = checked(amount, "a reservation")
        scope = storable(scope)
        now = self._clock().astimezone(UTC)
        reservation = Reservation(reservation_id or uuid.uuid4().hex, amount, scope, now.date(), now)
        keys = scope.keys(reservation.day)
        with self.writing() as connection:
            after = self._add(connection, keys, settled=ZERO, reserved=amount)
            before = {name: (settled, reserved - amount) for name, (settled, reserved) in after.items()}
            refusal = wall.refusal(wall.headroom(keys, before, budgets), amount)
            if refusal:
                raise BudgetExceeded(f"{scope.catalog}/{scope.sku}: {refusal}")
            append(
                connection,
                reservation,
                "reserve",
                amount,
                now,
                reserved_change=amount,
                source="estimate",
                price_book_version=price_book_version,
            )
            connection.execute(
                insert(open_reservations), {"reservation_id": reservation.id, "ts": now, "amount": amount}
            )
            if also:
                also(connection)
        return reservation

    def settle(
        self,
        reservation: Reservation,
        amount: Decimal,
        *,
        source: str,
        raw_cost_text: str = "",
        seconds: float = 0.0,
        cause: str = "",
        price_book_version: str = "",
        also: Also | None = None,
    ) -> None:
        """Book what it did cost, and free the rest of the reservation. Exactly once.

        source: where the amount is from, one of `events.SOURCES`. raw_cost_text: the provider's number,
        verbatim. seconds: time of generation. cause: what became of it, where that is worth a word.

        Raises LedgerError where the reservation was settled or released before, or never made.
        """
        amount = checked(amount, "a settlement")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise LedgerError(f"a generation cannot have taken {seconds} seconds; not booked")
        with self.writing() as connection:
            stored = take(connection, reservation.id)
            append(
                connection,
                stored,
                "settle",
                amount,
                self._clock(),
                settled_change=amount,
                reserved_change=-stored.amount,
                source=source,
                raw_cost_text=raw_cost_text,
                seconds=seconds,
                cause=cause,
                price_book_version=price_book_version,
            )
            self._add(connection, stored.scope.keys(stored.day), settled=amount, reserved=-stored.amount)
            if also:
                also(connection)

    def release(self, reservation: Reservation, cause: str, *, also: Also | None = None) -> None:
        """Free a reservation because nothing was bought. cause: why, for the report of waste.

        Raises LedgerError where the reservation was settled or released before, or never made.
        """
        with self.writing() as connection:
            stored = take(connection, reservation.id)
            append(
                connection,
                stored,
                "release",
                stored.amount,
                self._clock(),
                reserved_change=-stored.amount,
                source="estimate",
                cause=cause,
            )
            self._add(connection, stored.scope.keys(stored.day), settled=ZERO, reserved=-stored.amount)
            if also:
                also(connection)

    def refund(self, reservation_id: str, amount: Decimal, cause: str) -> None:
        """Book money that the provider gave back for a settled generation.

        Raises LedgerError where it was not settled, or where refunds would exceed what was settled.
        """
        amount = checked(amount, "a refund")
        with self.writing() as connection:
            # Whoever refunds at the same time waits here, because the total row is taken first.
            self._add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)
            stored = reserved_as(connection, reservation_id)
            kept = connection.execute(
                select(func.sum(spend_events.c.settled_change)).where(
                    spend_events.c.reservation_id == reservation_id
                )
            ).scalar()
            if stored is None or amount > (kept or ZERO):
                raise LedgerError(
                    f"reservation {reservation_id}: {format_usd(amount)} cannot be refunded, "
                    f"{format_usd(kept or ZERO)} of it is settled"
                )
            append(
                connection,
                stored,
                "refund",
                amount,
                self._clock(),
                settled_change=-amount,
                source="provider_cost",
                cause=cause,
            )
            self._add(connection, stored.scope.keys(stored.day), settled=-amount, reserved=ZERO)

    def adjust(self, amount: Decimal, scope: SpendScope, cause: str) -> None:
        """Book a correction, found by reconciliation with the provider: more spent (> 0) or less (< 0).

        A correction states what happened, so no cap refuses it.
        """
        size = checked(abs(amount), "a correction")
        signed = -size if amount < 0 else size
        now = self._clock().astimezone(UTC)
        scope = storable(scope)
        entry = Reservation("", ZERO, scope, now.date(), now)
        with self.writing() as connection:
            append(
                connection,
                entry,
                "adjust",
                signed,
                now,
                settled_change=signed,
                source="provider_cost",
                cause=cause,
            )
            self._add(connection, scope.keys(entry.day), settled=signed, reserved=ZERO)

    # -- looking -------------------------------------------------------------------------------------------

    def headroom(self, scope: SpendScope, budgets: Budgets) -> Headroom:
        """How all five scopes stand for this product today."""
        keys = storable(scope).keys(self._clock().astimezone(UTC).date())
        with self.reading() as connection:
            totals: dict[ScopeName, tuple[Decimal, Decimal]] = {}
            for name, key in keys.items():
                row = connection.execute(
                    select(scope_totals.c.settled, scope_totals.c.reserved).where(
                        scope_totals.c.scope == name, scope_totals.c.key == key
                    )
                ).one_or_none()
                if row is not None:
                    totals[name] = (row.settled, row.reserved)
        return wall.headroom(keys, totals, budgets)

    def history(self, generator: str, preset: str) -> tuple[Decimal, ...]:
        """What the latest generations of this preset cost, at most `HISTORY`, newest first.

        Settlements by estimate are left out: the ledger would learn from its own guesses. Reading them takes
        milliseconds; one estimate serves all products of a run.
        """
        query = (
            select(spend_events.c.amount)
            .where(
                spend_events.c.kind == literal("settle", literal_execute=True),
                spend_events.c.generator == generator,
                spend_events.c.preset == preset,
                spend_events.c.source != "estimate",
            )
            .order_by(spend_events.c.seq.desc())
            .limit(HISTORY)
        )
        with self.reading() as connection:
            return tuple(connection.execute(query).scalars())

    def percentile(self, generator: str, preset: str, q: float) -> Decimal | None:
        """The q-th quantile (0..1) of `history`, by nearest rank; None without history."""
        return quantile(self.history(generator, preset), q)

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

    # -- checking ------------------------------------------------------------------------------------------

    def verify(self) -> tuple[audit.Discrepancy, ...]:
        """Compare the running totals and the open reservations with the events; empty where all is right."""
        with self.reading() as connection:
            return audit.compare(connection)

    def rebuild(self) -> None:
        """Make the running totals anew from the events."""
        with self.writing() as connection:
            # Adding nothing takes the lock that every other writer takes first.
            self._add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)
            audit.rewrite(connection)

    # -- how -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reports: sees one state of the books, and never keeps a writer waiting."""
        with (
            database_errors(self._url),
            self._engine.connect().execution_options(**self._one_state) as connection,
        ):
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, for tables that stand beside the books. One at a time in SQLite."""
        with database_errors(self._url), self._gate, self._engine.begin() as connection:
            yield connection

    def _add(
        self, connection: Connection, keys: Mapping[ScopeName, str], *, settled: Decimal, reserved: Decimal
    ) -> dict[ScopeName, tuple[Decimal, Decimal]]:
        """Add to the running totals; returns (settled, reserved) of each scope afterwards."""
        rows = [
            {"scope": name, "key": key, "settled": settled, "reserved": reserved}
            for name, key in keys.items()
        ]
        return {
            row.scope: (row.settled, row.reserved) for row in connection.execute(self._add_to_totals, rows)
        }


def quantile(amounts: Sequence[Decimal], q: float) -> Decimal | None:
    """The q-th quantile (0..1) by nearest rank, so always an amount that did occur; None of nothing."""
    if not 0 <= q <= 1:
        raise LedgerError(f"a quantile is from 0 to 1, not {q}")
    if not amounts:
        return None
    return sorted(amounts)[max(0, math.ceil(q * len(amounts)) - 1)]
