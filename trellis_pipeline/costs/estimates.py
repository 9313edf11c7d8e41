"""How much to set aside for one purchase, what it will probably cost, and how long it will take.

With history, the 95th percentile of what the same preset did cost: most generations then settle below their
reservation, and a few dear ones do not hold a budget hostage. Without history, two and a half times the list
price: the provider's own examples reach 2.15 times at the listed resolution, and 1.77 times at resolutions
that it does not list. As long as history is short, never less than the dearest purchase so far. However cheap
the history, never less than the list price of a model, where there is one: a provider that charged less for a
while, or nothing, would otherwise have taken the budget's wall down.

A purchase may ask for several results. Its preset then says so and has a history of its own; until that is
long enough, it is estimated as that many purchases of one result, which errs on the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from trellis_pipeline.costs.history import quantile
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import NANO, ZERO
from trellis_pipeline.costs.price_book import PriceBook
from trellis_pipeline.errors import ConfigError

COLD_START_FACTOR = Decimal("2.5")
# The examples behind that factor sampled with up to so many steps; what samples longer is billed for longer.
COLD_START_STEPS = 32
# Below this, the 95th percentile by nearest rank is the largest sample and says nothing about the tail.
MIN_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """USD for one purchase. reserve: to set aside. likely, high: P50 and P95. samples: of history."""

    reserve: Decimal
    likely: Decimal
    high: Decimal
    basis: Literal["history", "list_price", "free"]
    samples: int
    price_book_version: str


@dataclass(frozen=True, slots=True)
class DurationEstimate:
    """Seconds of generation for one purchase. likely, high: P50 and P95. samples: of history."""

    likely: float
    high: float
    samples: int


def reservation_estimate(
    ledger: Ledger,
    book: PriceBook,
    *,
    generator: str,
    model: str,
    preset: str,
    resolution: int | None,
    on: date,
    results: int = 1,
    single_preset: str | None = None,
    steps: int = 0,
    expected_seconds: float = 0.0,
) -> Estimate:
    """Estimate one purchase from the ledger's history of its preset, or from the price book.

    on: the UTC day whose prices hold. results: how many models are asked for. single_preset: the preset of
    the same purchase with one result; its history, times `results`, stands in while `preset` has too little.
    steps: of the sampler that makes the most, 0 where the model's own defaults hold.
    expected_seconds: how long one result takes on the user's GPU; needed only for a generator priced by GPU
    seconds that has no history yet.

    Raises ConfigError where there is neither history nor price.
    """
    quote = book.find(generator, model, resolution, on)
    if quote.price.usd == 0:
        return Estimate(ZERO, ZERO, ZERO, "free", 0, book.version)
    price = quote.price.usd * results
    history = ledger.history(generator, preset)
    singles = ledger.history(generator, single_preset) if single_preset and single_preset != preset else ()
    for amounts, times in ((history, 1), (singles, results)):
        likely, high = quantile(amounts, 0.5), quantile(amounts, 0.95)
        if likely is not None and high is not None and len(amounts) >= MIN_SAMPLES:
            high *= times
            reserve = max(high, price) if quote.price.unit == "generation" else high
            return Estimate(reserve, likely * times, high, "history", len(amounts), book.version)
    if quote.price.unit == "gpu_second":
        if not expected_seconds > 0:
            raise ConfigError(
                f"{generator} is priced by GPU seconds and has no history yet; give expected_seconds"
            )
        price *= Decimal(str(expected_seconds))
    dearest = max((*history, *(amount * results for amount in singles)), default=ZERO)
    longer = max(Decimal(1), Decimal(steps) / COLD_START_STEPS)
    reserve = max(dearest, (price * COLD_START_FACTOR * longer).quantize(NANO, rounding=ROUND_CEILING))
    return Estimate(reserve, price.quantize(NANO), reserve, "list_price", len(history), book.version)


def duration_estimate(ledger: Ledger, *, generator: str, preset: str) -> DurationEstimate | None:
    """How long one purchase of this preset takes, from the ledger's history; None before the first."""
    seconds = ledger.seconds_history(generator, preset)
    likely, high = quantile(seconds, 0.5), quantile(seconds, 0.95)
    if likely is None or high is None:
        return None
    return DurationEstimate(likely, high, len(seconds))
