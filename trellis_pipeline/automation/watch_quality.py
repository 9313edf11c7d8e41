"""The failed-quality sensor: a model that its profile rejects is generated again with the next seed.

Up to a limit, because a photo that gives three bad models will give a fourth; then a person has to look. The
budget applies as to any other run.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import dagster as dg

from assets.line import STAGES
from assets.opening import LineSettings
from trellis_pipeline.automation.chunks import line_job_name, run_requests

_EVENTS_PER_TICK = 5_000


def build_failed_quality_sensor(line: LineSettings) -> dg.SensorDefinition:
    """Regenerates products whose verdict is `fail`."""
    switch = line.settings.automation.failed_quality_sensor
    quality_key = STAGES[-1].asset_key(line.name)

    @dg.sensor(
        name=f"{line.name}_failed_quality_sensor",
        job_name=line_job_name(line.name),
        minimum_interval_seconds=switch.every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if switch.enabled else dg.DefaultSensorStatus.STOPPED,
        description=f"Generates rejected models again with a new seed, at most {switch.max_attempts} times.",
    )
    def failed_quality_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen = int(context.cursor) if context.cursor else None
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=quality_key, after_storage_id=seen),
            limit=_EVENTS_PER_TICK,
            ascending=True,
        ).records
        if not records:
            return dg.SkipReason("no new verdicts")
        attempts: dict[str, int] = {}
        for record in records:
            event = record.asset_materialization
            if event is None or event.partition is None:
                continue
            verdict = event.metadata.get("verdict")
            attempt = event.metadata.get("attempt")
            attempts.pop(event.partition, None)  # only a product's latest verdict counts
            if verdict is not None and verdict.value == "fail" and attempt is not None:
                attempts[event.partition] = int(str(attempt.value)) + 1
        chosen = {sku: n for sku, n in attempts.items() if n <= switch.max_attempts}
        cursor = str(records[-1].storage_id)
        requests = run_requests(
            line.name,
            list(chosen),
            line.products_per_run,
            f"{line.name}:quality:{cursor}",
            attempts=chosen,
        )
        return dg.SensorResult(run_requests=list(requests), cursor=cursor)

    return failed_quality_sensor
