"""The ledger on both databases: caps hold, each reservation ends once, sums are what the events say."""

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
from trellis_pipeline.costs.budgets import SCOPES, Budgets, SpendScope
from trellis_pipeline.costs.database import parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import report, totals
from trellis_pipeline.errors import BudgetExceeded, ConfigError, LedgerError

PACKAGE_PARENT = str(Path(trellis_pipeline.__file__).parents[1])
TEN_CENTS = Decimal("0.10")
FIVE_DOLLARS = Budgets(total_usd=Decimal("5.00"))


def product(sku, *, catalog="demo", run_id="run-1", preset="1024", generator="runware"):
    return SpendScope(catalog, sku, run_id, generator, "microsoft:trellis-2@4b", preset, f"key-{sku}")


CHAIR = product("CHAIR-7")


def test_money_set_aside_is_settled_with_the_truth_and_the_rest_is_free_again(ledger):
    budgets = Budgets(total_usd=Decimal(1))
    reservation = ledger.reserve(Decimal("0.064"), CHAIR, budgets)
    assert ledger.headroom(CHAIR, budgets).left == Decimal("0.936")
    ledger.settle(
        reservation, Decimal("0.0314"), source="provider_cost", raw_cost_text="0.0314", seconds=21.5
    )
    assert ledger.headroom(CHAIR, budgets).left == Decimal("0.9686")
    line = totals(ledger)
    assert (line.settled_usd, line.reserved_usd) == (Decimal("0.0314"), 0)
    assert (line.generations, line.seconds) == (1, 21.5)
    assert ledger.verify() == ()


def test_released_money_is_free_again_and_counts_as_no_generation(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    ledger.release(reservation, "rejected by the provider")
    assert ledger.headroom(CHAIR, FIVE_DOLLARS).left == 5
    assert (totals(ledger).settled_usd, totals(ledger).generations) == (0, 0)


@pytest.mark.parametrize("first", ["settle", "release"])
@pytest.mark.parametrize("second", ["settle", "release"])
def test_a_reservation_ends_exactly_once(ledger, first, second):
    def end(how):
        if how == "settle":
            ledger.settle(reservation, Decimal("0.05"), source="provider_cost")
        else:
            ledger.release(reservation, "test")

    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    end(first)
    before = totals(ledger)
    with pytest.raises(LedgerError, match=f"was {first}.*not booked again"):
        end(second)
    assert totals(ledger) == before
    assert ledger.verify() == ()


def test_a_reservation_of_another_ledger_is_not_booked(ledger, tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path}/other.db") as other:
        foreign = other.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    with pytest.raises(LedgerError, match="never made in this ledger"):
        ledger.settle(foreign, TEN_CENTS, source="provider_cost")


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_is_a_wall_and_the_refusal_names_it(ledger, scope):
    budgets = Budgets(**{f"{scope}_usd": Decimal("0.25")})
    ledger.settle(ledger.reserve(TEN_CENTS, CHAIR, budgets), TEN_CENTS, source="provider_cost")
    ledger.reserve(TEN_CENTS, CHAIR, budgets)
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve(TEN_CENTS, CHAIR, budgets)
    message = str(caught.value)
    for part in [f"budget of {scope}", "demo/CHAIR-7", "cap $0.25", "settled $0.10", "reserved $0.10"]:
        assert part in message
    assert "left $0.05" in message
    assert f"{scope}_usd under [budget]" in message
    ledger.reserve(Decimal("0.05"), CHAIR, budgets)  # up to the cap is allowed
    assert ledger.headroom(CHAIR, budgets).left == 0
    assert ledger.verify() == ()


def test_what_belongs_to_another_catalog_run_product_or_day_leaves_room(url):
    now = [datetime(2026, 11, 22, 23, 59, tzinfo=UTC)]
    budgets = Budgets(day_usd=TEN_CENTS, catalog_usd=TEN_CENTS, run_usd=TEN_CENTS, product_usd=TEN_CENTS)
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        first = ledger.reserve(TEN_CENTS, CHAIR, budgets)
        other = product("CHAIR-8", catalog="spring", run_id="run-2")
        with pytest.raises(BudgetExceeded, match="budget of day 2026-11-22"):
            ledger.reserve(TEN_CENTS, other, budgets)
        now[0] += timedelta(minutes=2)
        ledger.reserve(TEN_CENTS, other, budgets)
        # A bill that arrives after midnight belongs to the day that agreed to it.
        ledger.settle(first, TEN_CENTS, source="provider_cost")
        assert {line.key: line.settled_usd for line in report(ledger, "day")} == {
            "2026-11-22": TEN_CENTS,
            "2026-11-23": 0,
        }
        assert ledger.verify() == ()


def test_a_product_and_catalog_are_not_confused_where_names_run_together(ledger):
    budgets = Budgets(product_usd=TEN_CENTS)
    ledger.reserve(TEN_CENTS, product("b", catalog="a-"), budgets)
    ledger.reserve(TEN_CENTS, product("-b", catalog="a"), budgets)


def test_a_cap_lowered_below_what_is_spent_leaves_nothing_rather_than_less(ledger):
    ledger.reserve(Decimal(4), CHAIR, FIVE_DOLLARS)
    lowered = Budgets(total_usd=Decimal(1))
    assert ledger.headroom(CHAIR, lowered).left == 0
    with pytest.raises(BudgetExceeded):
        ledger.reserve(TEN_CENTS, CHAIR, lowered)
    ledger.reserve(Decimal(0), product("draft"), FIVE_DOLLARS)


def test_a_bill_above_the_reservation_is_booked_in_full_and_shown_as_overrun(ledger):
    budgets = Budgets(total_usd=TEN_CENTS)
    reservation = ledger.reserve(TEN_CENTS, CHAIR, budgets)
    ledger.settle(reservation, Decimal("0.15"), source="provider_cost")
    assert totals(ledger).overrun_usd == Decimal("0.05")
    assert ledger.headroom(CHAIR, budgets).left == 0
    with pytest.raises(BudgetExceeded):
        ledger.reserve(Decimal("0.01"), CHAIR, budgets)


def test_a_generation_that_costs_nothing_is_still_on_the_books(ledger):
    draft = product("CHAIR-7", generator="draft", preset="draft")
    ledger.settle(ledger.reserve(Decimal(0), draft, Budgets()), Decimal(0), source="price_list", seconds=2.5)
    (line,) = report(ledger, "generator")
    assert (line.key, line.settled_usd, line.generations, line.seconds) == ("draft", 0, 1, 2.5)


def test_refunds_and_corrections_change_what_is_settled_and_are_events_of_their_own(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    ledger.settle(reservation, TEN_CENTS, source="provider_cost")
    ledger.refund(reservation.id, Decimal("0.04"), "double charge")
    with pytest.raises(LedgerError, match=r"\$0\.06 of it is settled"):
        ledger.refund(reservation.id, Decimal("0.07"), "again")
    ledger.adjust(Decimal("0.01"), CHAIR, "found in the provider's statement")
    ledger.adjust(Decimal("-0.02"), CHAIR, "found in the provider's statement")
    assert totals(ledger).settled_usd == Decimal("0.05")
    assert totals(ledger).generations == 1
    assert ledger.verify() == ()


def test_an_open_reservation_can_be_refunded_by_nobody(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    with pytest.raises(LedgerError, match="cannot be refunded"):
        ledger.refund(reservation.id, Decimal("0.01"), "not even settled")


def test_what_a_killed_run_set_aside_can_be_found_and_ended_by_another_process(url):
    now = [datetime(2026, 11, 22, 12, 0, tzinfo=UTC)]
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        left = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    now[0] += timedelta(hours=1)
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        ledger.reserve(TEN_CENTS, product("CHAIR-8"), FIVE_DOLLARS)
        assert len(ledger.open_reservations()) == 2
        assert ledger.open_reservations(older_than=timedelta(minutes=30)) == (left,)
        assert ledger.find(left.id) == left
        ledger.release(left, "the run died before it submitted")
        assert ledger.find(left.id) is None
        assert len(ledger.open_reservations()) == 1


def test_more_can_be_written_in_the_same_transaction_and_fails_with_it(ledger):
    def note(connection):
        connection.execute(text("CREATE TABLE IF NOT EXISTS notes (line TEXT)"))
        connection.execute(text("INSERT INTO notes VALUES ('bought')"))

    def fail(connection):
        note(connection)
        raise RuntimeError("the journal refused")

    with pytest.raises(RuntimeError, match="journal"):
        ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS, also=fail)
    assert ledger.open_reservations() == ()
    assert ledger.headroom(CHAIR, FIVE_DOLLARS).left == 5
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS, also=note)
    with pytest.raises(RuntimeError, match="journal"):
        ledger.settle(reservation, TEN_CENTS, source="provider_cost", also=fail)
    assert ledger.find(reservation.id) == reservation


@pytest.mark.parametrize(
    "amount", [Decimal("-0.01"), Decimal("NaN"), Decimal("Infinity"), Decimal("1e12"), 0.1]
)
def test_amounts_that_make_no_sense_are_not_booked(ledger, amount):
    with pytest.raises(LedgerError):
        ledger.reserve(amount, CHAIR, Budgets())
    reservation = ledger.reserve(TEN_CENTS, CHAIR, Budgets())
    with pytest.raises(LedgerError):
        ledger.settle(reservation, amount, source="provider_cost")
    assert ledger.find(reservation.id) is not None


def test_an_unknown_source_or_impossible_time_leaves_the_reservation_open(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, Budgets())
    with pytest.raises(LedgerError, match="not a source"):
        ledger.settle(reservation, TEN_CENTS, source="rumour")
    for seconds in [-1.0, float("nan"), float("inf")]:
        with pytest.raises(LedgerError, match="seconds"):
            ledger.settle(reservation, TEN_CENTS, source="provider_cost", seconds=seconds)
    assert ledger.open_reservations() == (reservation,)
    assert ledger.verify() == ()


def test_hostile_text_is_kept_harmless(ledger):
    wild = "x'); DROP TABLE spend_events; --\x00\ud800 Ω" + "y" * 5000
    scope = SpendScope("demo", wild, wild, "runware", wild, wild, wild)
    reservation = ledger.reserve(TEN_CENTS, scope, Budgets())
    ledger.settle(reservation, TEN_CENTS, source="provider_cost", raw_cost_text=wild, cause=wild)
    assert totals(ledger).settled_usd == TEN_CENTS
    assert ledger.verify() == ()


def test_nine_places_are_kept_and_summed_exactly(ledger):
    tiny = Decimal("0.000000001")
    for number in range(30):
        ledger.settle(
            ledger.reserve(tiny, product(f"P{number}"), Budgets()),
            Decimal("0.100000001"),
            source="provider_cost",
        )
    assert totals(ledger).settled_usd == Decimal("3.000000030")
    assert ledger.verify() == ()


def test_reports_group_filter_and_add_up(url):
    now = [datetime(2026, 11, 20, 12, 0, tzinfo=UTC)]
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        for number in range(6):
            scope = product(f"P{number % 2}", catalog=f"c{number % 3}", run_id=f"run-{number // 3}")
            reservation = ledger.reserve(TEN_CENTS, scope, Budgets())
            if number != 5:
                ledger.settle(reservation, Decimal(number) / 100, source="provider_cost", seconds=1)
            now[0] += timedelta(hours=11)
        assert [(line.key, str(line.settled_usd.normalize())) for line in report(ledger, "catalog")] == [
            ("c0", "0.03"),
            ("c1", "0.05"),
            ("c2", "0.02"),
        ]
        assert [line.key for line in report(ledger, "product")] == [
            "c0/P0",
            "c0/P1",
            "c1/P0",
            "c1/P1",
            "c2/P0",
            "c2/P1",
        ]
        assert [line.key for line in report(ledger, "run")] == ["run-0", "run-1"]
        days = report(ledger, "day")
        assert [line.key for line in days] == ["2026-11-20", "2026-11-21", "2026-11-22"]
        second = datetime(2026, 11, 21, tzinfo=UTC).date()
        assert totals(ledger, since=second, until=second).settled_usd == days[1].settled_usd
        assert len(report(ledger, "day", since=second)) == 2
        assert len(report(ledger, "day", until=second)) == 2
        for by in ["catalog", "day", "generator", "product", "run"]:
            lines = report(ledger, by)
            assert sum(line.settled_usd for line in lines) == totals(ledger).settled_usd == TEN_CENTS
            assert sum(line.reserved_usd for line in lines) == totals(ledger).reserved_usd == TEN_CENTS
        with pytest.raises(ConfigError, match="cannot be reported by 'moon'"):
            report(ledger, "moon")


def test_an_empty_ledger_reports_nothing_and_zero(ledger):
    assert report(ledger, "catalog") == ()
    assert (totals(ledger).settled_usd, totals(ledger).generations) == (0, 0)
    assert ledger.percentile("runware", "1024", 0.95) is None
    assert ledger.verify() == ()
    ledger.rebuild()
    assert ledger.verify() == ()


# -- many at once ------------------------------------------------------------------------------------------


def test_of_a_thousand_threads_with_ten_cents_exactly_fifty_fit_into_five_dollars(ledger):
    """All thousand are alive before the first may go, and each writes a row of its own, like an intent."""
    gate = threading.Barrier(1000)
    with ledger.writing() as connection:
        connection.execute(text("CREATE TABLE intended (name TEXT PRIMARY KEY)"))
    made = []

    def attempt(number):
        note = text("INSERT INTO intended VALUES (:name)").bindparams(name=f"P{number}")
        gate.wait()
        try:
            made.append(
                ledger.reserve(
                    TEN_CENTS,
                    product(f"P{number}"),
                    FIVE_DOLLARS,
                    also=lambda connection: connection.execute(note),
                )
            )
        except BudgetExceeded:
            refused.append(number)

    refused = []
    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (50, 950)
    assert totals(ledger).reserved_usd == 5
    with ledger.reading() as connection:
        intended = set(connection.execute(text("SELECT name FROM intended")).scalars())
    assert intended == {reservation.scope.sku for reservation in made}
    assert ledger.verify() == ()


EIGHT_PROCESSES = """
import os, sys
from decimal import Decimal
import alembic.command, alembic.config  # loaded before the fork, so that all eight arrive together
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import BudgetExceeded

def attempts(process):
    made = 0
    with Ledger.open(sys.argv[1]) as ledger:
        for number in range(125):
            scope = SpendScope("demo", f"{process}-{number}", "run", "runware", "m", "1024", "k")
            try:
                ledger.reserve(Decimal("0.10"), scope, Budgets(total_usd=Decimal("5.00")))
                made += 1
            except BudgetExceeded:
                pass
    return made

gate, opener = os.pipe()
children = []
for process in range(8):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(opener)
            os.read(gate, 1)  # returns when the parent closes the other end
            code = attempts(process)
        finally:
            os._exit(code)
    children.append(child)
os.close(opener)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_of_eight_processes_that_open_a_new_ledger_at_once_exactly_fifty_attempts_fit(url):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EIGHT_PROCESSES, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=PACKAGE_PARENT,
    )
    made = [int(count) for count in done.stdout.split()]
    assert len(made) == 8, done.stderr
    assert max(made) <= 50, done.stderr
    assert sum(made) == 50
    with Ledger.open(url) as ledger:
        assert totals(ledger).reserved_usd == 5
        assert ledger.verify() == ()


def test_of_many_threads_ending_one_reservation_one_succeeds(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)

    def end(number):
        try:
            if number % 2:
                ledger.settle(reservation, TEN_CENTS, source="provider_cost")
            else:
                ledger.release(reservation, "test")
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(end, range(8))) == 1
    assert ledger.verify() == ()


def test_threads_refunding_one_generation_never_give_back_more_than_it_cost(ledger):
    reservation = ledger.reserve(TEN_CENTS, CHAIR, FIVE_DOLLARS)
    ledger.settle(reservation, TEN_CENTS, source="provider_cost")

    def refund(_):
        try:
            ledger.refund(reservation.id, Decimal("0.03"), "test")
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(refund, range(8))) == 3
    assert totals(ledger).settled_usd == Decimal("0.01")


def test_reports_are_read_while_others_write(ledger):
    def work(number):
        reservation = ledger.reserve(TEN_CENTS, product(f"P{number}"), Budgets())
        assert ledger.verify() == ()  # every state that can be seen is consistent
        ledger.settle(reservation, TEN_CENTS, source="provider_cost")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert totals(ledger).settled_usd == 4


# -- the events stay ---------------------------------------------------------------------------------------


STATEMENTS = [
    "UPDATE spend_events SET amount = 0",
    "UPDATE spend_events SET cause = 'nothing to see'",
    "DELETE FROM spend_events",
]
NEW_ROW = (
    "SELECT 99, 'new', ts, day, kind, reservation_id, 0, 0, 0, currency, source, price_book_version,"
    " generator, model, catalog, sku, preset, run_id, attempt, request_key, raw_cost_text, seconds, cause"
    " FROM spend_events"
)
SQLITE_STATEMENTS = [
    "INSERT OR REPLACE INTO spend_events SELECT * FROM spend_events",
    "REPLACE INTO spend_events SELECT * FROM spend_events WHERE kind = 'settle'",
    f"REPLACE INTO spend_events {NEW_ROW} WHERE kind = 'settle'",
    f"REPLACE INTO spend_events {NEW_ROW} WHERE kind = 'reserve' LIMIT 1",
]


def test_the_database_itself_refuses_to_change_or_remove_events(url):
    with Ledger.open(url) as ledger:
        ledger.settle(ledger.reserve(TEN_CENTS, CHAIR, Budgets()), TEN_CENTS, source="provider_cost")
        ledger.release(ledger.reserve(TEN_CENTS, CHAIR, Budgets()), "test")
        before = totals(ledger)
    engine = create_engine(parse_url(url))
    more = SQLITE_STATEMENTS if engine.dialect.name == "sqlite" else ["TRUNCATE spend_events"]
    for statement in STATEMENTS + more:
        with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()
    with Ledger.open(url) as ledger:
        assert totals(ledger) == before


def test_totals_that_somebody_changed_are_noticed_and_can_be_made_again(url):
    with Ledger.open(url) as ledger:
        ledger.settle(ledger.reserve(TEN_CENTS, CHAIR, Budgets()), TEN_CENTS, source="provider_cost")
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())
        engine = create_engine(parse_url(url))
        with engine.begin() as connection:
            connection.execute(text("UPDATE scope_totals SET settled = 0 WHERE scope = 'day'"))
            connection.execute(text("INSERT INTO scope_totals VALUES ('run', 'ghost', 1, 0)"))
            connection.execute(text("DELETE FROM scope_totals WHERE scope = 'product'"))
        engine.dispose()
        assert {(found.scope, found.key) for found in ledger.verify()} == {
            ("day", f"{datetime.now(UTC):%Y-%m-%d}"),
            ("run", "ghost"),
            ("product", "demo/CHAIR-7"),
        }
        ledger.rebuild()
        assert ledger.verify() == ()
        assert ledger.headroom(CHAIR, FIVE_DOLLARS).left == Decimal("4.80")
