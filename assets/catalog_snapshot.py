"""The catalog as Dagster sees it: a set of product partitions, and the snapshot that says what each one is.

Runs work on the snapshot, not on the catalog file, so that a file edited in the middle of a backfill cannot
give one product two meanings.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import dagster as dg

from assets.paths import catalog_problems_path, snapshot_path
from trellis_pipeline.errors import BlobMissing
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from trellis_pipeline.catalog.product import Product
    from trellis_pipeline.catalog.readers import CatalogLoad
    from trellis_pipeline.catalog.rows import RowProblem, UnknownColumn
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
    from trellis_pipeline.catalog.snapshot import products_from_parquet

    try:
        data = store.read(snapshot_path(catalog))
    except BlobMissing:
        return {}
    return {product.sku: product for product in products_from_parquet(data, skus)}


def load_skus(store: ArtifactStore, catalog: str) -> tuple[str, ...]:
    """The products of the last snapshot, in its order. Raises BlobMissing before the first."""
    from trellis_pipeline.catalog.snapshot import skus_from_parquet

    return skus_from_parquet(store.read(snapshot_path(catalog)))


@dataclass(frozen=True, slots=True)
class CatalogProblems:
    """What the last reading of a catalog could not take.

    ignored_columns: with the name that was probably meant.
    """

    bad_rows: tuple[RowProblem, ...]
    ignored_columns: tuple[str, ...]


def keep_problems(store: ArtifactStore, catalog: str, loaded: CatalogLoad) -> None:
    """Write down where the catalog was read, which rows gave no product and which columns were ignored."""
    problems = {
        "source": loaded.source,
        "results_at": store.location(catalog),
        "bad_rows": [asdict(problem) for problem in loaded.problems],
        "ignored_columns": [column_hint(column) for column in loaded.unknown_columns],
    }
    store.write(catalog_problems_path(catalog), json.dumps(problems).encode())


def load_problems(store: ArtifactStore, catalog: str) -> CatalogProblems:
    """What the last reading could not take. Raises BlobMissing before the first."""
    from trellis_pipeline.catalog.rows import RowProblem

    problems = json.loads(store.read(catalog_problems_path(catalog)))
    return CatalogProblems(
        bad_rows=tuple(RowProblem(**problem) for problem in problems["bad_rows"]),
        ignored_columns=tuple(problems["ignored_columns"]),
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a catalog was last read, and where its results stood then: absolute paths or URLs."""

    source: str
    results_at: str


def load_origin(store: ArtifactStore, catalog: str) -> Origin | None:
    """Where the catalog of that name came from; None before the first time, or where nobody noted it."""
    try:
        noted = json.loads(store.read(catalog_problems_path(catalog)))
    except BlobMissing:
        return None
    return Origin(noted["source"], noted["results_at"]) if "results_at" in noted else None


def column_hint(column: UnknownColumn) -> str:
    """A column that was ignored, with the one that was probably meant."""
    return f"{column.name}" + (f" (did you mean {column.did_you_mean}?)" if column.did_you_mean else "")
