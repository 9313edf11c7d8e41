"""A whole catalog through Dagster in this process: what `trellis-pipeline run` does.

The same assets, the same event log and the same checks as a run from the UI; only the executor is here. The
reports are made in a run of their own, so that a failed product does not keep them from being made.
"""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from assets.catalog_snapshot import load_problems, load_skus
from assets.line import SPENDING_RUN_TAG, STAGES
from assets.stream import ProductDone, RunStopped
from resources.generator import GeneratorResource
from resources.progress import ProgressResource
from trellis_pipeline import errors
from trellis_pipeline.automation.chunks import CATALOG_TAG, chosen, line_config
from trellis_pipeline.automation.instance import (
    PROCESS_TAG,
    end_orphans,
    home_unavailable,
    open_instance,
)
from trellis_pipeline.automation.same_catalog import refuse_namesake
from trellis_pipeline.automation.summary import ProductSummary, product_summary
from trellis_pipeline.catalog.rows import RowProblem
from trellis_pipeline.config import Settings
from trellis_pipeline.config_products import CatalogSettings
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import TrellisError
from trellis_pipeline.purchasing.processes import this_process
from trellis_pipeline.stopping import stop_requests

# Dagster keeps every event of a run in this process until the run ends, about 100 kB for each product.
_MOST_PER_RUN = 200


@dataclass(frozen=True, slots=True)
class CatalogRun:
    """What a run over a catalog came to. stopped: why it did not come to its end, if so."""

    catalog: str
    products: tuple[ProductSummary, ...]
    bad_rows: tuple[RowProblem, ...]
    ignored_columns: tuple[str, ...]
    report: str
    stopped: TrellisError | None = None


@dataclass(slots=True)
class _Listener:
    """Collects a short account of each product, and passes what the line reports on."""

    on_event: Callable[[Any], None]
    account: Callable[[ProductDone], ProductSummary]
    done: list[ProductSummary] = field(default_factory=list)
    stopped: TrellisError | None = None

    def __call__(self, event: Any) -> None:
        if isinstance(event, ProductDone):
            self.done.append(self.account(event))
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
    progress = ProgressResource()
    definitions = build_definitions(settings, progress, generator)
    resources = dict(definitions.resources or {})
    store = resources["store"].open()
    refuse_namesake(settings, catalog, store)
    listener = _Listener(on_event, lambda done: product_summary(done, catalog.name, store))
    progress.listener = listener
    assets = {
        key.path[-1]: asset
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
        if key.path[0] == catalog.name
    }
    tags = {
        CATALOG_TAG: catalog.name,
        PROCESS_TAG: this_process(),
        SPENDING_RUN_TAG: str(uuid.uuid4()),
    }
    with stop_requests() as stop, _records_kept(settings), open_instance(settings) as instance:
        end_orphans(instance)

        def run(names: Sequence[str], config: dict[str, Any] | None = None) -> TrellisError | None:
            """Why the run failed, or None. Its result, with every event, is not kept."""
            result = dg.materialize(
                list({id(assets[name]): assets[name] for name in names}.values()),
                instance=instance,
                resources=resources,
                run_config={**(config or {}), **_loggers(verbose)},
                raise_on_error=False,
                tags=tags,
            )
            interrupted = stop.is_set() or _was_interrupted(result)
            reason = None if result.success else _reason(result)
            # What Dagster leaves behind hangs together in reference cycles, a stopped step's generator with
            # its workers among it. Collected here, memory stays flat from run to run, and stopped work ends
            # now instead of at the end of the process.
            del result
            gc.collect()
            if interrupted:
                raise KeyboardInterrupt
            return reason

        failure = run(["product_catalog"])
        if failure is not None:
            raise failure
        skus = chosen(load_skus(store, catalog.name), only)
        on_start(len(skus))
        size = min(settings.run.products_per_run, _MOST_PER_RUN)
        for start in range(0, len(skus), size):
            before = len(listener.done)
            chunk = skus[start : start + size]
            failure = run([stage.name for stage in STAGES], line_config(catalog.name, chunk))
            if failure is not None and len(listener.done) == before and listener.stopped is None:
                raise failure
            if listener.stopped is not None:
                break
        failure = run(["quality_report", "cost_report"])
        stopped = listener.stopped
        if failure is not None and stopped is None:
            stopped = TrellisError(f"the reports could not be made: {failure}")
    problems = load_problems(store, catalog.name)
    return CatalogRun(
        catalog=catalog.name,
        products=tuple(listener.done),
        bad_rows=problems.bad_rows,
        ignored_columns=problems.ignored_columns,
        report=store.location(f"{catalog.name}/report.html"),
        stopped=stopped,
    )


def _loggers(verbose: bool) -> dict[str, Any]:
    """Dagster logs to the terminal only for those who asked; its event log has everything anyway."""
    return {"loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}}}


@contextmanager
def _records_kept(settings: Settings) -> Iterator[None]:
    """Where Dagster's own files fail (a full disk, a read-only one), the run ends with one clear error."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise home_unavailable(settings.dagster_home, error) from None


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
    """The first error of a run that never came to its products: ours where there is one behind it."""
    for event in result.all_events:
        first = error = getattr(event.event_specific_data, "error", None)
        while error is not None:
            kind = getattr(errors, error.cls_name or "", None)
            if kind is not None:
                # Dagster keeps the text as a traceback shows it, with the class in front.
                ours: TrellisError = kind(error.message.partition(f"{error.cls_name}: ")[2].strip())
                return ours
            error = error.cause
        if first is not None:
            return TrellisError((first.cause or first).message.strip())
    return TrellisError("the run failed; see the Dagster log")
