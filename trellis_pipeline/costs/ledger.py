"""The ledger: money is set aside before it is spent, and every change is an event that stays.

A bill arrives when the work is done, and many products are under way at once, so each of them must find the
budgets already reduced by all the others. Spending is therefore two events: `reserve` the worst case, then
`settle` the truth or `release` what was not bought. In between, and for as long as an outcome is unknown, the
money stays set aside: `settled + reserved <= cap` holds at every instant for every scope, as long as no
settlement is larger than its reservation; where one is, the overrun is reported. Alerts at a share of a cap
and the kill switch live in the same transactions.

One transaction covers all five scopes. SQLite lets one writer in at a time; in Postgres the row of the
`total` scope is locked first by everyone, which comes to the same without any retries.
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import URL, Connection, Engine, insert

from trellis_pipeline.costs import audit, switch, totals
from trellis_pipeline.costs import budgets as wall
from trellis_pipeline.costs.alerts import ALERT_PERCENTS, Alarm, OnAlert, record
from trellis_pipeline.costs.books import Books, opened
from trellis_pipeline.costs.budgets import Budgets, ScopeState, SpendScope
from trellis_pipeline.costs.database import database_errors, parse_url
from trellis_pipeline.costs.events import Reservation, append, refundable, storable, take
from trellis_pipeline.costs.money import ZERO, checked
from trellis_pipeline.costs.schema import open_reservations
from trellis_pipeline.costs.switch import Pause
from trellis_pipeline.errors import BudgetExceeded, LedgerError, StorageUnavailable

Also = Callable[[Connection], None]


class Ledger(Books):
    """The books, and the right to write in them. Safe for many threads; other processes open the same URL.

    Where StorageUnavailable happens to `reserve`, the money may have been set aside all the same; it then
    shows in `open_reservations`.
    """

    def __init__(self, engine: Engine, url: URL, clock: Callable[[], datetime], alarm: Alarm) -> None:
        super().__init__(engine, url, clock)
        self._alarm = alarm
        # Threads that wait here are woken at once; those that wait for SQLite's own lock sleep in between.
        self._gate: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

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
        return cls(opened(parsed), parsed, clock, alarm)

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
                after = totals.add(connection, keys, settled=ZERO, reserved=amount)
                switch.check(connection, f"{scope.catalog}/{scope.sku}")
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
            after = totals.add(connection, keys, settled=amount, reserved=-stored.amount)
            if also:
                also(connection)
            states = wall.headroom(keys, after, budgets or Budgets()).states
            alerts = self._alarm.due(connection, states, self._clock())
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
            totals.add(connection, stored.scope.keys(stored.day), settled=ZERO, reserved=-stored.amount)
            if also:
                also(connection)

    def refund(self, reservation_id: str, amount: Decimal, cause: str) -> None:
        """Book money that the provider gave back for a settled generation.

        Raises LedgerError where it was not settled, or where refunds would exceed what was settled.
        """
        amount = checked(amount, "a refund")
        with self.writing(alone=True) as connection:
            stored = refundable(connection, reservation_id, amount)
            self._correct(connection, stored, "refund", amount, -amount, cause)

    def adjust(self, amount: Decimal, scope: SpendScope, cause: str, *, also: Also | None = None) -> None:
        """Book a correction, found by reconciliation with the provider: more spent (> 0) or less (< 0).

        A correction states what happened, so no cap refuses it.
        """
        size = checked(abs(amount), "a correction")
        signed = -size if amount < 0 else size
        now = self._clock().astimezone(UTC)
        entry = Reservation("", ZERO, storable(scope), now.date(), now)
        with self.writing() as connection:
            self._correct(connection, entry, "adjust", signed, signed, cause)
            if also:
                also(connection)

    def pause(self, reason: str) -> Pause:
        """Refuse every reservation from now on, everywhere. What is reserved can still be settled.

        When this returns, no further reservation can be made, and every one that was made is in
        `open_reservations`; what of them was not handed in yet is not handed in any more. A second pause
        keeps its first time and takes the new reason. Raises ConfigError without a reason.
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

    def rebuild(self) -> None:
        """Make the running totals anew from the events."""
        with self.writing(alone=True) as connection:
            audit.rewrite(connection)

    @contextlib.contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction that writes, for tables that stand beside the books. One at a time in SQLite.

        alone: one at a time in Postgres too, as far as reservations, settlements and the like are concerned.
        """
        with database_errors(self._url), self._gate, self._engine.begin() as connection:
            if alone:
                totals.lock(connection)
            yield connection

    def _correct(
        self,
        connection: Connection,
        about: Reservation,
        kind: str,
        amount: Decimal,
        change: Decimal,
        why: str,
    ) -> None:
        """Book what changes a settled sum afterwards. change: USD, with its sign."""
        now, source = self._clock(), "provider_cost"
        append(connection, about, kind, amount, now, settled_change=change, source=source, cause=why)
        totals.add(connection, about.scope.keys(about.day), settled=change, reserved=ZERO)

    def _tell_of_refusal(self, state: ScopeState, amount: Decimal, now: datetime) -> None:
        """A refusal undid its transaction, so what there is to tell is written in one of its own."""
        with self.reading() as connection:
            alerts = self._alarm.refused(connection, state, amount)  # a run may be refused a thousand times
        if alerts:
            with self.writing(alone=True) as connection:
                alerts = record(connection, alerts, now)
            self._alarm.tell(alerts)
