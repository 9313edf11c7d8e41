"""What an accepted model costs, and what the money went to that bought none.

The price of a generation is not the price of a model in the shop: some are rejected, some replaced, some paid
for and lost. The ledger knows what each request cost, the quality records know what became of it. Together
they give the figure by which two presets, or two providers, can be compared.

A request can serve several products (one photo, two SKUs), so money follows the request, not the SKU: it was
well spent if any product that stands on it was accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, get_args

from sqlalchemy import case, func, literal, or_, select

from trellis_pipeline.costs.events import REPRODUCTION, WITH_A_MODEL
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.schema import spend_events

Fate = Literal[
    "accepted", "unjudged", "reproduced", "failed", "rejected", "superseded", "abandoned", "unattributed"
]
FATES: tuple[Fate, ...] = get_args(Fate)
WASTE: tuple[Fate, ...] = ("failed", "rejected", "superseded", "abandoned", "unattributed")


@dataclass(frozen=True, slots=True)
class ProductModel:
    """The model a product has now. verdict: `pass`, `warn` or `fail`; None while it is not judged."""

    request_key: str
    verdict: str | None


@dataclass(frozen=True, slots=True)
class RequestSpend:
    """What one request of one product cost, in USD.

    settled: for results, after refunds. reproduced: for the same model once more. lost: for purchases that
    brought no model. reserved: set aside and open. request_key is empty for corrections that belong to no
    request.
    """

    sku: str
    request_key: str
    settled: Decimal
    reproduced: Decimal
    lost: Decimal
    reserved: Decimal


@dataclass(frozen=True, slots=True)
class SpendByFate:
    """Where the money of a catalog went. usd: settled dollars by fate; they add up to everything settled.

    accepted: products with an accepted model, bought or found. outcome_unknown: USD of open reservations,
    which is in flight or was never heard of again; it is spent or not, and in none of the fates.
    """

    usd: Mapping[Fate, Decimal]
    accepted: int
    outcome_unknown: Decimal

    @property
    def settled(self) -> Decimal:
        """Everything that was spent, in USD."""
        return sum(self.usd.values(), ZERO)

    @property
    def wasted(self) -> Decimal:
        """What was to bring a model and brought none that is in use or waits for its verdict, in USD."""
        return sum((self.usd[fate] for fate in WASTE), ZERO)

    @property
    def per_accepted(self) -> Decimal | None:
        """What was spent for each accepted model, in USD; None while there is none.

        All of it but the reproductions, which somebody bought to learn something, not to have a model.
        """
        return (self.settled - self.usd["reproduced"]) / self.accepted if self.accepted else None


def spend_by_request(
    ledger: Ledger, catalog: str, since: date | None = None, until: date | None = None
) -> tuple[RequestSpend, ...]:
    """What each request of a catalog cost, corrections included, sorted by SKU.

    since, until: first and last UTC day, both included, as in `reports.report`.
    """
    columns = spend_events.c
    zero = literal(ZERO, columns.amount.type)
    # By reservation, so that a refund goes where the money went that it gives back.
    fate = {
        name: columns.reservation_id.in_(
            select(columns.reservation_id).where(columns.kind == "settle", because)
        )
        for name, because in (
            ("lost", columns.cause.not_in(WITH_A_MODEL)),
            ("reproduced", columns.cause == REPRODUCTION),
        )
    }
    elsewhere = or_(*fate.values())
    query = (
        select(
            columns.sku,
            columns.request_key,
            func.sum(case((elsewhere, zero), else_=columns.settled_change)).label("settled"),
            func.sum(case((fate["reproduced"], columns.settled_change), else_=zero)).label("reproduced"),
            func.sum(case((fate["lost"], columns.settled_change), else_=zero)).label("lost"),
            func.sum(columns.reserved_change).label("reserved"),
        )
        .where(columns.catalog == catalog)
        .group_by(columns.sku, columns.request_key)
        .order_by(columns.sku, columns.request_key)
    )
    if since is not None:
        query = query.where(columns.day >= since)
    if until is not None:
        query = query.where(columns.day <= until)
    with ledger.reading() as connection:
        return tuple(RequestSpend(*row) for row in connection.execute(query))


def by_fate(spends: Iterable[RequestSpend], products: Mapping[str, ProductModel]) -> SpendByFate:
    """Sort what was spent by what became of it.

    products: what each SKU of the catalog stands on now; products without a model are left out.
    reproduced: a model that was there, once more. failed: paid for, no model. rejected: the model does not
    pass its gates. superseded: the product has another model by now. abandoned: nothing stands on it, the
    product has no model or is gone. unattributed: corrections that belong to no request.
    """
    verdicts: dict[str, set[str | None]] = {}
    for model in products.values():
        verdicts.setdefault(model.request_key, set()).add(model.verdict)
    usd = dict.fromkeys(FATES, ZERO)
    unknown = ZERO
    for spend in spends:
        usd["failed"] += spend.lost
        usd["reproduced"] += spend.reproduced
        usd[_fate(spend, verdicts.get(spend.request_key, set()), spend.sku in products)] += spend.settled
        unknown += spend.reserved
    accepted = sum(model.verdict in {"pass", "warn"} for model in products.values())
    return SpendByFate(usd, accepted, unknown)


def _fate(spend: RequestSpend, verdicts: set[str | None], has_model: bool) -> Fate:
    if not spend.request_key:
        return "unattributed"
    if verdicts & {"pass", "warn"}:
        return "accepted"
    if None in verdicts:
        return "unjudged"
    if verdicts:
        return "rejected"
    return "superseded" if has_model else "abandoned"
