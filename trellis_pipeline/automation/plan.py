"""Quote before you run: what a backfill of a catalog would buy, for how much, without buying anything.

The photos and the crops decide what is bought: whether a photo can be used, whether triage flags it, and what
request stands for it. So every product goes through those two stages, which cost nothing, and their work is
kept in the store, where the run that follows finds it. They run on the line's own stream, not in a Dagster
run: nothing is made here that anybody wants to see in the UI as the outcome of one, and the run that follows
records the same stages with the same data versions. For the same reason the catalog's snapshot stays as it
is: what a sensor has not seen yet must still be news to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Any

from assets import product_crops, product_models, source_images
from assets.catalog_snapshot import column_hint
from assets.opening import LineSettings, open_tools
from assets.records import LineItem, ProductCrop, ProductModel
from assets.stage import current_key
from assets.stream import ProductDone, RunStopped, stream
from trellis_pipeline.automation.chunks import chosen
from trellis_pipeline.automation.same_catalog import refuse_namesake
from trellis_pipeline.costs.budgets import ScopeState, SpendScope
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import ProductError
from trellis_pipeline.purchasing.quote import Planned, Quote, Standing, make_quote
from trellis_pipeline.purchasing.standing import bought, in_flight, spent_by_product, terms_of
from trellis_pipeline.purchasing.till import is_remote

if TYPE_CHECKING:
    from assets.tools import LineTools
    from resources.generator import GeneratorResource
    from trellis_pipeline.catalog.readers import CatalogLoad
    from trellis_pipeline.catalog.rows import RowProblem
    from trellis_pipeline.config import Settings
    from trellis_pipeline.config_products import CatalogSettings
    from trellis_pipeline.purchasing.generations import Order
    from trellis_pipeline.storage.store import BlobRef

FREE_STAGES = (source_images.STAGE, product_crops.STAGE)
NO_BUDGET = (
    "a run would refuse: {generator} costs money and no budget is set; set one under [budget] in "
    "trellis.toml, for example total_usd = 5.00, or give --budget"
)
# Nothing is booked under this name: a run gets a name of its own, and with it an unused budget.
_RUN_ID = "plan"


@dataclass(frozen=True, slots=True)
class CatalogPlan:
    """The quote for a catalog. generator: its identity as text. seconds: what planning took."""

    catalog: str
    generator: str
    paid: bool
    quote: Quote
    bad_rows: tuple[RowProblem, ...]
    ignored_columns: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 if a run may buy all of it, 3 if budgets do not allow it, 1 if nothing could be planned."""
        products = self.quote.products
        if (products or self.bad_rows) and all(product.standing == "failed" for product in products):
            return 1
        return 0 if self.quote.fits else 3


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A product that has its crop. flags, reason: why triage holds it back, empty where it does not.

    made: the files of its model, where that was made of exactly this.
    """

    order: Order
    flags: tuple[str, ...]
    reason: str
    made: tuple[BlobRef, ...]


def plan_catalog(
    settings: Settings,
    catalog: CatalogSettings,
    only: Sequence[str] = (),
    on_start: Callable[[int], None] = lambda _count: None,
    on_event: Callable[[Any], None] = lambda _event: None,
    *,
    generator: GeneratorResource | None = None,
) -> CatalogPlan:
    """Quote a catalog: every product, or those named in `only`.

    on_start is told how many products there are; on_event gets every event of the free stages. generator:
    instead of the configured one.

    Raises CatalogError when the catalog cannot be read or lacks a product named in `only`; ConfigError for
    settings that cannot work and for a paid generator without a price; StorageUnavailable.
    """
    started = time.perf_counter()
    resources = dict(build_definitions(settings, None, generator).resources or {})
    line = LineSettings(settings, catalog)
    loaded: CatalogLoad = resources["catalogs"].load(line.source)
    wanted = set(chosen([product.sku for product in loaded.products], only))
    items = [LineItem(product) for product in loaded.products if product.sku in wanted]
    on_start(len(items))
    opened = open_tools(
        line,
        _RUN_ID,
        resources["store"],
        resources["generator"],
        resources["catalogs"],
        resources["ledger"],
        asks=False,
    )
    with opened as tools:
        refuse_namesake(settings, catalog, tools.store)
        quote = _quote(items, tools, line, on_event)
        return CatalogPlan(
            catalog=catalog.name,
            generator=str(tools.generator.identity),
            paid=tools.generator.paid,
            quote=quote,
            bad_rows=tuple(loaded.problems),
            ignored_columns=tuple(column_hint(column) for column in loaded.unknown_columns),
            seconds=time.perf_counter() - started,
        )


def _quote(
    items: Sequence[LineItem], tools: LineTools, line: LineSettings, on_event: Callable[[Any], None]
) -> Quote:
    """Take the products through the free stages, then look up all of them at once."""
    failed: list[Planned] = []
    candidates: list[_Candidate] = []
    # Closed before the tools are: a plan that is stopped by hand ends its work first.
    with closing(stream(items, FREE_STAGES, [product_models.STAGE], tools, line.in_flight)) as events:
        for event in events:
            if isinstance(event, RunStopped):
                raise event.error
            if isinstance(event, ProductDone):
                try:
                    candidates.append(_candidate(event, tools))
                except ProductError as error:
                    failed.append(Planned(event.item.product.sku, "failed", reason=str(error)))
            on_event(event)
    candidates.sort(key=lambda candidate: candidate.order.sku)
    return make_quote(
        [*failed, *_planned(candidates, tools)],
        terms_of((candidate.order for candidate in candidates), tools.till),
        _scopes(tools),
        _at_once(line, tools),
        _refusal(tools),
    )


def _candidate(done: ProductDone, tools: LineTools) -> _Candidate:
    """What would be ordered for a product. Raises ProductError where nothing can be."""
    if done.status == "failed":
        raise ProductError(f"{done.failed_stage}: {done.error}")
    item = done.item
    try:
        order = product_models.wanted(item, tools)
    except ProductError as error:
        raise ProductError(f"{product_models.STAGE.name}: {error}") from None
    made = item.maybe(ProductModel)
    is_current = made is not None and made.inputs_key == current_key(product_models.STAGE, item, tools)
    crop = item.need(ProductCrop)
    flags = crop.flags if product_models.is_held(crop, tools) else ()
    return _Candidate(
        order=order,
        flags=tuple(flag.code for flag in flags),
        reason="; ".join(flag.message for flag in flags),
        made=made.blobs() if made is not None and is_current else (),
    )


def _planned(candidates: Sequence[_Candidate], tools: LineTools) -> Iterator[Planned]:
    """Where each candidate stands. Two that ask for the same model are one purchase."""
    store, till = tools.store, tools.till
    there = bought(store, [candidate.order for candidate in candidates])
    under_way = in_flight(till.journal)
    cap = till.budgets.product_usd
    spent = spent_by_product(till.journal.ledger, tools.catalog) if cap is not None else {}
    ordered: set[str] = set()
    for candidate in candidates:
        order, key = candidate.order, candidate.order.request_key
        standing: Standing = "new"
        if key in there or (candidate.made and all(store.has_blob(blob) for blob in candidate.made)):
            standing = "cached"
        elif key in under_way:
            standing = "in_flight"
        elif candidate.flags:
            standing = "held"
        elif key in ordered:
            standing = "shared"
        else:
            ordered.add(key)
        yield Planned(
            sku=order.sku,
            standing=standing,
            preset=order.request.preset,
            reason=candidate.reason if standing == "held" else "",
            flags=candidate.flags if standing == "held" else (),
            request_key=key,
            product_left=None if cap is None else max(ZERO, cap - spent.get(order.sku, ZERO)),
        )


def _scopes(tools: LineTools) -> tuple[ScopeState, ...]:
    """The budgets as they stand for a run that begins now."""
    identity = tools.generator.identity
    scope = SpendScope(tools.catalog, "", tools.run_id, identity.name, identity.model, "", "")
    return tools.till.journal.ledger.headroom(scope, tools.till.budgets).states


def _at_once(line: LineSettings, tools: LineTools) -> int:
    """How many generations run side by side: remote ones as products are on the line, others as cores."""
    if tools.generator.at_once is not None:
        return min(line.in_flight, tools.generator.at_once)
    if is_remote(tools.generator) or tools.generator.paid:
        return line.in_flight
    return min(line.in_flight, line.settings.run.workers or cpu_count() or 1)


def _refusal(tools: LineTools) -> str | None:
    """Why a run would buy nothing at all."""
    pause = tools.till.journal.ledger.paused()
    if pause is not None:
        return f"a run would refuse: {pause}; lift it with: trellis-pipeline costs resume"
    if tools.generator.paid and not tools.till.budgets.any:
        return NO_BUDGET.format(generator=tools.generator.identity.name)
    return None
