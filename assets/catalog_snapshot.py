"""The catalog as Dagster sees it: a set of product partitions, and the snapshot that says what each one is.

Runs work on the snapshot, not on the catalog file, so that a file edited in the middle of a backfill cannot
give one product two meanings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.paths import snapshot_path
from trellis_pipeline.errors import BlobMissing
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from trellis_pipeline.catalog.product import Product
    from trellis_pipeline.catalog.snapshot import Snapshot


def partitions_of(catalog: str) -> dg.DynamicPartitionsDefinition:
    """One partition for each product of the catalog."""
    return dg.DynamicPartitionsDefinition(name=f"{catalog}_products")


def catalog_version(catalog: str) -> str:
    """The data version of `product_catalog`: which catalog it is, not what stands in it.

    Dagster compares it for every product. Were it the content, one new row would show all products as
    stale; which products really changed is found by the diff and by the photos' own content hashes
    (docs/adr/0003).
    """
    return f"catalog:{catalog}"


def load_snapshot(store: ArtifactStore, catalog: str) -> Snapshot | None:
    """The last snapshot, or None before the first."""
    from trellis_pipeline.catalog.snapshot import snapshot_from_parquet

    try:
        return snapshot_from_parquet(store.read(snapshot_path(catalog)))
    except BlobMissing:
        return None


def load_products(store: ArtifactStore, catalog: str, skus: set[str]) -> dict[str, Product]:
    """The named products of the last snapshot; those it does not have are left out."""
    snapshot = load_snapshot(store, catalog)
    if snapshot is None:
        return {}
    return {product.sku: product for product in snapshot.products if product.sku in skus}
