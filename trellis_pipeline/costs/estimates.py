"""How much to set aside for one generation, and what it will probably cost.

With history, the 95th percentile of what the same preset did cost: most generations then settle below their
reservation, and a few dear ones do not hold a budget hostage. Without history, two and a half times the list
price: the provider's own examples reach 2.15 times at the listed resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from trellis_pipeline.costs.ledger import Ledger, quantile
from trellis_pipeline.costs.money import NANO, ZERO
from trellis_pipeline.costs.price_book import PriceBook
from trellis_pipeline.errors import ConfigError

COLD_START_FACTOR = Decimal("2.5")
# Below this, the 95th percentile by nearest rank is the largest sample and says nothing about the tail.
MIN_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """USD for one generation. reserve: to set aside. likely, high: P50 and P95. samples: of history."""

    reserve: Decimal
    likely: Decimal
    high: Decimal
    basis: Literal["history", "list_price", "free"]
    samples: int
    price_book_version: str


def reservation_estimate(
    ledger: Ledger,
    book: PriceBook,
    *,
    generator: str,
    model: str,
    preset: str,
    resolution: int | None,
    on: date,
    expected_seconds: float = 0.0,
) -> Estimate:
    """Estimate one generation from the ledger's history of this preset, or from the price book.

    on: the UTC day whose prices hold. expected_seconds: how long it takes on the user's GPU; needed only for
    a generator priced by GPU seconds that has no history yet.

    Raises ConfigError where there is neither history nor price.
    """
    quote = book.find(generator, model, resolution, on)
    if quote.price.usd == 0:
        return Estimate(ZERO, ZERO, ZERO, "free", 0, book.version)
    history = ledger.history(generator, preset)
    likely, high = quantile(history, 0.5), quantile(history, 0.95)
    if likely is not None and high is not None and len(history) >= MIN_SAMPLES:
        return Estimate(high, likely, high, "history", len(history), book.version)
    price = quote.price.usd
    if quote.price.unit == "gpu_second":
        if not expected_seconds > 0:
            raise ConfigError(
                f"{generator} is priced by GPU seconds and has no history yet; give expected_seconds"
            )
        price *= Decimal(str(expected_seconds))
    reserve = (price * COLD_START_FACTOR).quantize(NANO, rounding=ROUND_CEILING)
    return Estimate(reserve, price.quantize(NANO), reserve, "list_price", len(history), book.version)
