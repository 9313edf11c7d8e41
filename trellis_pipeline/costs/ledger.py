"""The ledger: money is set aside before it is spent, and every change is an event that stays.

A bill arrives when the work is done, and many products are under way at once, so each of them must find the
budgets already reduced by all the others. Spending is therefore two events: `reserve` the worst case, then
`settle` the truth or `release` what was not bought. In between, and for as long as an outcome is unknown, the
money stays set aside: `settled + reserved <= cap` holds at every instant for every scope, as long as no
settlement is larger than its reservation; where one is, the overrun is reported.

Alerts at a share of a cap and the kill switch live in the same transactions.

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

from trellis_pipeline.costs import audit, history, switch
from trellis_pipeline.costs import budgets as wall
from trellis_pipeline.costs.alerts import ALERT_PERCENTS, Alarm, OnAlert, record
from trellis_pipeline.costs.budgets import Budgets, Headroom, ScopeName, ScopeState, SpendScope
from trellis_pipeline.costs.database import connect, database_errors, describe, parse_url
from trellis_pipeline.costs.events import Reservation, append, reservation_of, reserved_as, storable, take
from trellis_pipeline.costs.migrations import migrate
from trellis_pipeline.costs.money import ZERO, checked, format_usd
from trellis_pipeline.costs.schema import open_reservations, scope_totals, spend_events
from trellis_pipeline.costs.switch import Pause
from trellis_pipeline.errors import BudgetExceeded, LedgerError, SpendingPaused, StorageUnavailable

Also = Callable[[Connection], None]


class Ledger:
    """The books. Safe for many threads; other processes open the same URL themselves.

    Every method may raise StorageUnavailable where the database cannot be used. If that happens to `reserve`,
    the money may have been set aside all the same; it then shows in `open_reservations`.
    """

    def __init__(
        self,
        engine: Engine,
        url: URL,
        clock: Callable[[], datetime],
        alarm: Alarm,
    ) -> None:
        self._engine = engine
        self._url = url
        self._clock = clock
        self._alarm = alarm
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
    def open(
        cls,
        url: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_alert: OnAlert | None = None,
        alert_percents: Sequence[int] = ALERT_PERCENTS,
    ) -> Ledger:
        """Open the ledger at `url` (see `database.parse_url`), making or migrating it where needed.

        clock: gives the current time with its zone; decides the day a reservation counts in. on_alert: is
        told when a budget reaches one of alert_percents, once for each across all processes. What it raises
        is logged and goes no further. Without it no alert is kept as given either, so that whoever listens
        next is told.

        Raises ConfigError for a URL or a percentage that cannot work, LedgerError for a ledger of a newer
        version.
        """
        parsed = parse_url(url)
        alarm = Alarm(on_alert, alert_percents)
        engine = connect(parsed)
        try:
            with database_errors(parsed):
                migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, parsed, clock, alarm)

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

        Raises BudgetExceeded, which names the scope, its cap and what is left; SpendingPaused, its kind,
        while the kill switch is on, also for zero dollars: what is reserved is not what will be billed.
        """
        amount = checked(amount, "a reservation")
        scope = storable(scope)
        now = self._clock().astimezone(UTC)
        reservation = Reservation(reservation_id or uuid.uuid4().hex, amount, scope, now.date(), now)
        keys = scope.keys(reservation.day)
        wall_state: ScopeState | None = None
        try:
            with self.writing() as connection:
                # Adding takes the lock that `pause` takes too, so the switch is read after it, not before.
                after = self._add(connection, keys, settled=ZERO, reserved=amount)
                paused = switch.read(connection)
                if paused:
                    raise SpendingPaused(
                        f"{scope.catalog}/{scope.sku}: {paused}. Nothing was bought; "
                        "`trellis-pipeline costs resume` lifts it"
                    )
                before = {name: (settled, reserved - amount) for name, (settled, reserved) in after.items()}
                wall_state = wall.obstacle(wall.headroom(keys, before, budgets), amount)
                if wall_state:
                    raise BudgetExceeded(f"{scope.catalog}/{scope.sku}: {wall.refusal(wall_state, amount)}")
                if also:  # first, because it may find that somebody else has made this reservation
                    also(connection)
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
                alerts = self._alarm.due(connection, wall.headroom(keys, after, budgets).states, now)
        except BudgetExceeded:
            if wall_state:
                with contextlib.suppress(StorageUnavailable):
                    self._tell_of_refusal(wall_state, amount, now)
            raise
        self._alarm.tell(alerts)
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
        budgets: Budgets | None = None,
        also: Also | None = None,
    ) -> None:
        """Book what it did cost, and free the rest of the reservation. Exactly once.

        source: where the amount is from, one of `events.SOURCES`; `estimate` where the provider named no
        price. raw_cost_text: the provider's number, verbatim. seconds: time of generation. cause: what became
        of it, where that is worth a word; the name of a GenerationError means that it brought no model.
        budgets: the caps, so that a bill above its reservation can give an alert.

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
            keys = stored.scope.keys(stored.day)
            after = self._add(connection, keys, settled=amount, reserved=-stored.amount)
            if also:
                also(connection)
            room = wall.headroom(keys, after, budgets or Budgets())
            alerts = self._alarm.due(connection, room.states, self._clock())
        self._alarm.tell(alerts)

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
        with self.writing(alone=True) as connection:
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

    def adjust(self, amount: Decimal, scope: SpendScope, cause: str, *, also: Also | None = None) -> None:
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
            if also:
                also(connection)

    # -- stopping ------------------------------------------------------------------------------------------

    def pause(self, reason: str) -> Pause:
        """Refuse every reservation from now on, everywhere. What is reserved can still be settled.

        When this returns, no further reservation can be made, and every one that was made is in
        `open_reservations`. A second pause keeps its first time and takes the new reason.

        Raises ConfigError without a reason.
        """
        pause = Pause(self._clock().astimezone(UTC), switch.checked_reason(reason))
        with self.writing(alone=True) as connection:
            switch.write(connection, pause)
            return switch.read(connection) or pause

    def resume(self) -> Pause | None:
        """Allow reservations again. Returns the pause that was lifted, None if there was none."""
        with self.writing(alone=True) as connection:
            lifted = switch.read(connection)
            switch.write(connection, None)
            return lifted

    def paused(self) -> Pause | None:
        """The pause in force, None while money may be spent."""
        with self.reading() as connection:
            return switch.read(connection)

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

    # -- checking ------------------------------------------------------------------------------------------

    def verify(self) -> tuple[audit.Discrepancy, ...]:
        """Compare the running totals and the open reservations with the events; empty where all is right."""
        with self.reading() as connection:
            return audit.compare(connection)

    def rebuild(self) -> None:
        """Make the running totals anew from the events."""
        with self.writing(alone=True) as connection:
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
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction that writes, for tables that stand beside the books. One at a time in SQLite.

        alone: one at a time in Postgres too, as far as reservations, settlements and the like are concerned.
        """
        with database_errors(self._url), self._gate, self._engine.begin() as connection:
            if alone:
                # Adding nothing takes the row that all of them take first.
                self._add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)
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

    def _tell_of_refusal(self, state: ScopeState, amount: Decimal, now: datetime) -> None:
        """A refusal undid its transaction, so what there is to tell is written in one of its own."""
        with self.reading() as connection:
            alerts = self._alarm.refused(connection, state, amount)  # a run may be refused a thousand times
        if alerts:
            with self.writing(alone=True) as connection:
                alerts = record(connection, alerts, now)
            self._alarm.tell(alerts)
