"""What a run came to, as plain data: the document that `run --json` prints and the table is drawn from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, field_serializer

from assets.paths import product_path
from assets.records import ModelQuality, ProductModel
from assets.stream import ProductDone
from trellis_pipeline.costs.money import ZERO, Usd, usd_text
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from trellis_pipeline.automation.in_process import CatalogRun


@dataclass(frozen=True, slots=True)
class ProductSummary:
    """One product. cost_usd: spent by this run, 0 for what was found. seconds: work done by this run.

    A slotted record, because a run keeps one for each of its products until the end.
    """

    sku: str
    status: str
    failed_stage: str | None = None
    error: str | None = None
    model_path: str | None = None
    triangles: int | None = None
    vertices: int | None = None
    max_texture_px: int | None = None
    file_bytes: int | None = None
    cost_usd: Usd = ZERO
    seconds: float = 0.0
    verdict: str | None = None


class RowSummary(BaseModel):
    """A row of the catalog that is not a product."""

    row: int
    sku: str
    reason: str


class RunSummary(BaseModel):
    """The whole run. stopped: why it did not come to its end: products not tried, or no report."""

    catalog: str
    report: str
    stopped: str | None
    products: list[ProductSummary]
    bad_rows: list[RowSummary]
    ignored_columns: list[str]
    totals: dict[str, Any]

    @field_serializer("totals", when_used="json")
    def _exact(self, totals: dict[str, Any]) -> dict[str, Any]:
        return {**totals, "cost_usd": usd_text(totals["cost_usd"])}

    def exit_code(self, *, strict: bool) -> int:
        """0 if every product has a model (and, if strict, its gates passed), 1 otherwise."""
        lacking = self.stopped or self.bad_rows or any(p.status in {"failed", "held"} for p in self.products)
        rejected = strict and any(p.verdict == "fail" for p in self.products)
        return 1 if lacking or rejected else 0


def summarise(run: CatalogRun, seconds: float) -> RunSummary:
    """Plain data about a finished run. seconds: its wall time."""
    products = sorted(run.products, key=lambda product: product.sku)
    statuses = Counter(product.status for product in products)
    verdicts = Counter(product.verdict for product in products if product.verdict)
    return RunSummary(
        catalog=run.catalog,
        report=run.report,
        stopped=str(run.stopped) if run.stopped else None,
        products=products,
        ignored_columns=list(run.ignored_columns),
        bad_rows=[RowSummary(row=p.row, sku=p.sku, reason=p.reason) for p in run.bad_rows],
        totals={
            "products": len(products),
            **{status: statuses[status] for status in ("generated", "cached", "held", "failed")},
            "bad_rows": len(run.bad_rows),
            "passed": verdicts["pass"],
            "warned": verdicts["warn"],
            "rejected": verdicts["fail"],
            "cost_usd": sum((product.cost_usd for product in products), start=ZERO),
            "seconds": round(seconds, 3),
        },
    )


def product_summary(done: ProductDone, catalog: str, store: ArtifactStore) -> ProductSummary:
    """The account of one product. It keeps no records, so a run's memory does not grow with them."""
    sku = done.item.product.sku
    summary = ProductSummary(
        sku=sku,
        status=done.status,
        failed_stage=done.failed_stage if done.status == "failed" else None,
        error=done.error,
        seconds=round(done.seconds, 3),
    )
    model = done.item.maybe(ProductModel)
    if model is None or done.failed_stage == ProductModel.stage:
        return summary
    quality = done.item.maybe(ModelQuality)
    current = quality is not None and done.failed_stage != ModelQuality.stage
    return replace(
        summary,
        model_path=store.location(product_path(catalog, sku, "model.glb")),
        triangles=model.triangles,
        vertices=model.vertices,
        max_texture_px=model.max_texture_px,
        file_bytes=model.model.size,
        cost_usd=model.cost_usd if ProductModel.stage in done.item.fresh else ZERO,
        verdict=quality.verdict if quality is not None and current else None,
    )
