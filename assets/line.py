"""The line of one catalog: every product flows through the stages on its own, many at once, in one run.

One run for each product would cost seconds of bookkeeping apiece, and one step for each stage would make
every product wait for the slowest. So a run takes a chunk of products through all selected stages in a
single step, and records each product's materialization when it leaves each stage. A product that fails is
recorded and passed by; the run fails at the end with the list, and what was finished stays.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from assets import model_quality, product_crops, product_models, source_images
from assets.catalog_snapshot import catalog_version, load_products, partitions_of
from assets.dagster_events import event_log_kept_open, provenance_tags, report_checks, report_failed_partition
from assets.opening import LineSettings, open_tools
from assets.records import LineItem, ModelQuality, StageRecord
from assets.stage import Stage, picture
from assets.stream import Event, ProductDone, RunStopped, StageDone, stream
from resources.catalog import CatalogResource
from resources.generator import GeneratorResource
from resources.ledger import LedgerResource
from resources.progress import ProgressResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.quality.profiles import CHECK_NAMES

if TYPE_CHECKING:
    from assets.tools import LineTools

STAGES: tuple[Stage[Any], ...] = (
    source_images.STAGE,
    product_crops.STAGE,
    product_models.STAGE,
    model_quality.STAGE,
)
_CHECK_TEXTS = {
    "polycount": "No more triangles than the profile allows.",
    "texture_size": "No texture larger than the profile allows.",
    "file_size": "The file is no larger than the profile allows.",
    "watertight": "No open edges after welding vertices at the same position.",
    "valid_gltf": "The file keeps the rules of glTF 2.0.",
    "silhouette": "Seen from the front, the outline matches the photo's.",
}
_NAMED_FAILURES = 20
# A command that takes several Dagster runs names itself here, so that one `run_usd` covers all of them.
SPENDING_RUN_TAG = "trellis/spending_run"
# Which device a local generator takes in this run, where a machine has several.
DEVICE_TAG = "trellis/device"


class LineConfig(dg.Config):
    """products: SKUs to run; empty means the partitions that the run was launched for.

    attempts: SKU to attempt number, for products that are to be generated again with another seed.
    """

    products: list[str] = []
    attempts: dict[str, int] = {}


def build_line(settings: LineSettings) -> dg.AssetsDefinition:
    """The streaming multi-asset of one catalog: its four stages and the checks of the last."""
    with warnings.catch_warnings():
        # Partitioned checks and backfill policies are marked as preview and beta. We know: the Dagster
        # version is bounded, and tests hold what we use of them.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _line(settings)


def _line(settings: LineSettings) -> dg.AssetsDefinition:
    catalog = settings.name
    partitions = partitions_of(catalog)

    @dg.multi_asset(
        name=f"{catalog}_line",
        specs=[stage.spec(catalog, partitions) for stage in STAGES],
        check_specs=[
            dg.AssetCheckSpec(
                name,
                asset=model_quality.STAGE.asset_key(catalog),
                description=_CHECK_TEXTS[name],
                partitions_def=partitions,
            )
            for name in CHECK_NAMES
        ],
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(settings.products_per_run),
        pool=settings.pool,
    )
    def line(
        context: dg.AssetExecutionContext,
        config: LineConfig,
        store: ArtifactStoreResource,
        generator: GeneratorResource,
        catalogs: CatalogResource,
        ledger: dg.ResourceParam[LedgerResource],
        progress: dg.ResourceParam[ProgressResource],
    ) -> Iterator[dg.AssetMaterialization]:
        selected, upstream = _select(context, catalog)
        skus = config.products or _partition_keys(context)
        spending_run = context.run.tags.get(SPENDING_RUN_TAG, context.run.run_id)
        device = context.run.tags.get(DEVICE_TAG)
        opened = open_tools(settings, spending_run, store, generator, catalogs, ledger, device)
        with opened as tools, event_log_kept_open(context):
            items = _items(skus, config.attempts, tools)
            # Closed before the tools are: a run stopped from outside ends its work first.
            with closing(stream(items, selected, upstream, tools, settings.in_flight)) as events:
                yield from _record(context, events, tools, progress, by_range=not config.products)

    return line


def _partition_keys(context: dg.AssetExecutionContext) -> list[str]:
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    raise dg.Failure(
        "This run names no products: launch it over partitions, or list SKUs under `products` in the "
        "configuration of its op.",
        allow_retries=False,
    )


class _Selection(NamedTuple):
    stages: Sequence[Stage[Any]]
    upstream: Sequence[Stage[Any]]


def _select(context: dg.AssetExecutionContext, catalog: str) -> _Selection:
    """The stages this run was asked for, and those before or between them whose records it reads."""
    chosen = [stage for stage in STAGES if stage.asset_key(catalog) in context.selected_asset_keys]
    return _Selection(chosen, [stage for stage in STAGES if stage not in chosen])


def _items(skus: Sequence[str], attempts: dict[str, int], tools: "LineTools") -> Iterator[LineItem]:
    """The products to run, looked up in the snapshot that `product_catalog` took."""
    products = load_products(tools.store, tools.catalog, set(skus))
    for sku in skus:
        # A partition without a row (retired meanwhile) still runs, so that it fails by name.
        yield LineItem(products.get(sku) or Product(sku=sku, image=""), attempts.get(sku))


def _record(
    context: dg.AssetExecutionContext,
    events: Iterator[Event],
    tools: "LineTools",
    progress: ProgressResource,
    *,
    by_range: bool,
) -> Iterator[dg.AssetMaterialization]:
    """Tell Dagster what happens, as it happens; fail at the end if anything failed."""
    failures: list[ProductDone] = []
    counts: dict[str, int] = {}
    stopped: RunStopped | None = None
    for event in events:
        progress.report(event)
        _tell_alerts(context, tools)
        if isinstance(event, StageDone):
            yield _materialization(context, event, tools)
            if isinstance(event.record, ModelQuality):
                key = event.stage.asset_key(tools.catalog)
                report_checks(context, key, event.item.product.sku, event.record.checks)
        elif isinstance(event, ProductDone):
            counts[event.status] = counts.get(event.status, 0) + 1
            if event.status == "failed":
                failures.append(event)
                context.log.error(f"{event.item.product.sku}: {event.failed_stage}: {event.error}")
                if not by_range and event.failed_stage:
                    key = dg.AssetKey([tools.catalog, event.failed_stage])
                    report_failed_partition(context, key, event.item.product.sku)
            elif event.status == "held":
                context.log.warning(f"{event.item.product.sku}: held at {event.failed_stage}: {event.error}")
        else:
            stopped = event
    _tell_alerts(context, tools)
    context.log.info("products: " + (", ".join(f"{n} {status}" for status, n in counts.items()) or "none"))
    if failures or stopped:
        raise _failure(failures, stopped, sum(counts.values()))


def _tell_alerts(context: dg.AssetExecutionContext, tools: "LineTools") -> None:
    """Budgets that go to their end, as observations of the catalog's cost report."""
    while not tools.alerts.empty():
        alert = tools.alerts.get()
        context.log.warning(str(alert))
        context.log_event(
            dg.AssetObservation(
                [tools.catalog, "cost_report"],
                description=str(alert),
                metadata={
                    "scope": alert.state.scope,
                    "percent": alert.percent,
                    "cap_usd": str(alert.state.cap),
                    "settled_usd": str(alert.state.settled),
                    "reserved_usd": str(alert.state.reserved),
                },
            )
        )


def _materialization(
    context: dg.AssetExecutionContext, event: StageDone, tools: "LineTools"
) -> dg.AssetMaterialization:
    record, stage, sku = event.record, event.stage, event.item.product.sku
    return dg.AssetMaterialization(
        asset_key=stage.asset_key(tools.catalog),
        partition=sku,
        metadata={
            **_thumbnail(record, tools.store.get_blob),
            **stage.metadata(record),
            "cached": dg.MetadataValue.bool(not event.fresh),
        },
        tags=provenance_tags(
            context, record.data_version, stage.version, _upstream(event.item, stage, tools.catalog)
        ),
    )


def _upstream(item: LineItem, stage: Stage[Any], catalog: str) -> tuple[dg.AssetKey, str, str | None]:
    if stage.after is None:
        return dg.AssetKey([catalog, "product_catalog"]), catalog_version(catalog), None
    return dg.AssetKey([catalog, stage.after]), item.records[stage.after].data_version, item.product.sku


def _thumbnail(record: StageRecord, read: Callable[[Any], bytes]) -> dict[str, Any]:
    return {"thumbnail": picture(read(record.thumbnail))} if record.thumbnail is not None else {}


def _failure(failures: Sequence[ProductDone], stopped: RunStopped | None, total: int) -> dg.Failure:
    """The run's last word: who failed, where and why. Nothing is retried blindly: that may cost money."""
    lines = [f"- {f.item.product.sku}: {f.failed_stage}: {f.error}" for f in failures]
    shown = lines[:_NAMED_FAILURES]
    if len(lines) > len(shown):
        shown.append(f"- and {len(lines) - len(shown)} more, in the log above")
    head = f"{len(failures)} of {total} products failed; the others are finished and kept."
    if stopped is not None:
        head = f"The run stopped: {stopped.error}. {head}"
    return dg.Failure(
        description="\n".join([head, *shown]),
        metadata={"failed": len(failures), "failed_products": dg.MetadataValue.md("\n".join(lines[:1000]))},
        allow_retries=False,
    )
