"""The catalog sensor and the nightly schedule: what is new, changed or still missing gets its run.

Both keep their memory where a crash cannot part it from the runs they asked for. The sensor's cursor names
the snapshot whose changes were last requested; the schedule finds that snapshot in the tags of the runs it
launched in an earlier night. A tick that dies half-way is simply made again: the same cursor (or night) and
the same products give the same run keys, and Dagster starts no run key twice. The cursor also counts the
requests, because a change that is taken back leads to a snapshot that was asked for before, and still needs
its run.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg

from assets.catalog_snapshot import partitions_of
from assets.line import STAGES
from assets.opening import LineSettings
from assets.product_catalog import refresh_snapshot, sync_partitions
from assets.records import fingerprint
from resources.catalog import CatalogResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.automation.chunks import (
    CATALOG_TAG,
    SNAPSHOT_TAG,
    line_job_name,
    products_in,
    run_requests,
)
from trellis_pipeline.config_automation import ScheduleSettings
from trellis_pipeline.errors import BlobMissing, CatalogError, ConfigError
from trellis_pipeline.storage.store import BlobRef

if TYPE_CHECKING:
    from dagster import RunRecord

    from trellis_pipeline.catalog.diff import CatalogDiff
    from trellis_pipeline.catalog.readers import CatalogLoad

_NIGHTLY_TAG = "trellis/nightly"
_NIGHT_TAG = "trellis/night"
_ENDED_EARLY = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def build_catalog_sensor(line: LineSettings) -> dg.SensorDefinition:
    """New, changed and removed products become partitions and runs."""
    switch = line.settings.automation.catalog_sensor

    @dg.sensor(
        name=f"{line.name}_catalog_sensor",
        job_name=line_job_name(line.name),
        minimum_interval_seconds=switch.every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if switch.enabled else dg.DefaultSensorStatus.STOPPED,
        description="Starts runs for products whose row or photo is new or changed; retires removed ones.",
    )
    def catalog_sensor(
        context: dg.SensorEvaluationContext, store: ArtifactStoreResource, catalogs: CatalogResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            loaded = catalogs.load(line.source)
        except CatalogError as error:
            return dg.SkipReason(f"the catalog cannot be read: {error}")
        since, count = _decode(context.cursor), _requests_made(context.cursor) + 1
        diff, blob = _diff(line, loaded, store, catalogs, since)
        sync_partitions(context.instance, partitions_of(line.name), [p.sku for p in loaded.products])
        wanted = list(_wanted(diff))
        key = f"{line.name}:{count}:{blob.sha256}"
        requests = run_requests(line.name, wanted, line.products_per_run, key)
        if not wanted and not diff.removed:
            return dg.SkipReason(f"nothing new in {line.source} ({len(loaded.problems)} bad rows)")
        return dg.SensorResult(run_requests=list(requests), cursor=_encode(blob, requests=count))

    return catalog_sensor


def build_nightly(line: LineSettings) -> dg.ScheduleDefinition:
    """Once a night: what changed since the last night, and whatever still has no result.

    Raises ConfigError for a cron expression that Dagster does not take.
    """
    switch = line.settings.automation.nightly
    try:
        return _nightly(line, switch)
    except dg.DagsterInvalidDefinitionError:
        raise ConfigError(
            f"automation.nightly.cron: {switch.cron!r} is no cron expression; write minute, hour, day of the "
            "month, month and day of the week, for example 0 2 * * *"
        ) from None


def _nightly(line: LineSettings, switch: ScheduleSettings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{line.name}_nightly",
        job_name=line_job_name(line.name),
        cron_schedule=switch.cron,
        execution_timezone=switch.timezone,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING if switch.enabled else dg.DefaultScheduleStatus.STOPPED
        ),
        description="Backfills missing, failed and changed products in chunks.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, store: ArtifactStoreResource, catalogs: CatalogResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        try:
            loaded = catalogs.load(line.source)
        except CatalogError as error:
            return dg.SkipReason(f"the catalog cannot be read: {error}")
        night = context.scheduled_execution_time.isoformat()
        begun, last = _nights(context.instance, line.name, night)
        since = _decode(last[0].dagster_run.tags.get(SNAPSHOT_TAG)) if last else None
        diff, blob = _diff(line, loaded, store, catalogs, since)
        skus = [product.sku for product in loaded.products]
        sync_partitions(context.instance, partitions_of(line.name), skus)
        due = set(_wanted(diff)) | _left_over(context.instance, line.name, last) | _asked(begun, line.name)
        done = _done(context.instance, line.name, skus)
        wanted = [sku for sku in skus if sku in due or sku not in done]
        if not wanted:
            return dg.SkipReason(f"all {len(skus)} products are up to date")
        # Chunks of other products must not be taken for those that a tick which died has launched.
        key = f"{line.name}:{night}:{fingerprint(wanted)}"
        tags = {_NIGHTLY_TAG: line.name, _NIGHT_TAG: night, SNAPSHOT_TAG: _encode(blob)}
        requests = run_requests(line.name, wanted, line.products_per_run, key, tags=tags)
        return list(requests)

    return nightly


def _diff(
    line: LineSettings,
    loaded: "CatalogLoad",
    store: ArtifactStoreResource,
    catalogs: CatalogResource,
    since: BlobRef | None,
) -> tuple["CatalogDiff", BlobRef]:
    """Changes since a snapshot that was acted on; since nothing at all where there was none."""
    from trellis_pipeline.catalog.diff import diff_snapshots
    from trellis_pipeline.catalog.snapshot import snapshot_from_parquet

    try:
        if since is not None:
            return refresh_snapshot(line.name, loaded, store, catalogs, since)
    except BlobMissing:
        # The snapshot was cleaned away: everything counts as new, and what is unchanged is found cached.
        pass
    _, blob = refresh_snapshot(line.name, loaded, store, catalogs)
    return diff_snapshots(None, snapshot_from_parquet(store.open().get_blob(blob))), blob


def _wanted(diff: "CatalogDiff") -> Iterable[str]:
    yield from diff.new
    yield from (change.sku for change in diff.changed)


def _done(instance: dg.DagsterInstance, catalog: str, skus: list[str]) -> set[str]:
    """Products whose last stage has a result or is being worked on, and that failed at no stage since.

    All stages are asked: a product that was made once, and whose new photo cannot be read now, is failed at
    its first stage and keeps the old result at its last.
    """
    partitions = partitions_of(catalog)
    done: set[str] = set()
    failed: set[str] = set()
    for stage in STAGES:
        found = instance.get_status_by_partition(stage.asset_key(catalog), skus, partitions) or {}
        done = {sku for sku, status in found.items() if status}
        failed |= {sku for sku, status in found.items() if status and status.value == "FAILED"}
    return done - failed


class _Nights(NamedTuple):
    """Runs of the schedule, the latest first. begun: of this very night, where its tick died; last: of the
    latest night before it that had any.
    """

    begun: "Sequence[RunRecord]"
    last: "Sequence[RunRecord]"


def _nights(instance: dg.DagsterInstance, catalog: str, night: str) -> _Nights:
    tags = {_NIGHTLY_TAG: catalog, CATALOG_TAG: catalog}

    def runs_of(night: str) -> "Sequence[RunRecord]":
        return instance.get_run_records(dg.RunsFilter(tags={**tags, _NIGHT_TAG: night}))

    begun = runs_of(night)
    latest = instance.get_run_records(dg.RunsFilter(tags=tags), limit=len(begun) + 1)
    before = [record for record in latest if record.dagster_run.tags.get(_NIGHT_TAG) != night][:1]
    named = before[0].dagster_run.tags.get(_NIGHT_TAG) if before else None
    return _Nights(begun, runs_of(named) if named else before)


def _asked(runs: "Sequence[RunRecord]", catalog: str) -> set[str]:
    """The products that the runs were to make."""
    return {sku for record in runs for sku in products_in(record.dagster_run.run_config, catalog)}


def _left_over(instance: dg.DagsterInstance, catalog: str, runs: "Sequence[RunRecord]") -> set[str]:
    """What runs that were stopped or killed were to make and did not, nor anybody after them.

    Such a product may have a result from before, so that nothing else says that it waits.
    """
    left: set[str] = set()
    for record in runs:
        if record.dagster_run.status not in _ENDED_EARLY:
            continue
        asked = products_in(record.dagster_run.run_config, catalog)
        begun = record.start_time or record.create_timestamp.timestamp()
        made = instance.fetch_materializations(
            dg.AssetRecordsFilter(STAGES[-1].asset_key(catalog), asked, after_timestamp=begun),
            limit=max(len(asked), 1),
        )
        left |= set(asked) - {made_one.partition_key for made_one in made.records if made_one.partition_key}
    return left


def _encode(blob: BlobRef, **beside: int) -> str:
    return json.dumps({"sha256": blob.sha256, "size": blob.size, "suffix": blob.suffix, **beside})


def _decode(text: str | None) -> BlobRef | None:
    if not text:
        return None
    fields = json.loads(text)
    return BlobRef(fields["sha256"], fields["size"], fields["suffix"])


def _requests_made(cursor: str | None) -> int:
    """How often the sensor has asked for runs; cursors of earlier versions do not say."""
    return int(json.loads(cursor).get("requests", 0)) if cursor else 0
