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
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, Self

from sqlalchemy import URL, Connection, Engine, delete, func, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from trellis_pipeline.costs import budgets as wall
from trellis_pipeline.costs.budgets import Budgets, Headroom, ScopeName, SpendScope
from trellis_pipeline.costs.database import connect, database_errors, describe, parse_url
from trellis_pipeline.costs.migrations import migrate
from trellis_pipeline.costs.money import ZERO, checked, format_usd
from trellis_pipeline.costs.schema import open_reservations, scope_totals, spend_events
from trellis_pipeline.errors import BudgetExceeded, LedgerError

Source = Literal["estimate", "provider_cost", "price_list", "gpu_time"]
SOURCES: tuple[Source, ...] = ("estimate", "provider_cost", "price_list", "gpu_time")
# Percentiles follow the provider: only this many of the latest settlements count.
HISTORY = 500

_SCOPE_FIELDS = tuple(field.name for field in fields(SpendScope))
Also = Callable[[Connection], None]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside. amount: USD. day: the UTC day whose budget it counts in."""

    id: str
    amount: Decimal
    scope: SpendScope
    day: date
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Where the running totals do not say what the events say. Amounts: (settled, reserved) in USD."""

    scope: str
    key: str
    totals: tuple[Decimal, Decimal]
    events: tuple[Decimal, Decimal]


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
        price_book_version: str = "",
        also: Also | None = None,
    ) -> Reservation:
        """Set `amount` USD aside in all five scopes, or in none.

        also: more to write in the same transaction, for example the journal's intent; if it raises, nothing
        was reserved.

        Raises BudgetExceeded, which names the scope, its cap and what is left.
        """
        amount = checked(amount, "a reservation")
        scope = _storable(scope)
        now = self._clock().astimezone(UTC)
        reservation = Reservation(uuid.uuid4().hex, amount, scope, now.date(), now)
        keys = scope.keys(reservation.day)
        with self._write() as connection:
            after = self._add(connection, keys, settled=ZERO, reserved=amount)
            before = {name: (settled, reserved - amount) for name, (settled, reserved) in after.items()}
            refusal = wall.refusal(wall.headroom(keys, before, budgets), amount)
            if refusal:
                raise BudgetExceeded(f"{scope.catalog}/{scope.sku}: {refusal}")
            self._append(
                connection,
                reservation,
                "reserve",
                amount,
                reserved_change=amount,
                source="estimate",
                price_book_version=price_book_version,
                ts=now,
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

        source: where the amount is from, one of `SOURCES`. raw_cost_text: the provider's number, verbatim.
        seconds: time of generation. cause: what became of it, where that is worth a word.

        Raises LedgerError where the reservation was settled or released before, or never made.
        """
        amount = checked(amount, "a settlement")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise LedgerError(f"a generation cannot have taken {seconds} seconds; not booked")
        with self._write() as connection:
            stored = self._take(connection, reservation.id)
            self._append(
                connection,
                stored,
                "settle",
                amount,
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
        with self._write() as connection:
            stored = self._take(connection, reservation.id)
            self._append(
                connection,
                stored,
                "release",
                stored.amount,
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
        with self._write() as connection:
            # Whoever refunds at the same time waits here, because the total row is taken first.
            self._add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)
            stored = self._reserved_as(connection, reservation_id)
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
            self._append(
                connection,
                stored,
                "refund",
                amount,
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
        scope = _storable(scope)
        entry = Reservation("", ZERO, scope, now.date(), now)
        with self._write() as connection:
            self._append(
                connection,
                entry,
                "adjust",
                signed,
                settled_change=signed,
                source="provider_cost",
                cause=cause,
            )
            self._add(connection, scope.keys(entry.day), settled=signed, reserved=ZERO)

    # -- looking -------------------------------------------------------------------------------------------

    def headroom(self, scope: SpendScope, budgets: Budgets) -> Headroom:
        """How all five scopes stand for this product today."""
        keys = _storable(scope).keys(self._clock().astimezone(UTC).date())
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
            return tuple(_reservation(row) for row in connection.execute(query).mappings())

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation with that id if it is still open, else None."""
        with self.reading() as connection:
            known = connection.execute(
                select(open_reservations.c.reservation_id).where(
                    open_reservations.c.reservation_id == reservation_id
                )
            ).scalar()
            return self._reserved_as(connection, reservation_id) if known else None

    # -- checking ------------------------------------------------------------------------------------------

    def verify(self) -> tuple[Discrepancy, ...]:
        """Compare the running totals and the open reservations with the events; empty where all is right."""
        with self.reading() as connection:
            wrong = []
            for name, sums in _sums_by_scope(connection).items():
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

    def rebuild(self) -> None:
        """Make the running totals anew from the events."""
        with self._write() as connection:
            # Adding nothing takes the lock that every other writer takes first.
            self._add(connection, {"total": ""}, settled=ZERO, reserved=ZERO)
            connection.execute(delete(scope_totals))
            for name, sums in _sums_by_scope(connection).items():
                rows = [
                    {"scope": name, "key": key, "settled": settled, "reserved": reserved}
                    for key, (settled, reserved) in sums.items()
                ]
                if rows:
                    connection.execute(insert(scope_totals), rows)

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
    def _write(self) -> Iterator[Connection]:
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

    def _append(
        self,
        connection: Connection,
        reservation: Reservation,
        kind: str,
        amount: Decimal,
        *,
        source: str,
        settled_change: Decimal = ZERO,
        reserved_change: Decimal = ZERO,
        raw_cost_text: str = "",
        seconds: float = 0.0,
        cause: str = "",
        price_book_version: str = "",
        ts: datetime | None = None,
    ) -> None:
        if source not in SOURCES:
            raise LedgerError(f"{source!r} is not a source of an amount; use one of {', '.join(SOURCES)}")
        connection.execute(
            insert(spend_events),
            {name: getattr(reservation.scope, name) for name in _SCOPE_FIELDS}
            | {
                "event_id": uuid.uuid4().hex,
                "ts": ts or self._clock(),
                "day": reservation.day,
                "kind": kind,
                "reservation_id": reservation.id,
                "amount": amount,
                "settled_change": settled_change,
                "reserved_change": reserved_change,
                "currency": "USD",
                "source": source,
                "price_book_version": _text(price_book_version),
                "raw_cost_text": _text(raw_cost_text),
                "seconds": float(seconds),
                "cause": _text(cause),
            },
        )

    def _take(self, connection: Connection, reservation_id: str) -> Reservation:
        """Close an open reservation and return it as it was made; LedgerError if it is not open."""
        taken = connection.execute(
            delete(open_reservations).where(open_reservations.c.reservation_id == reservation_id)
        ).rowcount
        stored = self._reserved_as(connection, reservation_id)
        if taken != 1 or stored is None:
            raise LedgerError(f"reservation {reservation_id[:64]}: {_fate(connection, reservation_id)}")
        return stored

    @staticmethod
    def _reserved_as(connection: Connection, reservation_id: str) -> Reservation | None:
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
        return None if row is None else _reservation(row)


def quantile(amounts: Sequence[Decimal], q: float) -> Decimal | None:
    """The q-th quantile (0..1) by nearest rank, so always an amount that did occur; None of nothing."""
    if not 0 <= q <= 1:
        raise LedgerError(f"a quantile is from 0 to 1, not {q}")
    if not amounts:
        return None
    return sorted(amounts)[max(0, math.ceil(q * len(amounts)) - 1)]


def _reservation(row: Mapping[Any, Any]) -> Reservation:
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


def _sums_by_scope(connection: Connection) -> dict[ScopeName, dict[str, tuple[Decimal, Decimal]]]:
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


def _storable(scope: SpendScope) -> SpendScope:
    values: dict[str, Any] = {}
    for name in _SCOPE_FIELDS:
        value = getattr(scope, name)
        values[name] = _text(value) if isinstance(value, str) else value
    return SpendScope(**values)


def _text(value: str) -> str:
    """Text that every database can keep: Postgres has no NUL, and half a surrogate pair is no text."""
    return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:1000]
