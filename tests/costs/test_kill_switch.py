"""The kill switch: after a pause nothing is reserved, on any machine; what was bought is still paid for."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import trellis_pipeline
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.database import parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import BudgetExceeded, ConfigError, SpendingPaused

PACKAGE_PARENT = str(Path(trellis_pipeline.__file__).parents[1])
TEN_CENTS = Decimal("0.10")


def product(sku="CHAIR-7"):
    return SpendScope("demo", sku, "run-1", "runware", "microsoft:trellis-2@4b", "1024", f"key-{sku}")


def test_a_paused_ledger_reserves_nothing_and_says_why_and_how_to_go_on(ledger):
    ledger.pause("the provider bills twice")
    for amount in [TEN_CENTS, Decimal(0)]:  # zero reserved is not zero billed
        with pytest.raises(SpendingPaused) as caught:
            ledger.reserve(amount, product(), Budgets())
        assert "demo/CHAIR-7" in str(caught.value)
        assert "the provider bills twice" in str(caught.value)
        assert "trellis-pipeline costs resume" in str(caught.value)
    assert ledger.open_reservations() == ()
    assert ledger.verify() == ()
    ledger.resume()
    ledger.reserve(TEN_CENTS, product(), Budgets())


def test_whoever_handles_a_used_up_budget_handles_a_pause(ledger):
    ledger.pause("test")
    with pytest.raises(BudgetExceeded):
        ledger.reserve(TEN_CENTS, product(), Budgets())


def test_nothing_of_a_refused_purchase_is_written_while_paused(ledger):
    asked = []
    ledger.pause("test")
    with pytest.raises(SpendingPaused):
        ledger.reserve(TEN_CENTS, product(), Budgets(), also=asked.append)
    assert asked == []


def test_what_is_under_way_is_settled_or_released_during_a_pause(ledger):
    bought, failed = (ledger.reserve(TEN_CENTS, product(sku), Budgets()) for sku in "AB")
    ledger.pause("test")
    ledger.settle(bought, Decimal("0.05"), source="provider_cost")
    ledger.release(failed, "rejected")
    assert totals(ledger).settled_usd == Decimal("0.05")
    assert ledger.open_reservations() == ()


def test_a_pause_is_seen_by_every_other_process_and_survives_a_restart(url):
    with Ledger.open(url) as here:
        here.pause("found in the night")
    code = (
        "import sys; from trellis_pipeline.costs.ledger import Ledger\n"
        "with Ledger.open(sys.argv[1]) as ledger: print(ledger.paused().reason)"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=True, cwd=PACKAGE_PARENT
    )
    assert there.stdout == "found in the night\n"


def test_pausing_twice_keeps_the_first_time_and_takes_the_new_reason(url):
    now = [datetime(2026, 11, 22, 12, 0, tzinfo=UTC)]
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        first = ledger.pause("prices look wrong")
        now[0] += timedelta(hours=1)
        assert ledger.pause("they are wrong") == ledger.paused()
        assert (ledger.paused().since, ledger.paused().reason) == (first.since, "they are wrong")
        assert ledger.resume() is not None
        assert ledger.resume() is None
        assert ledger.paused() is None


@pytest.mark.parametrize("reason", ["", " \t\n", "\x1f"])
def test_a_pause_without_a_reason_is_refused(ledger, reason):
    with pytest.raises(ConfigError, match="--reason"):
        ledger.pause(reason)
    assert ledger.paused() is None


def test_a_hostile_reason_is_one_harmless_line(ledger):
    ledger.pause("x'); DROP TABLE switches; --\n\x00\x1b[2J\ud800" + "y" * 5000)
    reason = ledger.paused().reason
    assert "\n" not in reason
    assert "\x1b" not in reason
    assert len(reason) <= 500


def test_when_a_pause_returns_no_thread_reserves_any_more(ledger):
    """Threads reserve as fast as they can; at some moment spending is paused. What counts is the commit."""
    paused, one_more = threading.Event(), threading.Semaphore(0)
    too_late = []

    def spend(number):
        made = 0
        while True:
            after = paused.is_set()
            try:
                ledger.reserve(TEN_CENTS, product(f"P{number}-{made}"), Budgets())
            except SpendingPaused:
                return made
            made += 1
            one_more.release()
            if after:
                too_late.append(number)

    with ThreadPoolExecutor(9) as pool:
        spenders = [pool.submit(spend, number) for number in range(8)]
        for _ in range(20):
            one_more.acquire()
        ledger.pause("enough")
        standing = len(ledger.open_reservations())
        paused.set()
        made = sum(spender.result() for spender in spenders)
    assert too_late == []
    assert made == standing == len(ledger.open_reservations()) >= 20
    assert ledger.verify() == ()


def test_a_pause_waits_for_a_reservation_that_is_being_written_and_stops_the_next(url):
    inside, go_on = threading.Event(), threading.Event()

    def hold(_):
        inside.set()
        go_on.wait(120)

    with Ledger.open(url) as buyer, Ledger.open(url) as operator, ThreadPoolExecutor(2) as pool:
        first = pool.submit(buyer.reserve, TEN_CENTS, product("A"), Budgets(), also=hold)
        assert inside.wait(120)
        pausing = pool.submit(operator.pause, "stop")
        assert operator.paused() is None  # the reservation came first
        go_on.set()
        pausing.result(120)
        assert buyer.find(first.result().id) is not None
        with pytest.raises(SpendingPaused):
            buyer.reserve(TEN_CENTS, product("B"), Budgets())


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_server_with_another_default_isolation_stops_spending_just_the_same(postgres_url, level):
    engine = create_engine(parse_url(postgres_url))
    with engine.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"))
    try:
        with Ledger.open(postgres_url) as ledger, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: ledger.reserve(TEN_CENTS, product(f"P{n}"), Budgets()), range(40)))
            ledger.pause("test")
            with pytest.raises(SpendingPaused):
                ledger.reserve(TEN_CENTS, product(), Budgets())
            assert ledger.verify() == ()
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_isolation"))
        engine.dispose()
