"""What a purchase comes to: the provider's own numbers where it gave them, never less than is known.

A result without a believable price is booked at its share of what was set aside, as an estimate: nothing is
free because somebody forgot to say what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from trellis_pipeline.costs.events import NO_PRICE
from trellis_pipeline.costs.money import NANO, ZERO
from trellis_pipeline.errors import Spent
from trellis_pipeline.generation.generator import GeneratedModel


@dataclass(frozen=True, slots=True)
class Bill:
    """amount: USD. source: one of `costs.events.SOURCES`. raw_cost_text: the provider's numbers, verbatim.

    stage_seconds: where the time went, where time is what was paid for.
    """

    amount: Decimal
    source: str
    raw_cost_text: str = ""
    cause: str = ""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


def bill_for(made: Sequence[GeneratedModel], reserved: Decimal, asked: int) -> Bill:
    """The bill for the results of one purchase.

    reserved: USD that were set aside for it. asked: how many results that was for.
    """
    costs = [(model.cost_usd, model.raw_cost_text) for model in made] + _not_kept(made)
    raw = " + ".join(text for _, text in costs if text)
    known = sum((usd for usd, _ in costs if usd is not None), ZERO)
    unknown = sum(usd is None for usd, _ in costs)
    if unknown:
        share = (reserved * unknown / max(asked, len(costs))).quantize(NANO, rounding=ROUND_CEILING)
        return Bill(known + share, "estimate", raw, NO_PRICE)
    stages = _stages(made)
    if stages:
        return Bill(known, "gpu_time", stage_seconds=stages)
    return Bill(known, "provider_cost" if raw else "price_list", raw)


def bill_for_nothing(error: BaseException) -> Bill | None:
    """The bill for a generation that failed, or was interrupted, on the user's own machine.

    None where that cost nothing.
    """
    spent: Spent | None = getattr(error, "spent", None)
    if spent is None or not any(spent.stage_seconds.values()):
        return None
    return Bill(spent.usd, "gpu_time", cause=type(error).__name__, stage_seconds=spent.stage_seconds)


def _stages(made: Sequence[GeneratedModel]) -> dict[str, float]:
    """Seconds by stage, over all results."""
    names = dict.fromkeys(name for model in made for name in model.stage_seconds)
    return {name: sum(model.stage_seconds.get(name, 0.0) for model in made) for name in names}


def _not_kept(made: Sequence[GeneratedModel]) -> list[tuple[Decimal | None, str]]:
    """Costs of results that were made with these, and are gone or were not asked for; they are billed too."""
    lists = [made[0].provenance.get(name, []) for name in ("results_lost", "results_surplus")]
    found = [one for several in lists if isinstance(several, list) for one in several]
    costs = [str(one.get("cost_usd", "")) for one in found]
    return [(_believable(usd), one.get("cost_text", usd)) for one, usd in zip(found, costs, strict=True)]


def _believable(text: str) -> Decimal | None:
    try:
        usd = Decimal(text)
    except ArithmeticError:
        return None
    return usd if usd.is_finite() and usd >= 0 else None


def bill_for_lost(reserved: Decimal) -> Bill:
    """The bill for results that were made and can no longer be fetched: all that was set aside."""
    return Bill(reserved, "estimate", cause="ResultLost")
