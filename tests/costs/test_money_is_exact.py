"""Amounts of money: exact from the provider's text to the database, refused where they make no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import trellis_pipeline
from trellis_pipeline.costs.money import MAX_USD, checked, format_usd, from_nano, parse_usd, to_nano
from trellis_pipeline.errors import LedgerError

amounts = st.decimals(min_value=0, max_value=MAX_USD, places=9, allow_nan=False)

NO_AMOUNTS = [
    "",
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "-0.01",
    "-0",
    "+1",
    "$1",
    "1,000.00",
    "0x10",
    "1_000",
]
NO_AMOUNTS += ["01", ".5", "1.", " 1", "1 ", "1\n", "٣", "null", "1e", "1e999", "1e9999999999", "1000000.01"]
NO_AMOUNTS += ["9" * 400, "1" + "0" * 50]
SHOWN = {"0": "$0.00", "0.0256": "$0.0256", "12.3": "$12.30", "1234.5": "$1,234.50", "-3": "-$3.00"}
SHOWN |= {"0.0000001": "$0.0000001", "0.02564999": "$0.0256", "-0.00001": "-$0.00001"}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0"),
        ("0.0256", "0.0256"),
        ("1e-7", "0.0000001"),
        ("2.56E-2", "0.0256"),
        ("5e+2", "500"),
        ("0.060000000000000005", "0.06"),  # a provider that adds in floats
        ("0.0000000005", "0"),  # half-even at the ninth place
        ("0.0000000015", "0.000000002"),
    ],
)
def test_a_json_number_becomes_the_amount_it_states(text, amount):
    assert parse_usd(text) == Decimal(amount)


@pytest.mark.parametrize("text", NO_AMOUNTS)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(LedgerError):
        parse_usd(text)


@given(st.text(max_size=30))
@example("1e-999")
@example("0e999")
def test_any_text_is_an_amount_within_limits_or_refused(text):
    try:
        amount = parse_usd(text)
    except LedgerError:
        return
    assert 0 <= amount <= MAX_USD
    assert amount.as_tuple().exponent == -9


@given(st.floats(min_value=0, max_value=1000))
def test_every_number_a_json_writer_prints_is_read_within_half_a_nano_dollar(number):
    text = json.dumps(number)
    assert abs(parse_usd(text) - Decimal(text)) <= Decimal("5e-10")


@given(amounts)
def test_nano_dollars_keep_every_amount(amount):
    assert from_nano(to_nano(amount)) == amount


def test_a_tenth_place_is_never_dropped_silently():
    with pytest.raises(LedgerError, match="nine decimal places"):
        to_nano(Decimal("0.0000000001"))


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("Infinity"), Decimal(-1), MAX_USD + 1, 0.5, 1])
def test_only_finite_decimals_in_range_are_booked(amount):
    with pytest.raises(LedgerError, match="reservation"):
        checked(amount, "a reservation")


@pytest.mark.parametrize(("amount", "text"), SHOWN.items())
def test_amounts_read_well_and_small_ones_never_look_like_nothing(amount, text):
    assert format_usd(Decimal(amount)) == text


def test_reading_money_loads_no_database_library():
    code = (
        "import sys; import trellis_pipeline.costs.money, trellis_pipeline.costs.budgets, "
        "trellis_pipeline.costs.price_book; assert not {'sqlalchemy', 'alembic'} & set(sys.modules)"
    )
    parent = Path(trellis_pipeline.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=parent)
