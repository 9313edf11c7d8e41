"""A quote: what a backfill will cost and how long it takes, and whether the budgets have room for it.

Adding up the 95th percentiles of a thousand generations gives a figure that is never reached: dear ones and
cheap ones even out. What does not even out is that the history may be off as a whole, and the more is bought
on a short history, the more that matters. So a quote states the 95th percentile of the sum:

    n purchases of a preset with k settled costs of mean m and variance v (of the sample, divisor k - 1):
    expected n·m, variance n·v from purchase to purchase, and n²·v/k because m itself is only estimated.

Presets are independent, so their expectations and variances add up; the sum is taken as normal, which holds
for a few dozen purchases whatever one of them looks like. Without a history there is nothing to even out:
every purchase is then expected at its list price, and the 95th percentile of the sum is what is set aside for
all of them together.

Nothing here touches a ledger or a store: `standing` looks things up, this module counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from trellis_pipeline.costs.budgets import ScopeState
from trellis_pipeline.costs.estimates import Estimate
from trellis_pipeline.costs.money import NANO, ZERO, format_usd

Standing = Literal["new", "shared", "cached", "in_flight", "held", "failed"]
"""new: will be bought. shared: another product of the quote asks for the very same model, bought once.

cached: bought already. in_flight: asked for, and its money stands reserved. held: triage holds it back.
failed: nothing can be ordered for it.
"""
STANDINGS: tuple[Standing, ...] = ("new", "shared", "cached", "in_flight", "held", "failed")

# 95th percentile of the standard normal distribution.
Z95 = Decimal("1.6448536269514722")


@dataclass(frozen=True, slots=True)
class Planned:
    """One product of the quote. preset: what decides its price, "" for a failed one. reason: of its standing.

    flags: triage's. request_key: of the generation that answers it. product_left: USD that its own budget
    still allows, None without such a cap.
    """

    sku: str
    standing: Standing
    preset: str = ""
    reason: str = ""
    flags: tuple[str, ...] = ()
    request_key: str = ""
    product_left: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What one purchase of a preset costs and takes.

    costs: the settled ones that `estimate` stands on; empty where it stands on a list price. seconds: of one
    generation, None where nobody knows. seconds_basis: where they are from.
    """

    estimate: Estimate
    costs: tuple[Decimal, ...] = ()
    seconds: float | None = None
    seconds_basis: Literal["history", "published", "unknown"] = "unknown"


@dataclass(frozen=True, slots=True)
class PresetLine:
    """How much of the quote falls to one preset. purchases: how many will be bought."""

    preset: str
    purchases: int
    terms: Terms


@dataclass(frozen=True, slots=True)
class Sum:
    """USD for many purchases. expected: the middle. high: 95 of 100 such backfills cost no more."""

    expected: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True)
class ScopeQuote:
    """One budget and what the backfill asks of it, in USD. over: by how much that is too much.

    products: for the budget of each product, how many of them have no room.
    """

    state: ScopeState
    needed: Decimal
    over: Decimal
    products: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """USD that are expected not to be spent: on what is there already, and on what triage holds back."""

    cached: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """What will be bought, for how much, and where it would hit a budget.

    at_once: how many generations run side by side. reserved_at_once: USD that these set aside. needed: USD
    of room that the budgets need, see `needed_room`. hours: of generation, None where the time of a preset
    is not known. refusal: why a run would buy nothing at all, whatever the figures.
    """

    products: tuple[Planned, ...]
    presets: tuple[PresetLine, ...]
    cost: Sum
    reserved_at_once: Decimal
    needed: Decimal
    scopes: tuple[ScopeQuote, ...]
    at_once: int
    hours: float | None
    savings: Savings
    refusal: str | None = None

    @property
    def counts(self) -> dict[Standing, int]:
        """How many products stand where."""
        found = Counter(product.standing for product in self.products)
        return {standing: found[standing] for standing in STANDINGS}

    @property
    def purchases(self) -> int:
        """How many generations will be made."""
        return sum(line.purchases for line in self.presets)

    @property
    def fits(self) -> bool:
        """Whether a run may buy all of it."""
        return self.refusal is None and not any(scope.over for scope in self.scopes)


def make_quote(
    products: Iterable[Planned],
    terms: Mapping[str, Terms],
    scopes: Sequence[ScopeState],
    at_once: int,
    refusal: str | None = None,
) -> Quote:
    """Put a quote together.

    terms: for every preset of a product that did not fail. scopes: total, day, catalog and run as they stand;
    the budget of each product is in `Planned.product_left`, its cap among `scopes` as the scope `product`.
    refusal: holds only where anything would be bought.
    """
    kept = tuple(products)
    lines = _lines(kept, terms)
    cost = sum_of(lines)
    needed = needed_room(lines, cost, at_once)
    return Quote(
        products=kept,
        presets=lines,
        cost=cost,
        reserved_at_once=_dearest(lines, at_once, lambda estimate: estimate.reserve),
        needed=needed,
        scopes=tuple(
            _product_scope(state, kept, terms) if state.scope == "product" else _scope(state, needed)
            for state in scopes
        ),
        at_once=at_once,
        hours=hours(lines, at_once),
        savings=Savings(_likely(kept, terms, {"cached", "shared"}), _likely(kept, terms, {"held"})),
        refusal=refusal if lines else None,
    )


def sum_of(lines: Iterable[PresetLine]) -> Sum:
    """Expected cost and 95th percentile of everything these lines buy; see the module for how."""
    expected = variance = listed = listed_high = most = ZERO
    for line in lines:
        n, costs = line.purchases, line.terms.costs
        if len(costs) < 2:
            listed += n * line.terms.estimate.likely
            listed_high += n * line.terms.estimate.high
            continue
        k = len(costs)
        mean = sum(costs, ZERO) / k
        spread = sum(((cost - mean) ** 2 for cost in costs), ZERO) / (k - 1)
        expected += n * mean
        variance += spread * n + spread * n * n / k
        most += n * max(costs)
    # Few purchases of much the same cost: the normal distribution would go beyond the dearest ever seen.
    high = min(expected + Z95 * variance.sqrt(), most)
    return Sum(
        (listed + expected).quantize(NANO),
        (listed_high + high).quantize(NANO, rounding=ROUND_CEILING),
    )


def needed_room(lines: Sequence[PresetLine], cost: Sum, at_once: int) -> Decimal:
    """USD that a budget must have left so that its wall is not hit before the last purchase.

    The last purchases of a run are still reservations when they have to fit, and a reservation is larger than
    the bill that follows. So this is the 95th percentile of the sum plus that surplus for as many as run side
    by side; but no more than setting everything aside at once would take.
    """
    surplus = _dearest(lines, at_once, lambda estimate: max(ZERO, estimate.reserve - estimate.likely))
    everything = sum((line.purchases * line.terms.estimate.reserve for line in lines), ZERO)
    return max(cost.high, min(everything, cost.high + surplus))


def hours(lines: Sequence[PresetLine], at_once: int) -> float | None:
    """Hours of generation with `at_once` side by side; None if a preset's time is not known."""
    times = [(line.purchases, line.terms.seconds) for line in lines]
    if any(seconds is None for _, seconds in times):
        return None
    known = [(count, seconds) for count, seconds in times if seconds is not None]
    total = sum(count * seconds for count, seconds in known)
    return max(total / at_once, max((seconds for _, seconds in known), default=0.0)) / 3600


def advice(scope: ScopeQuote) -> str:
    """Which budget is too small, by how much, and what to do."""
    state = scope.state
    cap, left = format_usd(state.cap or ZERO), format_usd(state.left or ZERO)
    if state.scope == "product":
        return (
            f"{scope.products} products have no room in product_usd ({cap}): a purchase sets "
            f"{format_usd(scope.needed)} aside, {state.key} has {left} left; raise it under [budget]"
        )
    name = f"{state.scope} {state.key}" if state.key and state.scope != "run" else state.scope
    text = f"{name}: {left} left of {cap}, {format_usd(scope.needed)} needed, {format_usd(scope.over)} short"
    if state.scope == "run":
        return f"{text}; raise --budget or run_usd under [budget]"
    if state.scope == "day" and state.cap:
        days = (scope.needed / state.cap).to_integral_value(rounding=ROUND_CEILING)
        return f"{text}; it takes about {days} days with this cap, or raise day_usd under [budget]"
    return f"{text}; raise {state.scope}_usd under [budget]"


def _lines(products: Sequence[Planned], terms: Mapping[str, Terms]) -> tuple[PresetLine, ...]:
    bought = Counter(product.preset for product in products if product.standing == "new")
    return tuple(PresetLine(preset, count, terms[preset]) for preset, count in sorted(bought.items()))


def _dearest(lines: Sequence[PresetLine], at_once: int, figure: Callable[[Estimate], Decimal]) -> Decimal:
    """The sum of `figure` over the `at_once` purchases for which it is largest."""
    total, places = ZERO, at_once
    for line in sorted(lines, key=lambda line: figure(line.terms.estimate), reverse=True):
        taken = min(places, line.purchases)
        total += taken * figure(line.terms.estimate)
        places -= taken
    return total


def _scope(state: ScopeState, needed: Decimal) -> ScopeQuote:
    over = ZERO if state.left is None else max(ZERO, needed - state.left)
    return ScopeQuote(state, needed, over)


def _product_scope(state: ScopeState, products: Sequence[Planned], terms: Mapping[str, Terms]) -> ScopeQuote:
    """The budget of each product: the one with the least room stands for all."""
    tightest = ScopeQuote(state, ZERO, ZERO)
    short = 0
    for product in products:
        if product.standing != "new" or product.product_left is None or state.cap is None:
            continue
        reserve = terms[product.preset].estimate.reserve
        over = max(ZERO, reserve - product.product_left)
        short += over > 0
        if over > tightest.over or not tightest.state.key:
            used = ScopeState("product", product.sku, state.cap, state.cap - product.product_left, ZERO)
            tightest = ScopeQuote(used, reserve, over)
    return ScopeQuote(tightest.state, tightest.needed, tightest.over, short)


def _likely(products: Sequence[Planned], terms: Mapping[str, Terms], standings: set[str]) -> Decimal:
    counts = Counter(product.preset for product in products if product.standing in standings)
    return sum((count * terms[preset].estimate.likely for preset, count in counts.items()), ZERO)
