"""Dollars as exact decimals with nine places, from the provider's text to the database and back.

A generation costs cents and a catalog has a hundred thousand of them: binary floats would drift, and a
budget compared with drifted sums is not a wall. So an amount is read from the text of the number and kept
as `Decimal` with at most nine places (nano-dollars, `NUMERIC(18, 9)`); it becomes anything else only to be
shown.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated

from pydantic import PlainSerializer

from trellis_pipeline.errors import LedgerError

ZERO = Decimal(0)
NANO = Decimal("0.000000001")
# The most one amount may be. A provider that asks for more than a million dollars is mistaken.
MAX_USD = Decimal(1_000_000)

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,20})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")


def parse_usd(text: str, *, most: Decimal = MAX_USD) -> Decimal:
    """The amount that this text of a JSON number states, rounded half-even to nine places.

    Rounding is needed because providers compute in floats (`0.060000000000000005`); keep the text itself
    beside the amount. most: the largest amount that makes sense here.

    Raises LedgerError for anything else: signs, NaN, infinities, thousands separators, currency signs, and
    amounts above `most`.
    """
    if not _NUMBER.fullmatch(text):
        raise LedgerError(f"{text[:40]!r} is not an amount of dollars; write it like 0.0256")
    value = Decimal(text)
    if value > most:
        raise LedgerError(
            f"an amount of {text[:40]} USD is above the limit of {format_usd(most)}; not booked"
        )
    return value.quantize(NANO, rounding=ROUND_HALF_EVEN)


def checked(amount: Decimal, what: str) -> Decimal:
    """Return `amount` with nine places if it is a finite amount of 0 to `MAX_USD`, else raise LedgerError.

    what: names the amount in the error.
    """
    if not isinstance(amount, Decimal):
        raise LedgerError(f"{what} must be a Decimal, not {type(amount).__name__}; read it with parse_usd")
    if not amount.is_finite() or not ZERO <= amount <= MAX_USD:
        raise LedgerError(f"{what} of {amount} USD is refused: it must be from 0 to {format_usd(MAX_USD)}")
    return amount.quantize(NANO, rounding=ROUND_HALF_EVEN)


def to_nano(amount: Decimal) -> int:
    """Nano-dollars, exactly. Raises LedgerError where the amount has more than nine places."""
    scaled = amount.scaleb(9)
    if scaled != scaled.to_integral_value():
        raise LedgerError(f"{amount} USD has more than nine decimal places")
    return int(scaled)


def from_nano(nano: int) -> Decimal:
    """Dollars with nine places."""
    return Decimal(nano).scaleb(-9).quantize(NANO)


def usd_text(amount: Decimal) -> str:
    """For machines: every digit there is, never in scientific notation (`0.000000000`, not `0E-9`)."""
    return f"{amount:f}"


Usd = Annotated[Decimal, PlainSerializer(usd_text, return_type=str, when_used="json")]
"""An amount in a pydantic model, which JSON has as exact text."""


def format_usd(amount: Decimal) -> str:
    """For people: `$1,234.50`, `$0.0256`, `-$3.00`. Two to four places; more where all four would be zero."""
    sign, size = ("-", -amount) if amount < 0 else ("", amount)
    places = 4 if size == 0 or size >= Decimal("0.0001") else 9
    whole, _, fraction = f"{size:,.{places}f}".partition(".")
    return f"{sign}${whole}.{fraction.rstrip('0').ljust(2, '0')}"
