"""`source_images`: the photo of each product, fetched once and kept as it came.

The bytes go to the store, so that a model can be explained and made again after the shop has replaced the
photo. The data version is the photo's content hash: a photo that is saved anew with the same bytes makes
nothing downstream stale.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.paths import product_path
from assets.records import LineItem, SourceImage, fingerprint
from assets.stage import Stage, is_intact
from assets.tools import LineTools
from trellis_pipeline.errors import SourceImageError

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def identity(item: LineItem, tools: LineTools) -> tuple[object, ...]:
    """Where the photo is, and its change token. Without a token its server is asked every time."""
    state = tools.image_state(item.product.image) or uuid.uuid4().hex
    return (item.product.image, state, tools.crop_options.max_pixels)


async def make(item: LineItem, tools: LineTools, inputs_key: str) -> SourceImage:
    """Fetch, check that it decodes, keep the bytes. What the server says is unchanged stays as it is."""
    from trellis_pipeline.imagery.fetch_limits import redact_url
    from trellis_pipeline.imagery.make_crop import inspect_photo

    if not item.product.image:
        raise SourceImageError(
            f"the catalog has no product {item.product.sku!r}: materialize product_catalog to retire it"
        )
    started = time.perf_counter()
    fetched_as = fingerprint(item.product.image, tools.crop_options.max_pixels, STAGE.version)
    known = await asyncio.to_thread(_still_good, item, tools, fetched_as)
    with _row_named(item.product.row):
        fetched = await tools.fetch(item.product.image, known.etag if known else "")
        if known is not None and fetched.data is None:
            return known
        data = fetched.data
        fetch_seconds = time.perf_counter() - started
        if not data:
            raise SourceImageError(f"{redact_url(item.product.image)}: the file is empty")
        inspected = await tools.workers.run(inspect_photo, data, max_pixels=tools.crop_options.max_pixels)
    facts = inspected.value
    suffix = _SUFFIXES[facts.format]
    photo = await asyncio.to_thread(tools.store.put_blob, data, suffix)
    thumbnail = await asyncio.to_thread(tools.store.put_blob, facts.thumbnail, "")
    path = product_path(tools.catalog, item.product.sku, f"photo{suffix}")
    await asyncio.to_thread(tools.store.publish, path, photo)
    return SourceImage(
        inputs_key=inputs_key,
        data_version=photo.sha256,
        seconds=fetch_seconds + inspected.seconds,
        thumbnail=thumbnail,
        photo=photo,
        location=redact_url(item.product.image),
        format=facts.format,
        mode=facts.mode,
        width=facts.width,
        height=facts.height,
        has_alpha=facts.has_alpha,
        notes=facts.notes,
        etag=fetched.etag,
        fetched_as=fetched_as,
    )


@contextmanager
def _row_named(row: int) -> Iterator[None]:
    """Say where in the catalog the photo is named. row: 0 where no row names it, as in a folder."""
    try:
        yield
    except SourceImageError as error:
        raise SourceImageError(f"{error} (catalog row {row})" if row else str(error)) from None


def _still_good(item: LineItem, tools: LineTools, fetched_as: str) -> SourceImage | None:
    """The record that is there, if it has an ETag for this very question and its files are there too."""
    known = item.maybe(SourceImage)
    if known is None or not known.etag or known.fetched_as != fetched_as or not is_intact(known, tools):
        return None
    return known


def metadata(record: SourceImage) -> Mapping[str, Any]:
    """What the UI shows for one photo."""
    return {
        "sha256": record.photo.sha256,
        "location": record.location,
        "width_px": record.width,
        "height_px": record.height,
        "mode": f"{record.format} {record.mode}",
        "has_alpha": dg.MetadataValue.bool(record.has_alpha),
        "file_mb": record.photo.size / 1e6,
        "seconds": record.seconds,
        **({"notes": "; ".join(record.notes)} if record.notes else {}),
    }


STAGE = Stage(
    record=SourceImage,
    version="1",
    after=None,
    description="The product's photo as it was fetched, checked and kept by content hash.",
    identity=identity,
    make=make,
    metadata=metadata,
    kinds=frozenset({"python"}),
)
