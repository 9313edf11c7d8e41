"""Runs over an explicit list of products, in chunks.

A Dagster run can express one contiguous range of partitions; the products that changed overnight are
scattered. So their names go into the run's configuration, a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from trellis_pipeline.errors import CatalogError

CATALOG_TAG = "trellis/catalog"
SNAPSHOT_TAG = "trellis/snapshot"


def chosen(skus: Sequence[str], only: Collection[str]) -> Sequence[str]:
    """The catalog's products that are named in `only`, or all of them where it is empty.

    Raises CatalogError for a name that the catalog does not have.
    """
    if not only:
        return skus
    wanted = set(only)
    unknown = sorted(wanted.difference(skus))
    if unknown:
        raise CatalogError(f"the catalog has no product {', '.join(unknown)}; it has {len(skus)} products")
    return [sku for sku in skus if sku in wanted]


def line_job_name(catalog: str) -> str:
    """The job that takes products through all stages."""
    return f"{catalog}_products_job"


def report_job_name(catalog: str) -> str:
    """The job that renews a catalog's reports."""
    return f"{catalog}_reports_job"


def line_config(
    catalog: str, products: Sequence[str], attempts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Run configuration that names the products."""
    config = {"products": list(products), "attempts": dict(attempts or {})}
    return {"ops": {f"{catalog}_line": {"config": config}}}


def products_in(run_config: Mapping[str, Any], catalog: str) -> list[str]:
    """The products that a run's configuration names, as `line_config` wrote it; empty if it names none."""
    step = run_config.get("ops", {}).get(f"{catalog}_line", {})
    return list(step.get("config", {}).get("products", ()))


def run_requests(
    catalog: str,
    products: Sequence[str],
    size: int,
    key: str,
    *,
    attempts: Mapping[str, int] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[dg.RunRequest]:
    """One request for each chunk of at most `size` products.

    key: identifies what is asked for; with the chunk's number it becomes the run key, so that asking again
    after a crash or a repeated tick starts nothing twice.
    """
    for number, start in enumerate(range(0, len(products), size)):
        chunk = products[start : start + size]
        chosen = {sku: attempts[sku] for sku in chunk if sku in attempts} if attempts else {}
        yield dg.RunRequest(
            run_key=f"{key}:{number}",
            job_name=line_job_name(catalog),
            run_config=line_config(catalog, chunk, chosen),
            tags={CATALOG_TAG: catalog, **(tags or {})},
        )
