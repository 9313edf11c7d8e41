"""The account at the provider against the ledger: what is not explained is shown, and stays until it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.reconcile import (
    UNATTRIBUTED,
    BalanceLook,
    Books,
    compare,
    parse_signed_usd,
    reconcile,
    summary,
)
from trellis_pipeline.costs.reports import report, totals
from trellis_pipeline.costs.schema import balances
from trellis_pipeline.errors import LedgerError, ProviderBusy

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def product(sku, generator="runware"):
    return SpendScope("shop", sku, "run-1", generator, "microsoft:trellis-2@4b", "1024", f"key-{sku}")


class Account:
    """A prepaid account that is charged when work is done, which is not when the ledger hears of it."""

    def __init__(self, usd):
        self.usd = Decimal(usd)
        self.while_asked = lambda: None

    async def balance(self):
        self.while_asked()
        return self.usd, str(self.usd)

    def buy(self, ledger, sku, usd, billed=None):
        reservation = ledger.reserve(Decimal("0.10"), product(sku), Budgets())
        self.usd -= Decimal(usd if billed is None else billed)
        ledger.settle(reservation, Decimal(usd), source="provider_cost")


@pytest.fixture
def account():
    return Account("10.00")


def look(ledger, account, **options):
    return asyncio.run(reconcile(ledger, "runware", account.balance, now=NOON, **options))


def test_the_first_look_has_nothing_to_compare_with_and_says_so(ledger, account):
    account.buy(ledger, "OLD", "0.05")
    found = look(ledger, account)
    assert (found.verdict, found.before) == ("first", None)
    assert "$9.95 in the account" in summary(found)


def test_what_left_the_account_is_what_was_settled(ledger, account):
    look(ledger, account)
    for number in range(20):
        account.buy(ledger, f"P{number}", "0.031400001")
    found = look(ledger, account)
    assert (found.left_account, found.settled) == (Decimal("0.62800002"), Decimal("0.62800002"))
    assert (found.verdict, found.unexplained, found.percent) == ("ok", 0, 0)


@pytest.mark.parametrize(
    ("secretly", "verdict", "percent"),
    [("0.05", "ok", "0.50"), ("0.20", "warn", "1.96"), ("0.50", "warn", "4.76"), ("0.80", "fail", "7.41")],
)
def test_money_that_left_without_a_settlement_is_shown_in_dollars_and_percent(
    ledger, secretly, verdict, percent
):
    account = Account("100")
    look(ledger, account)
    for number in range(10):
        account.buy(ledger, f"P{number}", "1.00")
    account.usd -= Decimal(secretly)
    found = look(ledger, account)
    assert (found.unexplained, found.verdict, found.percent) == (
        Decimal(secretly),
        verdict,
        Decimal(percent),
    )
    assert f"${secretly}" in summary(found)


def test_a_provider_that_names_one_price_and_takes_another_is_found_out(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.03", billed="0.06")
    found = look(ledger, account)
    assert (found.verdict, found.unexplained, found.percent) == ("fail", Decimal("0.03"), 50)
    assert "--book" in summary(found)


def test_less_than_a_cent_is_rounding_whatever_share_it_is(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.0256", billed="0.03")
    assert look(ledger, account).verdict == "ok"


def test_a_difference_stays_until_it_is_explained(ledger, account):
    look(ledger, account)
    account.usd -= 1
    assert look(ledger, account).verdict == "fail"
    again = look(ledger, account)
    assert (again.verdict, again.unexplained) == ("fail", 1)


def test_a_rest_that_is_booked_counts_in_the_budgets_and_is_gone(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.05")
    account.usd -= 1
    assert look(ledger, account, book_cause="found by hand in the console").unexplained == 1
    assert {line.key: line.settled_usd for line in report(ledger)} == {
        "shop": Decimal("0.05"),
        UNATTRIBUTED: Decimal(1),
    }
    assert ledger.verify() == ()
    account.buy(ledger, "B", "0.05")
    found = look(ledger, account)
    assert (found.verdict, found.unexplained, found.settled) == ("ok", 0, Decimal("0.05"))


def test_a_ledger_that_booked_too_much_can_be_corrected_downwards(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.10", billed="0.04")
    assert look(ledger, account, book_cause="the provider gave a discount").unexplained == Decimal("-0.06")
    assert totals(ledger).settled_usd == Decimal("0.04")
    assert look(ledger, account).verdict == "ok"


def test_booking_when_all_is_right_books_nothing(ledger, account):
    look(ledger, account, book_cause="x")
    account.buy(ledger, "A", "0.05")
    assert look(ledger, account, book_cause="x").verdict == "ok"
    assert [line.key for line in report(ledger)] == ["shop"]


def test_a_balance_that_rose_is_shown_as_such_with_the_amount_that_would_explain_it(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.05")
    account.usd += 20
    found = look(ledger, account)
    assert found.rose
    assert found.verdict == "fail"
    assert "--topped-up 20\n" in summary(found) + "\n"
    told = look(ledger, account, topped_up=Decimal(20))
    assert (told.verdict, told.left_account, told.topped_up) == ("ok", Decimal("0.05"), 20)
    assert look(ledger, account).topped_up == 0


def test_what_was_said_to_be_paid_in_is_not_forgotten_while_something_else_is_unexplained(ledger, account):
    look(ledger, account)
    account.usd += 19
    assert look(ledger, account, topped_up=Decimal(20)).unexplained == 1
    account.usd += 1
    assert look(ledger, account).verdict == "ok"


def test_a_payment_that_was_said_twice_can_be_taken_back(ledger, account):
    look(ledger, account)
    account.usd += 20
    assert look(ledger, account, topped_up=Decimal(40)).verdict == "fail"
    assert look(ledger, account, topped_up=Decimal(-20)).verdict == "ok"


def test_work_that_is_charged_and_not_settled_yet_is_no_discrepancy(ledger, account):
    look(ledger, account)
    account.buy(ledger, "A", "0.05")
    under_way = ledger.reserve(Decimal("0.10"), product("B"), Budgets())
    account.usd -= Decimal("0.07")
    found = look(ledger, account)
    assert (found.verdict, found.unexplained, found.may_be_open) == ("ok", Decimal("0.07"), Decimal("0.07"))
    assert "open reservations can account for $0.07" in summary(found)
    ledger.settle(under_way, Decimal("0.07"), source="provider_cost")
    after = look(ledger, account)  # nothing left, yet something was settled: it left before
    assert (after.verdict, after.left_account, after.settled) == ("ok", 0, Decimal("0.07"))


def test_an_open_reservation_explains_no_more_than_its_amount(ledger, account):
    look(ledger, account)
    ledger.reserve(Decimal("0.10"), product("B"), Budgets())
    account.usd -= 1
    found = look(ledger, account)
    assert (found.verdict, found.may_be_open, found.rest) == ("fail", Decimal("0.10"), Decimal("0.90"))


def test_what_is_bought_while_the_provider_is_asked_is_no_discrepancy(ledger, account):
    look(ledger, account)
    account.while_asked = lambda: account.buy(ledger, "MEANWHILE", "0.09")
    assert look(ledger, account).verdict == "ok"
    account.while_asked = lambda: None
    assert look(ledger, account).verdict == "ok"


def test_each_generator_has_an_account_of_its_own(ledger, account):
    look(ledger, account)
    local = ledger.reserve(Decimal(1), product("A", generator="local"), Budgets())
    ledger.settle(local, Decimal(1), source="gpu_time")
    assert look(ledger, account).settled == 0


def test_a_provider_that_does_not_answer_leaves_no_trace(ledger):
    async def busy():
        raise ProviderBusy("try again")

    with pytest.raises(ProviderBusy):
        asyncio.run(reconcile(ledger, "runware", busy, now=NOON))
    with ledger.reading() as connection:
        assert connection.execute(select(balances)).all() == []


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("Infinity"), Decimal("1e30"), 12.5, None])
def test_a_balance_that_is_no_amount_is_refused_and_not_kept(ledger, amount):
    async def strange():
        return amount, "?"

    with pytest.raises(LedgerError, match="balance"):
        asyncio.run(reconcile(ledger, "runware", strange, now=NOON))
    with ledger.reading() as connection:
        assert connection.execute(select(balances)).all() == []


def test_an_overdrawn_account_is_compared_like_any_other(ledger):
    account = Account("0.02")
    look(ledger, account)
    account.buy(ledger, "A", "0.05")
    found = look(ledger, account)
    assert (found.now.amount, found.verdict) == (Decimal("-0.03"), "ok")


def test_what_the_provider_said_is_kept_to_the_letter(ledger):
    async def balance():
        return Decimal("12.4999999999999996447"), "12.4999999999999996447"

    asyncio.run(reconcile(ledger, "runware", balance, now=NOON))
    with ledger.reading() as connection:
        (row,) = connection.execute(select(balances)).all()
    assert (row.amount, row.raw_text, row.ts) == (Decimal("12.5"), "12.4999999999999996447", NOON)


def test_of_many_who_book_the_same_rest_at_once_one_books_it(ledger, account):
    look(ledger, account)
    account.usd -= 1

    def book(_):
        try:
            look(ledger, account, book_cause="found")
        except LedgerError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(6) as pool:
        words = set(pool.map(book, range(6)))
    assert all("same time" in word for word in words - {""})
    assert totals(ledger).settled_usd == 1
    assert ledger.verify() == ()


@pytest.mark.parametrize(("text", "usd"), [("12.50", "12.5"), ("-0.30", "-0.3"), ("0", "0"), ("1e1", "10")])
def test_a_balance_is_typed_as_a_number(text, usd):
    assert parse_signed_usd(text) == Decimal(usd)


@pytest.mark.parametrize("text", ["", "-", "--1", "+1", "$5", "1,000", "NaN", "-NaN", "1e999", " 1"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(LedgerError, match="amount of"):
        parse_signed_usd(text)


cents = st.integers(-500, 5000).map(lambda n: Decimal(n) / 100)
held = st.integers(0, 500).map(lambda n: Decimal(n) / 100)


@given(start=cents, end=cents, settled=held, open_then=held, open_now=held, paid_in=held)
def test_the_figures_of_a_comparison_always_add_up(start, end, settled, open_then, open_now, paid_in):
    before = BalanceLook(NOON, start, Books(Decimal(7), open_then))
    now = BalanceLook(NOON + timedelta(days=1), end, Books(7 + settled, open_now))
    found = compare("runware", before, now, paid_in)
    assert start + paid_in - found.settled - found.unexplained == end
    assert found.rest + found.may_be_open.copy_sign(found.unexplained) == found.unexplained
    assert abs(found.rest) <= abs(found.unexplained)
    assert (found.verdict == "fail") == (
        abs(found.rest) > Decimal("0.01")
        and abs(found.rest) > max(abs(found.left_account), abs(found.settled)) / 20
    )
