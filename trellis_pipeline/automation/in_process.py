"""A whole catalog through Dagster in this process: what `trellis-pipeline run` does.

The same assets, the same event log and the same checks as a run from the UI; only the executor is here. The
reports are made in a run of their own, so that a failed product does not keep them from being made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.line import STAGES
from assets.stream import ProductDone, RunStopped
from resources.generator import GeneratorResource
from resources.progress import ProgressResource
from trellis_pipeline.automation.chunks import CATALOG_TAG, line_config
from trellis_pipeline.automation.instance import PROCESS_TAG, end_orphans, open_instance, this_process
from trellis_pipeline.catalog.rows import RowProblem
from trellis_pipeline.config import CatalogSettings, Settings
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import CatalogError, TrellisError


@dataclass(frozen=True, slots=True)
class CatalogRun:
    """What a run over a catalog came to. stopped: why it ended early, if it did."""

    catalog: str
    products: tuple[ProductDone, ...]
    bad_rows: tuple[RowProblem, ...]
    report: str
    stopped: TrellisError | None = None


@dataclass(slots=True)
class _Listener:
    """Collects what the line reports and passes it on."""

    on_event: Callable[[Any], None]
    done: list[ProductDone] = field(default_factory=list)
    stopped: TrellisError | None = None

    def __call__(self, event: Any) -> None:
        if isinstance(event, ProductDone):
            self.done.append(event)
        elif isinstance(event, RunStopped):
            self.stopped = event.error
        self.on_event(event)


def run_catalog(
    settings: Settings,
    catalog: CatalogSettings,
    only: Sequence[str] = (),
    on_start: Callable[[int], None] = lambda _count: None,
    on_event: Callable[[Any], None] = lambda _event: None,
    *,
    verbose: bool = False,
    generator: GeneratorResource | None = None,
) -> CatalogRun:
    """Run a catalog: its rows, every product or those named in `only`, then its reports.

    on_start is told how many products will run; on_event gets every event of the line. verbose: show
    Dagster's log. generator: instead of the configured one.
    Raises CatalogError when the catalog cannot be read or lacks a product named in `only`, ConfigError and
    StorageUnavailable before anything is made, KeyboardInterrupt when it was stopped by hand.
    """
    listener = _Listener(on_event)
    definitions = build_definitions(settings, ProgressResource(listener), generator)
    resources = dict(definitions.resources or {})
    assets = {
        key.path[-1]: asset
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
        if key.path[0] == catalog.name
    }
    loaded = resources["catalogs"].load(settings.catalog_source(catalog))
    skus = _chosen([product.sku for product in loaded.products], only)
    on_start(len(skus))
    with open_instance(settings) as instance:
        end_orphans(instance)

        def run(names: Sequence[str], config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
            result = dg.materialize(
                list({id(assets[name]): assets[name] for name in names}.values()),
                instance=instance,
                resources=resources,
                run_config={**(config or {}), **_loggers(verbose)},
                raise_on_error=False,
                tags={CATALOG_TAG: catalog.name, PROCESS_TAG: this_process()},
            )
            if _was_interrupted(result):
                raise KeyboardInterrupt
            return result

        first = run(["product_catalog"])
        if not first.success:
            raise _reason(first)
        size = settings.run.products_per_run
        for start in range(0, len(skus), size):
            before = len(listener.done)
            chunk = skus[start : start + size]
            result = run([stage.name for stage in STAGES], line_config(catalog.name, chunk))
            if not result.success and len(listener.done) == before and listener.stopped is None:
                raise _reason(result)
            if listener.stopped is not None:
                break
        run(["quality_report", "cost_report"])
    store = resources["store"].open()
    return CatalogRun(
        catalog=catalog.name,
        products=tuple(listener.done),
        bad_rows=tuple(loaded.problems),
        report=store.location(f"{catalog.name}/report.html"),
        stopped=listener.stopped,
    )


def _loggers(verbose: bool) -> dict[str, Any]:
    """Dagster logs to the terminal only for those who asked; its event log has everything anyway."""
    return {"loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}}}


def _chosen(skus: list[str], only: Sequence[str]) -> list[str]:
    if not only:
        return skus
    unknown = sorted(set(only) - set(skus))
    if unknown:
        raise CatalogError(f"the catalog has no product {', '.join(unknown)}; it has {len(skus)} products")
    return [sku for sku in skus if sku in set(only)]


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody pressed Ctrl-C. Dagster keeps that to itself where errors are not raised."""
    for event in result.all_events:
        error = getattr(event.event_specific_data, "error", None)
        while error is not None:
            if error.cls_name in {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}:
                return True
            error = error.cause
    return False


def _reason(result: dg.ExecuteInProcessResult) -> TrellisError:
    """The first error of a run that never came to its products."""
    for event in result.all_events:
        data = getattr(event, "event_specific_data", None)
        error = getattr(data, "error", None)
        if error is not None:
            cause = error.cause or error
            return TrellisError(cause.message.strip())
    return TrellisError("the run failed; see the Dagster log")
