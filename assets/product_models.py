"""`product_models`: the generated GLB of each product, finished to real size and carrying its certificate.

The generation itself is bought through `purchasing`, which finds it if it was bought before. What happens
here afterwards (scale, certificate, preview) is cheap and can be repeated; the bought bytes are kept apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from assets.paths import product_path
from assets.records import LineItem, ProductCrop, ProductModel, SourceImage
from assets.stage import Stage
from assets.tools import LineTools
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.errors import ProductHeld
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import request_key
from trellis_pipeline.purchasing.buy import Choose, buy
from trellis_pipeline.purchasing.generations import Choice, Order, Purchase, find_generation


def _order(item: LineItem, tools: LineTools, attempt: int, png: bytes = b"") -> Order:
    """What would be bought for this product at this attempt."""
    crop = item.need(ProductCrop)
    request = tools.request(item.product, attempt)
    image = InputImage(png, crop.crop.sha256, item.product.dimensions_m)
    size = image.dimensions_m if tools.generator.builds_to_size else None
    key = request_key(request, image.sha256, str(tools.generator.identity), size)
    return Order(tools.catalog, item.product.sku, tools.run_id, request, image, key, attempt)


def _attempt(item: LineItem, base_key: str) -> int:
    """The attempt asked for; else the one the product is on, while it still answers the same question."""
    if item.attempt is not None:
        return item.attempt
    made = item.maybe(ProductModel)
    return made.attempt if made is not None and made.base_key == base_key else 1


def wanted(item: LineItem, tools: LineTools, png: bytes = b"") -> Order:
    """What a run would order for this product now. A quote does without the picture."""
    base_key = _order(item, tools, attempt=1).request_key
    return _order(item, tools, _attempt(item, base_key), png)


def identity(item: LineItem, tools: LineTools) -> tuple[object, ...]:
    """Everything that shapes the generation, and what is written into the file afterwards."""
    return (
        wanted(item, tools).request_key,
        item.product.title,
        item.product.dimensions_m,
        tools.preview_px,
    )


async def make(item: LineItem, tools: LineTools, inputs_key: str) -> ProductModel:
    """Buy or find the generation, then finish it."""
    from trellis_pipeline.purchasing.finish import finish_model

    crop = item.need(ProductCrop)
    png = await asyncio.to_thread(tools.store.get_blob, crop.crop)
    base_key = _order(item, tools, attempt=1).request_key
    order = wanted(item, tools, png)
    if is_held(crop, tools) and await asyncio.to_thread(find_generation, tools.store, order) is None:
        reasons = "; ".join(flag.message for flag in crop.flags)
        raise ProductHeld(f'triage: {reasons} (to go on, fix the photo or set [triage] hold = "never")')
    purchase = await buy(order, tools.till, _best_of(order, tools))
    raw = await asyncio.to_thread(tools.store.get_blob, purchase.glb)
    certificate = _certificate(item, tools, order, purchase)
    size = None if tools.generator.builds_to_size else item.product.dimensions_m
    finishing = await tools.workers.run(finish_model, raw, certificate, size, preview_px=tools.preview_px)
    finished = finishing.value
    model = await asyncio.to_thread(tools.store.put_blob, finished.glb, ".glb")
    preview = await asyncio.to_thread(tools.store.put_blob, finished.preview_png, ".png")
    thumbnail = await asyncio.to_thread(tools.store.put_blob, finished.thumbnail, "")
    for name, blob in (("preview.png", preview), ("model.glb", model)):
        path = product_path(tools.catalog, item.product.sku, name)
        await asyncio.to_thread(tools.store.publish, path, blob)
    return ProductModel(
        inputs_key=inputs_key,
        data_version=model.sha256,
        seconds=finishing.seconds + (0.0 if purchase.reused else purchase.seconds),
        thumbnail=thumbnail,
        model=model,
        preview=preview,
        generation=purchase.glb,
        request_key=order.request_key,
        base_key=base_key,
        attempt=order.attempt,
        seed=purchase.seed,
        request=order.request.wire(),
        generator=str(tools.generator.identity),
        paid=tools.generator.paid,
        reused=purchase.reused,
        cost_usd=Decimal(0) if purchase.reused else purchase.cost_usd,
        model_cost_usd=purchase.cost_usd if purchase.bought_for == order.product else Decimal(0),
        generation_seconds=purchase.seconds,
        triangles=finished.triangles,
        vertices=finished.vertices,
        max_texture_px=finished.max_texture_px,
        certificate=certificate,
    )


def _best_of(order: Order, tools: LineTools) -> Choose:
    """Several results are scored as finished models are, and the best is kept."""

    async def choose(glbs: Sequence[bytes]) -> Choice:
        from trellis_pipeline.quality.best import best, score

        scores = [(await tools.workers.run(score, glb, order.image.png)).value for glb in glbs]
        return Choice(best(scores), tuple(scores))

    return choose


def is_held(crop: ProductCrop, tools: LineTools) -> bool:
    """Whether triage holds this crop back from being bought."""
    return bool(crop.flags) and (tools.hold == "always" or (tools.hold == "paid" and tools.generator.paid))


def _certificate(item: LineItem, tools: LineTools, order: Order, purchase: Purchase) -> dict[str, Any]:
    """The birth certificate that stands in the GLB's `asset.extras`: enough to explain and to repeat it."""
    product: Product = item.product
    return {
        **purchase.provenance,
        "sku": product.sku,
        "title": product.title,
        "catalog": tools.catalog,
        "source_sha256": item.need(SourceImage).photo.sha256,
        "crop_sha256": order.image.sha256,
        "generator": str(tools.generator.identity),
        "request": order.request.wire(),
        "request_key": order.request_key,
        "seed": purchase.seed,
        "attempt": order.attempt,
        "task_uuid": purchase.task_uuid,
        "cost_usd": usd_text(purchase.cost_usd),
        "results": len(purchase.results) or 1,
        "dimensions_m": list(product.dimensions_m),
    }


def metadata(record: ProductModel) -> Mapping[str, Any]:
    """What the UI shows for one model."""
    is_draft = record.generator.startswith("draft/")
    return {
        "generator": f"{record.generator}{' (draft: not a generated model)' if is_draft else ''}",
        "triangles": record.triangles,
        "vertices": record.vertices,
        "texture_px": record.max_texture_px,
        "file_mb": record.model.size / 1e6,
        "cost_usd": float(record.cost_usd),
        "seconds": record.seconds,
        "generation_seconds": record.generation_seconds,
        "seed": dg.MetadataValue.text(str(record.seed)),
        "attempt": record.attempt,
        "request": dg.MetadataValue.json(record.request),
        "request_key": record.request_key,
        "sha256": record.model.sha256,
    }


STAGE = Stage(
    record=ProductModel,
    version="1",
    after=ProductCrop.stage,
    description="The GLB: generated once per request, finished to real size, with its birth certificate.",
    identity=identity,
    make=make,
    metadata=metadata,
    kinds=frozenset({"gltf"}),
)
