"""`quality_report`: the whole catalog on one page, and as one table.

The page is for people who look and decide; `quality.parquet` has the same figures for those who query.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.catalog_snapshot import load_problems, load_snapshot
from assets.opening import LineSettings
from assets.outcome import Problem, load_problem
from assets.paths import product_path, quality_table_path, record_path, report_path
from assets.records import ModelQuality, ProductCrop, ProductModel, R, SourceImage
from resources.generator import generator_of
from resources.store import ArtifactStoreResource
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.errors import BlobMissing
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from trellis_pipeline.review.records import ReportProduct, ReportTotals

_READERS = 16  # records are small and many; on S3 each one is a round trip
_NOTED_ROWS = 20
_UNITS = {"polycount": "", "texture_size": " px", "file_size": " B"}


def build_quality_report(settings: LineSettings) -> dg.AssetsDefinition:
    """The unpartitioned asset that writes the report of one catalog."""
    catalog = settings.name

    @dg.asset(
        key=dg.AssetKey([catalog, "quality_report"]),
        deps=[dg.AssetKey([catalog, "model_quality"])],
        group_name=catalog,
        code_version="1",
        kinds={"parquet"},
        description="report.html and quality.parquet: every product, its pictures, figures and verdict.",
    )
    def quality_report(store: ArtifactStoreResource) -> dg.MaterializeResult[None]:
        # A page of ten thousand products takes more memory than all the runs before it; a process of its own
        # gives that back, so a long-lived one does not grow with the catalog.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            generator = generator_of(settings.settings).seller
            made = pool.submit(make_report, store.url, store.s3_endpoint, store.s3_region, catalog, generator)
            totals = made.result()
        shelf = store.open()
        return dg.MaterializeResult(
            metadata={
                "report": dg.MetadataValue.path(shelf.location(report_path(catalog))),
                "table": dg.MetadataValue.path(shelf.location(quality_table_path(catalog))),
                "products": totals.products,
                "passed": totals.passed,
                "warned": totals.warned,
                "rejected": totals.rejected,
                "failed": totals.failed,
                "held": totals.held,
            }
        )

    return quality_report


def make_report(
    url: str, s3_endpoint: str | None, s3_region: str | None, catalog: str, generator: str
) -> "ReportTotals":
    """Write the page and the table of one catalog into the store at `url`. Runs in a process of its own."""
    from trellis_pipeline.review.records import RunReport, totals_of
    from trellis_pipeline.review.report import write_report

    shelf = ArtifactStoreResource(url=url, s3_endpoint=s3_endpoint, s3_region=s3_region).open()
    products = tuple(_rows(shelf, catalog))
    totals = totals_of(products, seconds=sum(product.seconds or 0.0 for product in products))
    page = write_report(
        RunReport(
            catalog=catalog,
            generator=generator,
            generated_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            products=products,
            totals=totals,
            notes=_notes(shelf, catalog),
        )
    )
    shelf.write(report_path(catalog), page.encode())
    shelf.write(quality_table_path(catalog), _table(products))
    return totals


def _notes(store: ArtifactStore, catalog: str) -> tuple[str, ...]:
    """Rows of the catalog that gave no product, and columns that were ignored: nobody sees them otherwise."""
    from trellis_pipeline.catalog.rows import row_name

    try:
        read = load_problems(store, catalog)
    except BlobMissing:
        return ()
    bad_rows = [(row_name(bad.row, bad.sku), bad.reason) for bad in read.bad_rows[:_NOTED_ROWS]]
    notes = [f"{name[0].upper()}{name[1:]} is no product: {reason}." for name, reason in bad_rows]
    if len(read.bad_rows) > _NOTED_ROWS:
        notes.append(f"{len(read.bad_rows) - _NOTED_ROWS:,} more rows are no products.")
    if read.ignored_columns:
        notes.append(f"Ignored columns: {', '.join(read.ignored_columns)}.")
    return tuple(notes)


def _rows(store: ArtifactStore, catalog: str) -> Iterator["ReportProduct"]:
    """Every product of the snapshot with what its stages left. Products never run are left out."""
    snapshot = load_snapshot(store, catalog)
    if snapshot is None:
        return
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda product: _row(store, catalog, product), snapshot.products)
        yield from (row for row in found if row is not None)


def _row(store: ArtifactStore, catalog: str, product: Product) -> "ReportProduct | None":
    from trellis_pipeline.review.records import ReportProduct

    problem = load_problem(store, catalog, product.sku)
    source = _read(store, catalog, product.sku, SourceImage)
    crop = _read(store, catalog, product.sku, ProductCrop)
    model = _read(store, catalog, product.sku, ProductModel)
    quality = _read(store, catalog, product.sku, ModelQuality)
    if problem is None and model is None:
        return None
    figures: dict[str, Any] = {}
    if model is not None:
        figures = {
            "preview_href": _href(product.sku, "preview.png"),
            "model_href": _href(product.sku, "model.glb"),
            "triangles": model.triangles,
            "vertices": model.vertices,
            "max_texture_px": model.max_texture_px,
            "file_bytes": model.model.size,
            "cost_usd": model.model_cost_usd,
        }
    if quality is not None:
        figures |= {"verdict": quality.verdict, "checks": _checks(quality)}
    return ReportProduct(
        sku=product.sku,
        title=product.title,
        category=product.category,
        status=problem.status if problem else "cached" if model and model.reused else "generated",
        failed_stage=problem.stage if problem else None,
        error=problem.reason if problem else None,
        photo_href=_href(product.sku, f"photo{source.photo.suffix}") if source else None,
        crop_href=_href(product.sku, "crop.png") if crop else None,
        seconds=_seconds(problem, source, crop, model, quality),
        facts=_facts(source, crop, model),
        **figures,
    )


def _read(store: ArtifactStore, catalog: str, sku: str, kind: type[R]) -> R | None:
    try:
        return kind.model_validate_json(store.read(record_path(catalog, sku, kind.stage)))
    except (BlobMissing, ValueError):
        return None


def _href(sku: str, name: str) -> str:
    """Relative to the report, which stands in the catalog's folder."""
    return product_path("", sku, name).removeprefix("/")


def _seconds(problem: Problem | None, *records: Any) -> float:
    return problem.seconds if problem else sum(record.seconds for record in records if record is not None)


def _checks(quality: ModelQuality) -> tuple[Any, ...]:
    from trellis_pipeline.review.records import ReportCheck

    return tuple(
        ReportCheck(
            name=check.name,
            passed=check.passed,
            severity="error" if check.severity == "error" else "warning",
            value_text=_figure(check.value, _UNITS.get(check.name, "")),
            limit_text=_figure(check.limit, _UNITS.get(check.name, "")),
            message=check.message,
        )
        for check in quality.checks
    )


def _figure(value: float | bool | None, unit: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}{unit}"


def _facts(
    source: SourceImage | None, crop: ProductCrop | None, model: ProductModel | None
) -> dict[str, str]:
    """The product's lineage, from photo to file."""
    facts: dict[str, str] = {}
    if source is not None:
        facts |= {
            "source": source.location,
            "source sha256": source.photo.sha256,
            "photo": f"{source.width} x {source.height} px, {source.format} {source.mode}",
        }
    if crop is not None:
        facts |= {"matte": crop.matte_method, "crop sha256": crop.crop.sha256}
        if crop.flags:
            facts["triage"] = "; ".join(flag.message for flag in crop.flags)
    if model is not None:
        facts |= {
            "generator": model.generator,
            "request key": model.request_key,
            "seed": str(model.seed),
            "attempt": str(model.attempt),
            "model sha256": model.model.sha256,
        }
    return facts


def _table(products: tuple["ReportProduct", ...]) -> bytes:
    """One row for each product: identity, status, figures, one column for each check."""
    import pandas as pd

    rows = [
        {
            "sku": product.sku,
            "title": product.title,
            "category": product.category,
            "status": product.status,
            "failed_stage": product.failed_stage,
            "error": product.error,
            "verdict": product.verdict,
            "triangles": product.triangles,
            "vertices": product.vertices,
            "max_texture_px": product.max_texture_px,
            "file_bytes": product.file_bytes,
            "cost_usd": product.cost_usd,
            "seconds": product.seconds,
            **{f"check_{check.name}": check.passed for check in product.checks},
            **{name.replace(" ", "_"): value for name, value in product.facts.items()},
        }
        for product in products
    ]
    out = io.BytesIO()
    pd.DataFrame(rows).to_parquet(out, index=False)
    return out.getvalue()
