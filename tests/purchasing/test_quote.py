"""The quote's arithmetic: counts add up, nothing found costs anything, and the range holds in practice."""

import random
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis_pipeline.costs.budgets import ScopeState
from trellis_pipeline.costs.estimates import Estimate
from trellis_pipeline.costs.history import quantile
from trellis_pipeline.purchasing.quote import (
    STANDINGS,
    Planned,
    PresetLine,
    Terms,
    advice,
    hours,
    make_quote,
    sum_of,
)

PRESETS = ("1024", "1536", "512")
ZERO = Decimal(0)
NO_SCOPES = ()


def listed(price="0.0256"):
    """Terms of a preset without history."""
    usd = Decimal(price)
    return Terms(Estimate(usd * 5 / 2, usd, usd * 5 / 2, "list_price", 0, "book"), (), 17.0, "published")


def learned(costs, seconds=10.0):
    """Terms of a preset with history."""
    costs = tuple(costs)
    high = quantile(costs, 0.95)
    return Terms(
        Estimate(high, quantile(costs, 0.5), high, "history", len(costs), "book"), costs, seconds, "history"
    )


def total(usd, settled="0", reserved="0"):
    return ScopeState("total", "", Decimal(usd), Decimal(settled), Decimal(reserved))


def new(count, preset="1024"):
    return [Planned(f"{preset}-{number}", "new", preset) for number in range(count)]


amounts = st.decimals(min_value="0.0001", max_value="2", places=4)
terms = st.one_of(amounts.map(listed), st.lists(amounts, min_size=20, max_size=40).map(learned))
products = st.lists(
    st.builds(Planned, st.text("AB12", min_size=1), st.sampled_from(STANDINGS), st.sampled_from(PRESETS)),
    max_size=60,
)


@given(products, st.fixed_dictionaries(dict.fromkeys(PRESETS, terms)), st.integers(1, 20))
def test_counts_add_up_and_the_expected_cost_is_within_the_range(chosen, prices, at_once):
    quote = make_quote(chosen, prices, NO_SCOPES, at_once)
    assert sum(quote.counts.values()) == len(chosen)
    assert quote.purchases == quote.counts["new"]
    assert ZERO <= quote.cost.expected <= quote.cost.high <= quote.needed
    assert quote.reserved_at_once <= sum(
        (prices[product.preset].estimate.reserve for product in chosen if product.standing == "new"), ZERO
    )


@given(
    products,
    st.lists(st.tuples(st.sampled_from(STANDINGS), st.sampled_from(PRESETS)), min_size=1, max_size=5),
    st.fixed_dictionaries(dict.fromkeys(PRESETS, terms)),
    st.integers(1, 20),
)
def test_more_products_never_make_a_quote_cheaper(chosen, more, prices, at_once):
    before = make_quote(chosen, prices, NO_SCOPES, at_once)
    added = [Planned(f"more-{number}", standing, preset) for number, (standing, preset) in enumerate(more)]
    after = make_quote([*chosen, *added], prices, NO_SCOPES, at_once)
    assert after.cost.expected >= before.cost.expected
    assert after.cost.high >= before.cost.high
    assert after.needed >= before.needed
    assert after.hours >= before.hours


@given(products, st.fixed_dictionaries(dict.fromkeys(PRESETS, terms)))
def test_what_is_not_new_costs_nothing(chosen, prices):
    rest = [product for product in chosen if product.standing != "new"]
    quote = make_quote(rest, prices, [total("0.01")], 4)
    assert (quote.cost.expected, quote.cost.high, quote.needed, quote.hours) == (0, 0, 0, 0)
    assert quote.fits


@pytest.mark.parametrize("purchases", [1, 3, 30, 300])
@pytest.mark.parametrize("samples", [20, 100, 500])
def test_ninety_five_of_a_hundred_backfills_cost_no_more_than_p95(purchases, samples):
    # Skewed, as costs by processing time are: most near $0.03, a few three times that. Each trial learns from
    # a history of its own, because a short history is itself the larger risk.
    chance = random.Random(purchases * 1000 + samples)

    def cost():
        return 0.03 * chance.lognormvariate(0, 0.4)

    trials, kept = 200, 0
    for _ in range(trials):
        line = PresetLine("1024", purchases, learned(Decimal(f"{cost():.6f}") for _ in range(samples)))
        kept += sum(cost() for _ in range(purchases)) <= sum_of([line]).high
    assert kept / trials >= (0.84 if samples == 20 else 0.9)


def test_a_large_backfill_is_quoted_lower_than_its_purchases_one_by_one():
    chance = random.Random(1)
    costs = [Decimal(f"{0.03 * chance.lognormvariate(0, 0.4):.6f}") for _ in range(200)]
    line = PresetLine("1024", 1000, learned(costs))
    assert sum_of([line]).expected < sum_of([line]).high < 1000 * line.terms.estimate.high * Decimal("0.75")


def test_without_history_the_range_is_list_price_to_two_and_a_half_times_of_it():
    quote = make_quote(new(100), {"1024": listed()}, NO_SCOPES, 8)
    assert quote.cost.expected == Decimal("2.56")
    assert quote.cost.high == quote.needed == Decimal("6.40")
    assert quote.reserved_at_once == Decimal("0.512")


def test_a_constant_cost_leaves_no_range():
    quote = make_quote(new(50), {"1024": learned([Decimal("0.04")] * 20)}, NO_SCOPES, 8)
    assert quote.cost.expected == quote.cost.high == Decimal(2)


def test_room_is_needed_for_the_last_reservations_too():
    costs = [Decimal("0.02")] * 10 + [Decimal("0.06")] * 10
    quote = make_quote(new(1000), {"1024": learned(costs)}, [total(100)], 8)
    surplus = Decimal("0.06") - Decimal("0.02")
    assert quote.needed == quote.cost.high + 8 * surplus
    alone = make_quote(new(1), {"1024": learned(costs)}, [total(100)], 8)
    assert alone.needed == Decimal("0.06")


def test_over_budget_says_which_scope_and_by_how_much():
    prices = {"1024": listed()}
    scopes = [
        total("10", settled="1", reserved="2.6"),
        ScopeState("day", "2026-01-02", Decimal(2), ZERO, ZERO),
    ]
    quote = make_quote(new(100), prices, scopes, 8)
    over = {scope.state.scope: scope.over for scope in quote.scopes}
    assert over == {"total": ZERO, "day": Decimal("4.4")}
    assert not quote.fits
    (text,) = [advice(scope) for scope in quote.scopes if scope.over]
    assert "day 2026-01-02: $2.00 left of $2.00, $6.40 needed, $4.40 short" in text
    assert "about 4 days" in text
    assert "day_usd" in text


def test_a_cap_that_is_met_exactly_fits():
    assert make_quote(new(100), {"1024": listed()}, [total("6.4")], 8).fits
    assert not make_quote(new(100), {"1024": listed()}, [total("6.399999999")], 8).fits


def test_a_product_whose_own_budget_is_used_up_is_named():
    prices = {"1024": listed()}
    chosen = [
        replace(product, product_left=left)
        for product, left in zip(new(3), map(Decimal, ("0.5", "0.01", "0.06")), strict=True)
    ]
    scopes = [ScopeState("product", "shop/", Decimal("0.5"), ZERO, ZERO)]
    (scope,) = make_quote(chosen, prices, scopes, 8).scopes
    assert (scope.products, scope.over) == (2, Decimal("0.054"))
    assert "1024-1 has $0.01 left" in advice(scope)


def test_savings_count_what_is_there_and_what_triage_holds_back():
    chosen = [
        Planned("A", "cached", "1024"),
        Planned("B", "shared", "1024"),
        Planned("C", "held", "1024"),
        Planned("D", "failed"),
    ]
    savings = make_quote(chosen, {"1024": listed("0.02")}, NO_SCOPES, 8).savings
    assert (savings.cached, savings.held) == (Decimal("0.04"), Decimal("0.02"))


def test_a_refusal_matters_only_where_something_would_be_bought():
    cached = [Planned("A", "cached", "1024")]
    assert make_quote(cached, {"1024": listed()}, NO_SCOPES, 8, "no budget").fits
    assert not make_quote(new(1), {"1024": listed()}, NO_SCOPES, 8, "no budget").fits


def test_hours_count_generations_side_by_side_and_are_unknown_with_one_unknown_preset():
    line = PresetLine("1024", 360, learned([Decimal("0.02")] * 20, seconds=20.0))
    assert hours([line], 8) == pytest.approx(0.25)
    assert hours([replace(line, purchases=1)], 8) == pytest.approx(20 / 3600)
    assert hours([line, PresetLine("512", 1, replace(listed(), seconds=None))], 8) is None
    assert hours([], 8) == 0
