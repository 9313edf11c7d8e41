"""The price book: known prices by date, and a refusal for everything else."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.estimates import MIN_SAMPLES, duration_estimate, reservation_estimate
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.price_book import load_price_book
from trellis_pipeline.costs.reports import report
from trellis_pipeline.errors import ConfigError

TRELLIS = "microsoft:trellis-2@4b"
TODAY = date(2026, 11, 22)

ENTRY = """
[[price]]
generator = "runware"
model = "m"
unit = "generation"
usd = "0.02"
effective_from = 2026-01-01
source = "test"
"""


@pytest.fixture
def book():
    return load_price_book()


@pytest.fixture
def sqlite_ledger(sqlite_url):
    with Ledger.open(sqlite_url) as ledger:
        yield ledger


def settle(ledger, *amounts, preset="1024", source="provider_cost", seconds=0.0):
    for number, amount in enumerate(amounts):
        scope = SpendScope("demo", f"P{number}", "run", "runware", TRELLIS, preset, f"key{number}")
        ledger.settle(
            ledger.reserve(Decimal(1), scope, Budgets()), Decimal(amount), source=source, seconds=seconds
        )


def estimate(ledger, book, **changes):
    wanted = {"generator": "runware", "model": TRELLIS, "preset": "1024", "resolution": 1024, "on": TODAY}
    return reservation_estimate(ledger, book, **(wanted | changes))


def test_the_packaged_book_knows_the_listed_price_and_that_drafts_are_free(book):
    quote = book.find("runware", TRELLIS, 1024, TODAY)
    assert (quote.price.usd, quote.exact, quote.price.unit) == (Decimal("0.0256"), True, "generation")
    assert book.find("draft", "draft", None, TODAY).price.usd == 0


def test_a_resolution_that_is_not_listed_borrows_the_listed_price_and_says_so(book):
    quote = book.find("runware", TRELLIS, 1536, TODAY)
    assert (quote.price.usd, quote.exact) == (Decimal("0.0256"), False)


@pytest.mark.parametrize(
    ("generator", "model", "on"),
    [("local", TRELLIS, TODAY), ("runware", "other:model@1", TODAY), ("runware", TRELLIS, date(2020, 1, 1))],
)
def test_a_missing_price_is_refused_and_never_zero(book, generator, model, on):
    with pytest.raises(ConfigError, match="never taken as 0"):
        book.find(generator, model, 1024, on)


def test_a_later_price_holds_from_its_own_day_on():
    text = ENTRY + ENTRY.replace("0.02", "0.03").replace("2026-01-01", "2026-06-01")
    book = load_price_book(text)
    assert book.find("runware", "m", None, date(2026, 5, 31)).price.usd == Decimal("0.02")
    assert book.find("runware", "m", None, date(2026, 6, 1)).price.usd == Decimal("0.03")


def test_an_edited_book_has_another_version(book):
    assert load_price_book(ENTRY).version != load_price_book(ENTRY.replace("0.02", "0.03")).version
    assert book.with_gpu_second("local", Decimal("0.0005")).version != book.version


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('usd = "0.02"', "usd = 0.02", "entry 1: usd must be given as text"),
        ('usd = "0.02"', 'usd = "-1"', "entry 1: usd"),
        ('usd = "0.02"', 'usd = "NaN"', "entry 1: usd"),
        ('usd = "0.02"', "", "entry 1: usd"),
        ('unit = "generation"', 'unit = "week"', "entry 1: unit"),
        (
            "effective_from = 2026-01-01",
            'effective_from = "soon"',
            "entry 1: effective_from must be given as a date",
        ),
        ('source = "test"', 'source = "test"\nresolution = "big"', "entry 1: resolution"),
        ('source = "test"', 'source = "test"\nprize = 1', "entry 1: unknown key 'prize'"),
        ("[[price]]", "[[price]", "not valid TOML"),
        ("[[price]]", "[[cost]]", "no .*entries"),
    ],
)
def test_a_wrong_entry_is_named(old, new, words):
    with pytest.raises(ConfigError, match=words):
        load_price_book(ENTRY.replace(old, new))


def test_without_history_two_and_a_half_times_the_list_price_is_set_aside(sqlite_ledger, book):
    found = estimate(sqlite_ledger, book)
    assert (found.reserve, found.likely, found.basis) == (Decimal("0.064"), Decimal("0.0256"), "list_price")
    assert found.price_book_version == book.version


def test_with_enough_history_its_95th_percentile_is_set_aside(sqlite_ledger, book):
    settle(sqlite_ledger, *(f"0.{cents:02}" for cents in range(1, MIN_SAMPLES)))
    assert estimate(sqlite_ledger, book).basis == "list_price"
    settle(sqlite_ledger, "0.20")
    found = estimate(sqlite_ledger, book)
    assert (found.reserve, found.likely, found.samples) == (Decimal("0.19"), Decimal("0.10"), 20)
    assert estimate(sqlite_ledger, book, preset="1536").basis == "list_price"


def test_the_ledger_does_not_learn_from_its_own_guesses(sqlite_ledger, book):
    settle(sqlite_ledger, *["0.99"] * 30, source="estimate")
    assert sqlite_ledger.percentile("runware", "1024", 0.95) is None
    assert estimate(sqlite_ledger, book).basis == "list_price"


def test_percentiles_are_amounts_that_did_occur(sqlite_ledger):
    settle(sqlite_ledger, "0.03", "0.01", "0.02", "0.04")
    found = [sqlite_ledger.percentile("runware", "1024", q) for q in (0, 0.25, 0.5, 0.51, 0.95, 1)]
    assert found == [Decimal(text) for text in ("0.01", "0.01", "0.02", "0.03", "0.04", "0.04")]


def test_a_draft_is_free_without_any_history(sqlite_ledger, book):
    found = estimate(sqlite_ledger, book, generator="draft", model="draft", resolution=None)
    assert (found.reserve, found.basis) == (0, "free")


def test_the_users_gpu_is_priced_by_its_seconds(sqlite_ledger, book):
    own = book.with_gpu_second("local", Decimal("0.0005"))
    found = estimate(sqlite_ledger, own, generator="local", expected_seconds=17)
    assert (found.likely, found.reserve) == (Decimal("0.0085"), Decimal("0.02125"))
    with pytest.raises(ConfigError, match="expected_seconds"):
        estimate(sqlite_ledger, own, generator="local")


def test_a_provider_that_charged_nothing_for_a_while_does_not_take_the_wall_down(sqlite_ledger, book):
    settle(sqlite_ledger, *["0"] * MIN_SAMPLES)
    assert sqlite_ledger.history("runware", "1024") == ()
    assert estimate(sqlite_ledger, book).reserve == Decimal("0.064")


def test_however_cheap_the_history_no_less_than_the_list_price_of_every_result_is_set_aside(
    sqlite_ledger, book
):
    settle(sqlite_ledger, *["0.0001"] * MIN_SAMPLES)
    found = estimate(sqlite_ledger, book)
    assert (found.reserve, found.high, found.basis) == (Decimal("0.0256"), Decimal("0.0001"), "history")
    four = estimate(sqlite_ledger, book, preset="1024/x4", results=4, single_preset="1024")
    assert four.reserve == Decimal("0.1024")


def test_broken_off_work_says_nothing_about_what_a_model_costs_or_how_long_it_takes(sqlite_ledger, book):
    own = book.with_gpu_second("runware", Decimal("0.001"))
    for number in range(MIN_SAMPLES):
        scope = SpendScope("demo", f"P{number}", "run", "runware", TRELLIS, "1024", f"key{number}")
        money = sqlite_ledger.reserve(Decimal(1), scope, Budgets())
        sqlite_ledger.settle(money, Decimal("0.0001"), source="gpu_time", cause="Interrupted", seconds=0.1)
    assert sqlite_ledger.seconds_history("runware", "1024") == ()
    found = estimate(sqlite_ledger, own, expected_seconds=20)
    assert (found.reserve, found.basis) == (Decimal("0.05"), "list_price")


def test_longer_sampling_than_the_listed_examples_sets_more_aside_before_there_is_history(
    sqlite_ledger, book
):
    assert estimate(sqlite_ledger, book, steps=32).reserve == Decimal("0.064")
    assert estimate(sqlite_ledger, book, steps=50).reserve == Decimal("0.1")


# -- several results, short history, durations -------------------------------------------------------------


def test_several_results_without_history_reserve_the_list_price_of_each(sqlite_ledger, book):
    found = estimate(sqlite_ledger, book, preset="1024/x4", results=4, single_preset="1024")
    assert (found.reserve, found.likely, found.basis) == (Decimal("0.256"), Decimal("0.1024"), "list_price")


def test_several_results_go_by_single_ones_until_they_have_a_history_of_their_own(sqlite_ledger, book):
    wanted = {"preset": "1024/x4", "results": 4, "single_preset": "1024"}
    settle(sqlite_ledger, *["0.03"] * 19, "0.05", preset="1024")
    found = estimate(sqlite_ledger, book, **wanted)
    assert (found.reserve, found.likely, found.samples) == (Decimal("0.12"), Decimal("0.12"), 20)
    assert found.basis == "history"
    settle(sqlite_ledger, *["0.11"] * 20, preset="1024/x4")
    found = estimate(sqlite_ledger, book, **wanted)
    assert (found.reserve, found.likely, found.samples) == (Decimal("0.11"), Decimal("0.11"), 20)


def test_a_single_result_does_not_learn_from_purchases_of_several(sqlite_ledger, book):
    settle(sqlite_ledger, *["0.20"] * 20, preset="1024/x4")
    assert estimate(sqlite_ledger, book).reserve == Decimal("0.064")


@pytest.mark.parametrize("resolution", [512, 1024, 1536])
def test_the_providers_dearest_example_fits_into_the_first_reservation_of_any_resolution(
    sqlite_ledger, book, resolution
):
    found = estimate(sqlite_ledger, book, preset=str(resolution), resolution=resolution)
    assert found.reserve >= Decimal("0.055")


def test_a_short_history_never_reserves_less_than_its_dearest_purchase(sqlite_ledger, book):
    settle(sqlite_ledger, "0.01", "0.11")
    found = estimate(sqlite_ledger, book)
    assert (found.reserve, found.basis, found.samples) == (Decimal("0.11"), "list_price", 2)
    four = estimate(sqlite_ledger, book, preset="1024/x4", results=4, single_preset="1024")
    assert four.reserve == Decimal("0.44")


def test_durations_come_from_history_whatever_the_price_was_from(sqlite_ledger):
    assert duration_estimate(sqlite_ledger, generator="runware", preset="1024") is None
    for seconds in range(1, 21):
        source = "estimate" if seconds % 2 else "provider_cost"
        settle(sqlite_ledger, "0.03", seconds=float(seconds), source=source)
    settle(sqlite_ledger, "0.03")  # states no time
    found = duration_estimate(sqlite_ledger, generator="runware", preset="1024")
    assert (found.likely, found.high, found.samples) == (10.0, 19.0, 20)
    assert sqlite_ledger.seconds_history("runware", "1024")[:2] == (20.0, 19.0)


def test_a_price_that_nobody_named_is_settled_as_an_estimate_with_its_cause(sqlite_ledger):
    scope = SpendScope("demo", "P", "run", "runware", TRELLIS, "1024", "key")
    reservation = sqlite_ledger.reserve(Decimal("0.064"), scope, Budgets())
    sqlite_ledger.settle(
        reservation, reservation.amount, source="estimate", cause="the provider named no price", seconds=12.0
    )
    (line,) = report(sqlite_ledger, "product")
    assert (line.settled_usd, line.overrun_usd) == (Decimal("0.064"), 0)
    assert sqlite_ledger.history("runware", "1024") == ()  # it does not teach what things cost
    assert sqlite_ledger.seconds_history("runware", "1024") == (12.0,)
