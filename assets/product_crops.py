"""`product_crops`: the object cut out of its photo, square and centred as TRELLIS.2 wants it.

This is where money is saved: triage looks at the cut-out before a model is bought, and flags what would
give a poor one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.paths import product_path
from assets.records import Flag, LineItem, ProductCrop, SourceImage
from assets.stage import Stage
from assets.tools import LineTools


def identity(item: LineItem, tools: LineTools) -> tuple[object, ...]:
    """The photo's content and the options of cutting out."""
    return (item.need(SourceImage).data_version, tools.crop_options.shaping())


async def make(item: LineItem, tools: LineTools, inputs_key: str) -> ProductCrop:
    """Matte, crop, triage."""
    from trellis_pipeline.imagery.make_crop import make_crop

    photo = await asyncio.to_thread(tools.store.get_blob, item.need(SourceImage).photo)
    cut = await tools.workers.run(make_crop, photo, tools.crop_options)
    made = cut.value
    crop = await asyncio.to_thread(tools.store.put_blob, made.png, ".png")
    thumbnail = await asyncio.to_thread(tools.store.put_blob, made.thumbnail, "")
    await asyncio.to_thread(
        tools.store.publish, product_path(tools.catalog, item.product.sku, "crop.png"), crop
    )
    return ProductCrop(
        inputs_key=inputs_key,
        data_version=crop.sha256,
        seconds=cut.seconds,
        thumbnail=thumbnail,
        crop=crop,
        width=made.width,
        height=made.height,
        matte_method=made.matte_method,
        agreement=made.agreement,
        object_share=made.object_share,
        flags=tuple(Flag(code=flag.code, message=flag.message) for flag in made.flags),
        notes=made.notes,
    )


def metadata(record: ProductCrop) -> Mapping[str, Any]:
    """What the UI shows for one crop."""
    return {
        "sha256": record.crop.sha256,
        "width_px": record.width,
        "height_px": record.height,
        "matte": record.matte_method,
        "object_share": record.object_share,
        "triage_flags": len(record.flags),
        "seconds": record.seconds,
        **({"agreement": record.agreement} if record.agreement is not None else {}),
        **({"triage": dg.MetadataValue.md(_flag_list(record))} if record.flags else {}),
        **({"notes": "; ".join(record.notes)} if record.notes else {}),
    }


def _flag_list(record: ProductCrop) -> str:
    return "\n".join(f"- **{flag.code}**: {flag.message}" for flag in record.flags)


STAGE = Stage(
    record=ProductCrop,
    version="1",
    after=SourceImage.stage,
    description="The object on a transparent square: existing alpha, or a matte; with triage flags.",
    identity=identity,
    make=make,
    metadata=metadata,
    kinds=frozenset({"python"}),
)
