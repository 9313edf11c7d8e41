"""Cheap change tokens for photos, so that a sensor sees new bytes without reading any.

A token only has to differ when the photo differs; the content hash is taken later, by the stage that reads
the photo anyway, and a token that changed without need costs one read there and no generation. Local files
give size and modification time, S3 objects their ETag. For `https://` there is no token that is both cheap
and true, so it is unknown, which never counts as a change. An object that cannot be asked about is unknown
too: one row with a wrong bucket must not keep a catalog of a thousand others from being read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

from trellis_pipeline.catalog.product import Product
from trellis_pipeline.catalog.snapshot import Snapshot
from trellis_pipeline.errors import BlobMissing, SourceImageError, StorageUnavailable

UNKNOWN = ""
MISSING = "missing"
HEAD_THREADS = 32


def local_image_state(path: str) -> str:
    """`size:mtime_ns` of a local file, in bytes and nanoseconds; MISSING if it cannot be looked at.

    path: a path or a `file://` URL.
    """
    if path.startswith("file://"):
        path = unquote(path[len("file://") :])
    try:
        status = os.stat(path)  # noqa: PTH116  a Path per photo would triple the time of 100,000
    except (OSError, ValueError):
        return MISSING
    return f"{status.st_size}:{status.st_mtime_ns}"


def image_states(products: Iterable[Product], *, head: Callable[[str], str] | None = None) -> dict[str, str]:
    """The change token of each product's photo, by SKU, in the order of the products.

    head: gives the ETag of an `s3://` object; called from up to HEAD_THREADS threads, once per URL. It raises
    BlobMissing where there is no object, SourceImageError where this one is refused, which makes it UNKNOWN,
    and StorageUnavailable where none can be asked, which makes all that follow UNKNOWN. Anything else it
    raises ends the call. Without it, S3 is UNKNOWN.
    """
    images = {product.sku: product.image for product in products}
    remote = {image for image in images.values() if image.startswith("s3://")} if head else set()
    etags = _etags(sorted(remote), head) if head and remote else {}
    return {
        sku: etags.get(image, UNKNOWN)
        if "://" in image and not image.startswith("file://")
        else local_image_state(image)
        for sku, image in images.items()
    }


def last_known(states: Mapping[str, str], snapshot: Snapshot) -> dict[str, str]:
    """`states` of the same products, with what is UNKNOWN now as the older snapshot knew it.

    Or a photo that changes while its bucket cannot be asked would never be seen to have changed.
    """
    known = {sku: state for sku, state in states.items() if state}
    before = dict(zip((p.sku for p in snapshot.products), snapshot.image_states, strict=True))
    return {sku: known.get(sku) or before.get(sku, UNKNOWN) for sku in states}


def _etags(urls: list[str], head: Callable[[str], str]) -> dict[str, str]:
    silent = threading.Event()

    def state(url: str) -> str:
        if silent.is_set():
            return UNKNOWN  # or each of 100,000 photos would wait for its own time-out
        try:
            return head(url)
        except BlobMissing:
            return MISSING
        except SourceImageError:
            return UNKNOWN
        except StorageUnavailable:
            silent.set()
            return UNKNOWN

    with ThreadPoolExecutor(max_workers=min(HEAD_THREADS, len(urls)), thread_name_prefix="head") as pool:
        return dict(zip(urls, pool.map(state, urls), strict=True))
