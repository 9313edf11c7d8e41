"""Reconciliation: does the account at the provider say what the ledger says?

The ledger believes the cost that comes with every answer. The balance of the account is the only second
opinion: what left it between two looks must be what was settled between them. What is not is shown to the
cent, as dollars and as a share, and does not go away by being looked at again: a comparison always starts at
the last look that came out right, until the difference is explained or booked.

Two things are not mistakes. Reservations that are open when somebody looks may be charged already, or were
charged before the look before; up to their amount the two sides may differ. And money may come in, which
nobody but the user knows.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from sqlalchemy import Connection, func, insert, select

from trellis_pipeline.costs.budgets import SpendScope
from trellis_pipeline.costs.events import text
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import MAX_USD, NANO, ZERO, format_usd, parse_usd
from trellis_pipeline.costs.schema import balances, spend_events
from trellis_pipeline.errors import LedgerError

FetchBalance = Callable[[], Awaitable[tuple[Decimal, str]]]
"""Asks the provider: USD left in the account, and the provider's own text of the number."""

Verdict = Literal["first", "ok", "warn", "fail"]

WARN_PERCENT = Decimal(1)
FAIL_PERCENT = Decimal(5)
# Providers round what they show; below this a difference means nothing, whatever share it is of little.
NEGLIGIBLE = Decimal("0.01")

# What nobody can be held responsible for. No catalog can have this name.
UNATTRIBUTED = "(unattributed)"

_SIGNED = re.compile(r"-?[0-9][0-9.eE+-]*")


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger says of one generator, in USD since the beginning. reserved: open at that moment."""

    settled: Decimal
    reserved: Decimal


@dataclass(frozen=True, slots=True)
class BalanceLook:
    """One look at the account: USD left, beside the books of that moment. topped_up: paid in before it."""

    at: datetime
    amount: Decimal
    books: Books
    topped_up: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A comparison of two looks, in USD; see `compare`. before is None for the first look.

    left_account: what is gone from the account, top-ups taken into account; negative where money came in.
    settled: what the ledger booked in the meantime. unexplained: left_account - settled. may_be_open: how
    much of it open reservations can account for. percent: the rest, as a share of the larger of the two.
    """

    generator: str
    before: BalanceLook | None
    now: BalanceLook
    topped_up: Decimal
    left_account: Decimal
    settled: Decimal
    unexplained: Decimal
    may_be_open: Decimal
    percent: Decimal
    verdict: Verdict

    @property
    def rest(self) -> Decimal:
        """What nothing accounts for, in USD, with the sign of `unexplained`."""
        return self.unexplained - self.may_be_open.copy_sign(self.unexplained)

    @property
    def rose(self) -> bool:
        """Whether there is more in the account than before, and nobody said that money was paid in."""
        return self.before is not None and self.left_account < 0


def compare(
    generator: str, before: BalanceLook | None, now: BalanceLook, topped_up: Decimal = ZERO
) -> Reconciliation:
    """Compare what left the account between two looks with what was settled between them.

    before: the last look that came out right. topped_up: USD paid in since then.
    """
    if before is None:
        return Reconciliation(generator, None, now, topped_up, ZERO, ZERO, ZERO, ZERO, ZERO, "first")
    left = before.amount + topped_up - now.amount
    settled = now.books.settled - before.books.settled
    unexplained = left - settled
    # Charged and not settled yet makes more leave than is settled; charged before the last look, settled
    # after it, makes less leave.
    open_then_or_now = now.books.reserved if unexplained > 0 else before.books.reserved
    may_be_open = min(abs(unexplained), max(ZERO, open_then_or_now))
    rest = abs(unexplained) - may_be_open
    base = max(abs(left), abs(settled))
    percent = (rest * 100 / base).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN) if rest else ZERO
    verdict: Verdict = "ok"
    if rest > NEGLIGIBLE and rest * 100 > base * FAIL_PERCENT:
        verdict = "fail"
    elif rest > NEGLIGIBLE and rest * 100 > base * WARN_PERCENT:
        verdict = "warn"
    return Reconciliation(
        generator, before, now, topped_up, left, settled, unexplained, may_be_open, percent, verdict
    )


async def reconcile(
    ledger: Ledger,
    generator: str,
    fetch_balance: FetchBalance,
    *,
    now: datetime,
    topped_up: Decimal = ZERO,
    book_cause: str = "",
) -> Reconciliation:
    """Look at the account, compare with the last look that came out right, and keep this one.

    now: with its zone. topped_up: USD paid in since the last look, negative to take a mistake back.
    book_cause: where given, an unexplained rest is booked as a correction with these words, under
    `UNATTRIBUTED`, so that budgets count it; the comparison returned is the one before.

    Raises LedgerError for a balance that is no amount, and whatever fetch_balance raises; nothing is kept
    then.
    """
    import asyncio

    # In this order: what is compared with is older than the books, so a correction that somebody books
    # meanwhile is noticed; and whatever the books have settled was charged before the provider is asked.
    last = await asyncio.to_thread(_last, ledger, generator)
    books = await asyncio.to_thread(books_of, ledger, generator)
    amount, raw_text = await fetch_balance()
    # What was reserved while the answer was on its way may be charged in it as well.
    later = await asyncio.to_thread(books_of, ledger, generator)
    reserved = max(books.reserved, later.reserved + later.settled - books.settled)
    look = BalanceLook(
        now,
        signed_usd(amount, "a balance"),
        Books(books.settled, reserved),
        signed_usd(topped_up, "a top-up"),
    )
    return await asyncio.to_thread(_keep, ledger, generator, last, look, raw_text, book_cause)


def books_of(ledger: Ledger, generator: str) -> Books:
    """What the ledger has settled and reserved for one generator; the unattributed corrections count too."""
    query = select(
        func.sum(spend_events.c.settled_change).label("settled"),
        func.sum(spend_events.c.reserved_change).label("reserved"),
    ).where(spend_events.c.generator == generator)
    with ledger.reading() as connection:
        row = connection.execute(query).one()
    return Books(row.settled or ZERO, row.reserved or ZERO)


def parse_signed_usd(number: str) -> Decimal:
    """`parse_usd` that takes a leading minus: an account can be overdrawn. Raises LedgerError."""
    if not _SIGNED.fullmatch(number):
        raise LedgerError(f"{number[:40]!r} is not an amount of dollars; write it like 12.50 or -0.30")
    amount = parse_usd(number.removeprefix("-"))
    return -amount if number.startswith("-") else amount


def signed_usd(amount: Decimal, what: str) -> Decimal:
    """The amount with nine places. Raises LedgerError unless it is finite and within ± `MAX_USD`."""
    if not isinstance(amount, Decimal) or not amount.is_finite() or abs(amount) > MAX_USD:
        raise LedgerError(f"{what} of {str(amount)[:40]} USD is refused: it must be an amount of dollars")
    return amount.quantize(NANO, rounding=ROUND_HALF_EVEN)


def _keep(
    ledger: Ledger, generator: str, last: _Last, look: BalanceLook, raw_text: str, book_cause: str
) -> Reconciliation:
    """Compare, and write the look down; a booked correction stands in the same transaction."""
    found = compare(generator, last.right, look, last.paid_in + look.topped_up)
    booked = found.rest if book_cause else ZERO

    def write(connection: Connection) -> None:
        if _last_seq(connection, generator) != last.seq:
            raise LedgerError(f"somebody else reconciled {generator} at the same time; run it again")
        connection.execute(
            insert(balances),
            {
                "ts": look.at,
                "generator": generator,
                "amount": look.amount,
                "raw_text": text(raw_text)[:100],
                "settled": look.books.settled + booked,
                "reserved": look.books.reserved,
                "topped_up": look.topped_up,
                "verdict": "ok" if booked else found.verdict,
            },
        )

    if booked:
        scope = SpendScope(UNATTRIBUTED, "", "", generator, "", "", "")
        ledger.adjust(booked, scope, book_cause, also=write)
    else:
        with ledger.writing(alone=True) as connection:
            write(connection)
    return found


@dataclass(frozen=True, slots=True)
class _Last:
    """right: the last look that came out right. paid_in: since then. seq: of the last look of any kind."""

    right: BalanceLook | None
    paid_in: Decimal
    seq: int


def _last(ledger: Ledger, generator: str) -> _Last:
    query = select(balances).where(balances.c.generator == generator).order_by(balances.c.seq.desc())
    paid_in = ZERO
    right = None
    with ledger.reading() as connection:
        seq = _last_seq(connection, generator)
        for row in connection.execute(query):
            if row.verdict in {"first", "ok"}:
                right = BalanceLook(row.ts, row.amount, Books(row.settled, row.reserved), row.topped_up)
                break
            paid_in += row.topped_up
    return _Last(right, paid_in, seq)


def _last_seq(connection: Connection, generator: str) -> int:
    query = select(func.max(balances.c.seq)).where(balances.c.generator == generator)
    return connection.execute(query).scalar() or 0


def summary(found: Reconciliation) -> str:
    """The comparison in words, several lines."""
    name, amount = found.generator, format_usd(found.now.amount)
    if found.before is None:
        return f"{name}: {amount} in the account. This was the first look; the next is compared with it."
    lines = [
        f"{name}: {format_usd(found.before.amount)} on {found.before.at:%Y-%m-%d %H:%M} UTC, {amount} now",
        f"  paid in       {format_usd(found.topped_up):>12}",
        f"  left account  {format_usd(found.left_account):>12}",
        f"  settled       {format_usd(found.settled):>12}",
        f"  unexplained   {format_usd(found.unexplained):>12}",
    ]
    if found.may_be_open:
        lines.append(f"    open reservations can account for {format_usd(found.may_be_open)} of it")
    lines.append(f"  verdict       {found.verdict}: {found.percent:.2f} % is explained by nothing")
    if found.rose:
        missing = (found.settled - found.left_account).normalize()
        lines.append(f"  The balance rose. If money was paid in, say how much: --topped-up {missing:f}")
    elif found.verdict == "fail":
        lines.append("  Compare with the provider's usage page; --book CAUSE books the rest as a correction.")
    return "\n".join(lines)
