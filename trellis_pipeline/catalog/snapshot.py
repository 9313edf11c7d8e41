"""Snapshots: a catalog as it was, kept as Parquet, to be compared with the catalog as it is.

A snapshot holds the whole record of each product beside its hash, so that a removed product can still be
named and anybody can open a snapshot with pandas or DuckDB. The same products give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trellis_pipeline.catalog.product import Product, Scalar
from trellis_pipeline.errors import CatalogError

FORMAT_KEY = b"trellis_pipeline.snapshot"
FORMAT_VERSION = b"1"

_NO_SETTINGS: Mapping[str, Scalar] = MappingProxyType({})
_TEXT = ("sku", "image", "title", "category", "settings", "row_hash", "image_state")
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

    products = snapshot.products
    text: dict[str, list[str] | tuple[str, ...]] = {
        "sku": [product.sku for product in products],
        "image": [product.image for product in products],
        "title": [product.title for product in products],
        "category": [product.category for product in products],
        "settings": [_settings_text(product.settings) for product in products],
        "row_hash": snapshot.row_hashes,
        "image_state": snapshot.image_states,
    }
    arrays = {name: pa.array(text[name], pa.string()) for name in _TEXT}
    for name in _LENGTHS:
        arrays[name] = pa.array([getattr(product, name) for product in products], pa.float64())
    arrays["row"] = pa.array([product.row for product in products], pa.int64())
    table = pa.table(arrays).replace_schema_metadata({FORMAT_KEY: FORMAT_VERSION})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["category", "settings"])
    return sink.getvalue()


def snapshot_from_parquet(data: bytes) -> Snapshot:
    """The snapshot that `encode_snapshot` wrote. Raises CatalogError if `data` is anything else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
        if (table.schema.metadata or {}).get(FORMAT_KEY) != FORMAT_VERSION:
            raise CatalogError("this Parquet file is no catalog snapshot of a version this program can read")
        columns = {name: table.column(name).to_pylist() for name in (*_TEXT, *_LENGTHS, "row")}
        settings = {text: _settings(text) for text in set(columns["settings"])}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"the catalog snapshot is damaged ({error}); delete it to start anew") from error
    products = tuple(
        Product(sku, image, title, category, width, height, depth, settings[own], row)
        for sku, image, title, category, width, height, depth, own, row in zip(
            *(columns[name] for name in ("sku", "image", "title", "category", *_LENGTHS, "settings", "row")),
            strict=True,
        )
    )
    return Snapshot(products, tuple(columns["row_hash"]), tuple(columns["image_state"]))


def _settings_text(settings: Mapping[str, Scalar]) -> str:
    if not settings:
        return ""
    return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _settings(text: str) -> Mapping[str, Scalar]:
    return MappingProxyType(json.loads(text)) if text else _NO_SETTINGS
