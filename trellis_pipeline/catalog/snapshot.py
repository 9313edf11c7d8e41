"""Snapshots: a catalog as it was, kept as Parquet, to be compared with the catalog as it is.

A snapshot holds the whole record of each product beside its hash, so that a removed product can still be
named and anybody can open a snapshot with pandas or DuckDB. The same products give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trellis_pipeline.catalog.product import Product, Scalar
from trellis_pipeline.errors import CatalogError

FORMAT_KEY = b"trellis_pipeline.snapshot"
FORMAT_VERSION = b"1"

# Written and read in pieces of this many rows, so that memory does not follow the size of the catalog.
_BATCH_ROWS = 2_000

_NO_SETTINGS: Mapping[str, Scalar] = MappingProxyType({})
_TEXT = ("sku", "image", "title", "category", "settings", "row_hash", "image_state")
_BESIDE = ("settings", "row_hash", "image_state")
_LENGTHS = ("width_m", "height_m", "depth_m")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The products of a catalog at one time, in catalog order, with one hash and one image state for each.

    row_hashes: `Product.row_hash` as it was when the snapshot was taken. image_states: change tokens of the
    photos (see `image_state`), "" where unknown. All three have the same length.
    """

    products: tuple[Product, ...]
    row_hashes: tuple[str, ...]
    image_states: tuple[str, ...]


def take_snapshot(products: Iterable[Product], image_states: Mapping[str, str] | None = None) -> Snapshot:
    """A snapshot of `products`. image_states: change tokens by SKU; a missing SKU counts as unknown.

    Raises CatalogError if two products share a SKU.
    """
    kept = tuple(products)
    if len({product.sku for product in kept}) < len(kept):
        raise CatalogError("two products share a SKU; pass the products of one load_catalog call")
    states = image_states or {}
    return Snapshot(
        kept,
        tuple(product.row_hash for product in kept),
        tuple(states.get(product.sku, "") for product in kept),
    )


def snapshot_to_parquet(products: Iterable[Product], image_states: Mapping[str, str] | None = None) -> bytes:
    """`take_snapshot` and `encode_snapshot` in one."""
    return encode_snapshot(take_snapshot(products, image_states))


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot as Parquet: one row per product, columns as in `Product`, settings as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.string() for name in _TEXT} | {name: pa.float64() for name in _LENGTHS}
    schema = pa.schema([*types.items(), ("row", pa.int64())], metadata={FORMAT_KEY: FORMAT_VERSION})
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=["category", "settings"]
    ) as writer:
        for start in range(0, max(len(snapshot.products), 1), _BATCH_ROWS):
            writer.write_batch(pa.record_batch(_columns(snapshot, start, start + _BATCH_ROWS), schema=schema))
    return sink.getvalue()


def _columns(snapshot: Snapshot, start: int, end: int) -> dict[str, list[Any]]:
    products = snapshot.products[start:end]
    own = (*(name for name in _TEXT if name not in _BESIDE), *_LENGTHS, "row")
    return {
        **{name: [getattr(product, name) for product in products] for name in own},
        "settings": [_settings_text(product.settings) for product in products],
        "row_hash": list(snapshot.row_hashes[start:end]),
        "image_state": list(snapshot.image_states[start:end]),
    }


def snapshot_from_parquet(data: bytes) -> Snapshot:
    """The snapshot that `encode_snapshot` wrote. Raises CatalogError if `data` is anything else."""
    products: list[Product] = []
    hashes: list[str] = []
    states: list[str] = []
    with _damage_named():
        for columns in _batches(data):
            products += _products(columns)
            hashes += columns["row_hash"]
            states += columns["image_state"]
    return Snapshot(tuple(products), tuple(hashes), tuple(states))


def products_from_parquet(data: bytes, skus: Collection[str]) -> tuple[Product, ...]:
    """Only the products named, in catalog order; what the snapshot lacks is left out.

    Raises CatalogError as `snapshot_from_parquet` does.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(skus), pa.string())
    with _damage_named():
        return tuple(
            product
            for columns in _batches(data, lambda batch: pc.is_in(batch.column("sku"), value_set=wanted))
            for product in _products(columns)
        )


def skus_from_parquet(data: bytes) -> tuple[str, ...]:
    """The SKUs alone, in catalog order. Raises CatalogError as `snapshot_from_parquet` does."""
    with _damage_named():
        return tuple(sku for columns in _batches(data, names=("sku",)) for sku in columns["sku"])


def _batches(
    data: bytes,
    keep: Callable[[Any], Any] | None = None,
    names: Sequence[str] = (*_TEXT, *_LENGTHS, "row"),
) -> Iterator[dict[str, list[Any]]]:
    """The columns as Python values, some thousand rows at a time. keep: which rows of a batch to take."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    if (file.schema_arrow.metadata or {}).get(FORMAT_KEY) != FORMAT_VERSION:
        raise CatalogError("this Parquet file is no catalog snapshot of a version this program can read")
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(names)):
        chosen = batch.filter(keep(batch)) if keep else batch
        yield {name: chosen.column(name).to_pylist() for name in names}


def _products(columns: Mapping[str, list[Any]]) -> list[Product]:
    settings = {text: _settings(text) for text in set(columns["settings"])}
    names = ("sku", "image", "title", "category", *_LENGTHS, "settings", "row")
    return [
        Product(sku, image, title, category, width, height, depth, settings[own], row)
        for sku, image, title, category, width, height, depth, own, row in zip(
            *(columns[name] for name in names), strict=True
        )
    ]


@contextmanager
def _damage_named() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"the catalog snapshot is damaged ({error}); delete it to start anew") from error


def _settings_text(settings: Mapping[str, Scalar]) -> str:
    if not settings:
        return ""
    return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _settings(text: str) -> Mapping[str, Scalar]:
    return MappingProxyType(json.loads(text)) if text else _NO_SETTINGS
