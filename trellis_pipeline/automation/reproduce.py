"""Making a model again from its birth certificate, to see whether it comes out the same.

The certificate names everything that shaped the model: who made it, the request with its seed, and the crop
by its content. So it is not looked up what the catalog or the settings say today; the very same order is
placed again, on purpose, and what comes is held against what came then.

No Dagster run is started. A run would record a materialization, and with it a new model of the product, where
nothing about the product has changed; quality, cost per model and lineage would then speak of an experiment.
The money is booked like any other: reserved, journalled, settled, under the catalog and the product.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic

from assets.opening import LineSettings, open_tools
from assets.paths import product_path, record_path
from assets.records import ProductCrop, ProductModel, StageRecord
from trellis_pipeline.automation.same_catalog import refuse_namesake
from trellis_pipeline.catalog.sku import printable, sku_fault
from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import BlobMissing, ConfigError
from trellis_pipeline.generation.generator import GeneratorIdentity, InputImage
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.generation.runware.seller import options_for
from trellis_pipeline.purchasing.buy import buy_again
from trellis_pipeline.purchasing.generations import Order, Purchase, find_generation
from trellis_pipeline.purchasing.till import estimate_for

if TYPE_CHECKING:
    from assets.tools import LineTools
    from resources.generator import GeneratorResource
    from trellis_pipeline.config import Settings
    from trellis_pipeline.config_products import CatalogSettings
    from trellis_pipeline.storage.store import ArtifactStore, BlobRef

NAME = "reproduction.json"

R = TypeVar("R", bound=StageRecord)


def reproduce_model(
    settings: Settings,
    catalog: CatalogSettings,
    sku: str,
    on_estimate: Callable[[dict[str, Any]], None] = lambda _said: None,
    *,
    generator: GeneratorResource | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Make the product's model again and compare: the document of it, and the new GLB as it was generated.

    on_estimate: told before anything is bought what it will probably cost. generator: instead of the
    configured one. Whatever interrupted an earlier call, this one goes on with what that had bought.

    Raises ConfigError where there is no model to reproduce, its generator is not the configured one, or no
    budget is set for a paid one; BudgetExceeded, GenerationError and StorageError as a run does.
    """
    fault = sku_fault(sku)
    if fault is not None:
        raise ConfigError(f"SKU {printable(sku)!r} {fault}")
    resources = dict(build_definitions(settings, None, generator).resources or {})
    run_id = f"reproduce-{uuid.uuid4().hex[:12]}"
    opened = open_tools(
        LineSettings(settings, catalog),
        run_id,
        resources["store"],
        resources["generator"],
        resources["catalogs"],
        resources["ledger"],
    )
    with opened as tools:
        refuse_namesake(settings, catalog, tools.store)
        return asyncio.run(_reproduce(tools, sku, on_estimate))


async def _reproduce(
    tools: LineTools, sku: str, on_estimate: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], bytes]:
    from trellis_pipeline.quality.compare import Comparison, compare_models

    try:
        made = await asyncio.to_thread(_model_of, tools, sku)
        _check_identity(made, tools.generator.identity)
        order = await asyncio.to_thread(_order_of, made, tools, sku)
        first = await asyncio.to_thread(_blob, tools.store, made.generation, f"{sku}: its model")
        purchase = await asyncio.to_thread(_not_compared_yet, tools, order)
        resumed = purchase is not None
        if purchase is None:
            on_estimate(_estimate(order, tools))
            purchase = await buy_again(order, tools.till)
        chosen = _same_seed(purchase, made.seed)
        second = await asyncio.to_thread(tools.store.get_blob, chosen)
        same = first == second  # which needs no worker
        comparison = (
            Comparison("same") if same else (await tools.workers.run(compare_models, first, second)).value
        )
    finally:
        await tools.end_connections()
    document = {
        "catalog": tools.catalog,
        "sku": sku,
        **comparison.document(),
        "generator": str(tools.generator.identity),
        "request_key": order.request_key,
        "seed": made.seed,
        "first_sha256": made.generation.sha256,
        "second_sha256": chosen.sha256,
        "task_uuid": purchase.task_uuid,
        "cost_usd": usd_text(purchase.cost_usd),
        "first_cost_usd": str(made.certificate.get("cost_usd", "")),
        "seconds": round(purchase.seconds, 3),
        "went_on": resumed,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = product_path(tools.catalog, sku, NAME)
    await asyncio.to_thread(tools.store.write, path, json.dumps(document, indent=1).encode())
    return document, second


def _model_of(tools: LineTools, sku: str) -> ProductModel:
    record = _record(tools, sku, ProductModel)
    if record is None:
        raise ConfigError(
            f"{sku}: catalog {tools.catalog} has no model of this product to reproduce; run it first, "
            "or name the --output folder that it was made in"
        )
    return record


def _record(tools: LineTools, sku: str, kind: type[R]) -> R | None:
    try:
        return kind.model_validate_json(tools.store.read(record_path(tools.catalog, sku, kind.stage)))
    except (BlobMissing, pydantic.ValidationError):
        return None


def _check_identity(made: ProductModel, now: GeneratorIdentity) -> None:
    """Raises ConfigError naming the parts in which today's generator is not the one of the certificate."""
    if made.generator == str(now):
        return
    name, _, rest = made.generator.partition("/")
    model, _, build = rest.rpartition("/")
    pairs = (("generator", name, now.name), ("model", model, now.model), ("build", build, now.build))
    differing = [f"{part} was {before}, is {after}" for part, before, after in pairs if before != after]
    way_out = (
        f"give {options_for(name)}"
        if name != now.name
        else f"only the version of trellis-pipeline that made it ({made.generator}) can repeat it"
    )
    raise ConfigError(f"this model cannot be reproduced as it was: {'; '.join(differing)}. {way_out}")


def _order_of(made: ProductModel, tools: LineTools, sku: str) -> Order:
    """The order that brought the model, from its certificate."""
    certificate = made.certificate
    wanted = str(certificate.get("crop_sha256", ""))
    crop = _record(tools, sku, ProductCrop)
    if crop is None or crop.crop.sha256 != wanted:
        raise ConfigError(
            f"{sku}: the crop that its model was made from ({wanted[:12]}…) is not the product's crop any "
            "more; run the product, then reproduce the model that this brings"
        )
    png = _blob(tools.store, crop.crop, f"{sku}: its crop")
    width, height, depth = (*certificate.get("dimensions_m", ()), None, None, None)[:3]
    image = InputImage(png, wanted, (width, height, depth))
    request = build_request(made.request)
    size = image.dimensions_m if tools.generator.builds_to_size else None
    key = request_key(request, wanted, str(tools.generator.identity), size)
    if key != made.request_key:
        raise ConfigError(
            f"{sku}: its certificate does not lead to the request that it names ({made.request_key[:12]}…): "
            "the record was changed; run the product again"
        )
    return Order(tools.catalog, sku, tools.run_id, request, image, key, made.attempt)


def _blob(store: ArtifactStore, blob: BlobRef, name: str) -> bytes:
    try:
        return store.get_blob(blob)
    except BlobMissing:
        raise ConfigError(f"{name} is not in the store any more; run the product again") from None


def _not_compared_yet(tools: LineTools, order: Order) -> Purchase | None:
    """A reproduction that was bought, and interrupted before it was compared."""
    intent = tools.till.journal.latest(order.request_key)
    if intent is None or intent.state != "done":
        return None
    bought = find_generation(tools.store, order, intent.number)
    if bought is None:
        return None
    try:
        compared = json.loads(tools.store.read(product_path(tools.catalog, order.sku, NAME)))
    except (BlobMissing, ValueError):
        return bought
    seen = compared.get("task_uuid") if isinstance(compared, dict) else None
    return None if seen == bought.task_uuid else bought


def _estimate(order: Order, tools: LineTools) -> dict[str, Any]:
    estimate = estimate_for(order, tools.till)
    return {
        "sku": order.sku,
        "generator": tools.generator.identity.name,
        "paid": tools.generator.paid,
        "likely_usd": usd_text(estimate.likely),
        "reserve_usd": usd_text(estimate.reserve),
    }


def _same_seed(purchase: Purchase, seed: int) -> BlobRef:
    """Of several results the one with the seed of the original; the first where none says so."""
    same = (result.glb for result in purchase.results if result.seed == seed)
    return next(same, purchase.glb)
