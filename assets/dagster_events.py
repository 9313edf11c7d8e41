"""What Dagster's public API cannot say from inside a run, in one place.

Asset checks of single products in a run over many; failure marks of products in a run that was not launched
over a partition range; and which upstream event a product's materialization was made from, without which
the staleness view compares times instead of contents. All are ordinary Dagster events and tags; only their
constructors and names live under `dagster._core`. A test runs them against the installed Dagster and reads
them back through its storage, so that an upgrade that moves them fails loudly.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventType

from assets.records import Check

_SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}


def provenance_tags(
    context: dg.AssetExecutionContext,
    data_version: str,
    code_version: str,
    upstream: tuple[dg.AssetKey, str, str | None],
) -> dict[str, str]:
    """Tags that say what a materialization is and what it was made from.

    upstream: asset key, data version and partition (None for an unpartitioned asset) of the one input.
    """
    key, version, upstream_partition = upstream
    pointer = _latest_event(context, key, upstream_partition)
    return {
        DATA_VERSION_TAG: data_version,
        CODE_VERSION_TAG: code_version,
        get_input_data_version_tag(key): version,
        get_input_event_pointer_tag(key): NULL_EVENT_POINTER if pointer is None else str(pointer),
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }


def _latest_event(
    context: dg.AssetExecutionContext, asset_key: dg.AssetKey, partition: str | None
) -> int | None:
    """Storage id of the latest materialization. Unpartitioned inputs are compared by version alone."""
    if partition is None:
        return None
    latest: Mapping[str, int] = context.instance.event_log_storage.get_latest_storage_id_by_partition(
        asset_key, DagsterEventType.ASSET_MATERIALIZATION, partitions={partition}
    )
    return latest.get(partition)


def report_checks(
    context: dg.AssetExecutionContext, asset_key: dg.AssetKey, partition: str, checks: Sequence[Check]
) -> None:
    """Record evaluations of the partition that this run has just materialized."""
    if not checks:
        return
    storage_id = _latest_event(context, asset_key, partition)
    if storage_id is None:
        return
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=storage_id, run_id=context.run.run_id, timestamp=time.time()
    )
    for check in checks:
        evaluation = AssetCheckEvaluation(
            asset_key=asset_key,
            check_name=check.name,
            passed=check.passed,
            metadata=_metadata(check),
            severity=_SEVERITY[check.severity],
            description=check.message,
            partition=partition,
            target_materialization_data=target,
        )
        _report(context, DagsterEventType.ASSET_CHECK_EVALUATION, evaluation)


def report_failed_partition(
    context: dg.AssetExecutionContext, asset_key: dg.AssetKey, partition: str
) -> None:
    """Mark a partition as planned in this run; when the run ends as failed, so does the partition."""
    planned = AssetMaterializationPlannedData(asset_key, partition=partition, partitions_subset=None)
    _report(context, DagsterEventType.ASSET_MATERIALIZATION_PLANNED, planned)


@contextmanager
def event_log_kept_open(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Hold a spare connection to the SQLite files of the event log while a run writes thousands of events.

    Dagster opens and closes one for every event, and SQLite folds the write-ahead log back into the
    database whenever the last connection closes; with a spare one open it does so now and then, which
    saves about a fifth of the time for each product. Other databases need nothing.
    """
    from dagster._core.storage.event_log import SqliteEventLogStorage  # brings SQLAlchemy along

    storage = context.instance.event_log_storage
    with ExitStack() as spare:
        if isinstance(storage, SqliteEventLogStorage):
            for shard in ("index", context.run.run_id):
                path = storage.path_for_shard(shard)
                connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                spare.callback(connection.close)
                # The file is attached only at the first read.
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        yield


def _report(context: dg.AssetExecutionContext, event_type: DagsterEventType, data: Any) -> None:
    event = DagsterEvent(
        event_type_value=event_type.value, job_name=context.run.job_name, event_specific_data=data
    )
    context.instance.report_dagster_event(event, run_id=context.run.run_id)


def _metadata(check: Check) -> Mapping[str, dg.MetadataValue[Any]]:
    numbers = {"value": check.value, "limit": check.limit}
    return {name: _number(value) for name, value in numbers.items() if value is not None}


def _number(value: float | int | bool) -> dg.MetadataValue[Any]:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)
