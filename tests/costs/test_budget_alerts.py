"""Alerts at a share of a cap: each is given once, to somebody who listens, and never in the way of money."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis_pipeline.costs.alerts import reached
from trellis_pipeline.costs.budgets import SCOPES, Budgets, ScopeState, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import BudgetExceeded, ConfigError

TEN_CENTS = Decimal("0.10")
ONE_DOLLAR = Budgets(total_usd=Decimal(1))


def product(sku="CHAIR-7"):
    return SpendScope("demo", sku, "run-1", "runware", "microsoft:trellis-2@4b", "1024", f"key-{sku}")


@pytest.fixture
def heard():
    return []


@pytest.fixture
def listening(url, heard):
    with Ledger.open(url, on_alert=heard.append) as ledger:
        yield ledger


def told(heard):
    return [(alert.state.scope, alert.percent) for alert in heard]


def test_half_of_a_budget_most_of_it_and_all_of_it_are_told_once_each(listening, heard):
    after = []
    for number in range(10):
        listening.reserve(TEN_CENTS, product(f"P{number}"), ONE_DOLLAR)
        after.append(len(heard))
    assert told(heard) == [("total", 50), ("total", 80), ("total", 100)]
    assert after == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert "50 % of a budget is used: total: cap $1.00, settled $0.00, reserved $0.50" in str(heard[0])


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_with_a_cap_has_its_alerts(listening, heard, scope):
    listening.reserve(Decimal("0.85"), product(), Budgets(**{f"{scope}_usd": Decimal(1)}))
    assert told(heard) == [(scope, 80)]  # a jump over 50 % is one piece of news


def test_settled_and_reserved_count_together_and_a_cheaper_bill_makes_room_without_repeating_itself(
    listening, heard
):
    first = listening.reserve(Decimal("0.60"), product("A"), ONE_DOLLAR)
    listening.settle(first, Decimal("0.30"), source="provider_cost", budgets=ONE_DOLLAR)
    listening.reserve(Decimal("0.30"), product("B"), ONE_DOLLAR)
    assert told(heard) == [("total", 50)]


def test_a_purchase_that_no_longer_fits_is_told_as_a_budget_used_up(listening, heard):
    listening.reserve(Decimal("0.95"), product("A"), ONE_DOLLAR)
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            listening.reserve(TEN_CENTS, product("B"), ONE_DOLLAR)
    assert told(heard) == [("total", 80), ("total", 100)]
    assert "used up" in str(heard[1])
    assert "$0.10 more was refused" in str(heard[1])
    assert listening.verify() == ()


def test_a_bill_above_its_reservation_can_use_a_budget_up_and_is_told(listening, heard):
    reservation = listening.reserve(TEN_CENTS, product(), ONE_DOLLAR)
    listening.settle(reservation, Decimal("1.20"), source="provider_cost", budgets=ONE_DOLLAR)
    assert told(heard) == [("total", 100)]


def test_another_process_does_not_repeat_what_was_told(url, heard):
    for number in range(3):
        with Ledger.open(url, on_alert=heard.append) as ledger:
            ledger.reserve(Decimal("0.20"), product(f"P{number}"), ONE_DOLLAR)
    assert told(heard) == [("total", 50)]


def test_a_cap_that_was_changed_alerts_anew(listening, heard):
    listening.reserve(Decimal("0.60"), product("A"), ONE_DOLLAR)
    raised, lowered = Budgets(total_usd=Decimal("1.20")), Budgets(total_usd=Decimal("0.70"))
    listening.reserve(Decimal("0.01"), product("B"), raised)
    listening.reserve(Decimal("0.01"), product("C"), lowered)
    listening.reserve(Decimal("0.01"), product("D"), ONE_DOLLAR)  # back to the first: known already
    assert [(alert.state.cap, alert.percent) for alert in heard] == [
        (Decimal(1), 50),
        (Decimal("1.20"), 50),
        (Decimal("0.70"), 80),
    ]


def test_a_reservation_that_was_undone_told_nothing(listening, heard):
    def fail(_):
        raise RuntimeError("the journal refused")

    with pytest.raises(RuntimeError):
        listening.reserve(Decimal("0.60"), product(), ONE_DOLLAR, also=fail)
    assert heard == []
    listening.reserve(Decimal("0.60"), product(), ONE_DOLLAR)
    assert told(heard) == [("total", 50)]


def test_what_nobody_heard_is_told_to_the_first_who_listens(url, heard):
    with Ledger.open(url) as silent:
        silent.reserve(Decimal("0.60"), product("A"), ONE_DOLLAR)
    with Ledger.open(url, on_alert=heard.append) as ledger:
        ledger.reserve(Decimal("0.01"), product("B"), ONE_DOLLAR)
    assert told(heard) == [("total", 50)]


def test_a_listener_that_breaks_does_not_break_the_purchase(url, caplog):
    def broken(_):
        raise OSError("no route to host")

    with Ledger.open(url, on_alert=broken) as ledger:
        reservation = ledger.reserve(Decimal("0.60"), product(), ONE_DOLLAR)
        assert ledger.find(reservation.id) == reservation
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "OSError" in record.getMessage()
    assert "50 %" in record.getMessage()


def test_a_listener_may_use_the_ledger_because_no_lock_is_held(url):
    spent = []
    with Ledger.open(url, on_alert=lambda _: spent.append(ledger.pause("half is gone"))) as ledger:
        ledger.reserve(Decimal("0.60"), product(), ONE_DOLLAR)
        assert ledger.paused() is not None


def test_of_many_threads_that_spend_at_once_one_is_told_of_each_threshold(listening, heard):
    def attempt(number):
        try:
            listening.reserve(Decimal("0.03"), product(f"P{number}"), ONE_DOLLAR)
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(60))) == 33
    # They are told in the order in which their threads come to it, not in the order of the transactions.
    assert sorted(told(heard)) == [("total", 50), ("total", 80), ("total", 100)]
    assert listening.verify() == ()


def test_percentages_can_be_chosen(url, heard):
    with Ledger.open(url, on_alert=heard.append, alert_percents=(25, 10)) as ledger:
        for number in range(9):
            ledger.reserve(TEN_CENTS, product(f"P{number}"), ONE_DOLLAR)
        with pytest.raises(BudgetExceeded):
            ledger.reserve(Decimal("0.20"), product("last"), ONE_DOLLAR)
    assert told(heard) == [("total", 10), ("total", 25)]


@pytest.mark.parametrize("percents", [(0,), (101,), (50, -1), (50.0,), ("50",), (True,)])
def test_a_percentage_that_makes_no_sense_is_refused(sqlite_url, percents):
    with pytest.raises(ConfigError, match="from 1 to 100"):
        Ledger.open(sqlite_url, on_alert=print, alert_percents=percents)


def test_a_free_generation_alerts_nobody_not_even_of_a_budget_of_zero(listening, heard):
    listening.reserve(Decimal(0), product(), Budgets(total_usd=Decimal(0)))
    assert heard == []


def test_a_cap_with_more_places_than_money_has_is_no_obstacle(listening, heard):
    cap = Budgets(total_usd=Decimal("1.00000000005"))
    listening.reserve(Decimal("0.60"), product("A"), cap)
    listening.reserve(Decimal("0.01"), product("B"), cap)
    assert told(heard) == [("total", 50)]


nano = st.integers(0, 10**12).map(lambda n: Decimal(n).scaleb(-9))


@given(cap=nano, settled=nano, reserved=nano, percents=st.sets(st.integers(1, 100)))
def test_a_threshold_is_reached_exactly_from_its_share_of_the_cap_on(cap, settled, reserved, percents):
    state = ScopeState("day", "2026-11-22", cap, settled, reserved)
    found = {alert.percent for alert in reached([state], sorted(percents))}
    used = settled + reserved
    assert found == {percent for percent in percents if used > 0 and used >= cap * percent / 100}
