"""Jobs, schedules and sensors of every catalog. All are off until trellis.toml or the UI switches them on."""

# Dagster inspects annotations at run time, so they are not deferred in this module.
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from assets.line import STAGES
from assets.opening import LineSettings
from trellis_pipeline.automation.chunks import CATALOG_TAG, line_job_name, report_job_name
from trellis_pipeline.automation.watch_catalog import build_catalog_sensor, build_nightly
from trellis_pipeline.automation.watch_quality import build_failed_quality_sensor
from trellis_pipeline.automation.watch_webhooks import build_webhook_sensor

_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

Job = Any  # what `define_asset_job` returns is not a public name


def build_automation(
    lines: Sequence[LineSettings],
) -> tuple[list[Job], list[dg.ScheduleDefinition], list[dg.SensorDefinition]]:
    """Everything that can run by itself."""
    jobs: list[Job] = []
    schedules: list[dg.ScheduleDefinition] = []
    sensors: list[dg.SensorDefinition] = []
    for line in lines:
        jobs += _jobs(line)
        schedules.append(build_nightly(line))
        sensors += [
            build_catalog_sensor(line),
            build_failed_quality_sensor(line),
            _report_sensor(line),
            build_webhook_sensor(
                line.name,
                line.products_per_run,
                enabled=line.settings.automation.webhook_sensor.enabled,
                every_seconds=line.settings.automation.webhook_sensor.every_seconds,
                left_after_seconds=line.settings.automation.webhook_sensor.left_after_seconds,
            ),
        ]
    return jobs, schedules, sensors


def _jobs(line: LineSettings) -> list[Job]:
    stages = dg.AssetSelection.assets(*(stage.asset_key(line.name) for stage in STAGES))
    reports = dg.AssetSelection.assets([line.name, "quality_report"], [line.name, "cost_report"])
    return [
        dg.define_asset_job(
            line_job_name(line.name), stages, description="Takes the named products through all stages."
        ),
        dg.define_asset_job(report_job_name(line.name), reports, description="Renews the reports."),
    ]


def _report_sensor(line: LineSettings) -> dg.SensorDefinition:
    """Reports are renewed when the last run of a backfill has ended, not after each of its chunks."""
    switch = line.settings.automation.report_sensor

    @dg.sensor(
        name=f"{line.name}_report_sensor",
        job_name=report_job_name(line.name),
        minimum_interval_seconds=switch.every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if switch.enabled else dg.DefaultSensorStatus.STOPPED,
        description="Renews the reports when no more runs of this catalog are waiting.",
    )
    def report_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        instance, job = context.instance, line_job_name(line.name)
        # A run whose machine was lost stays "started" for ever; after a day it no longer holds reports up.
        since = datetime.now(UTC) - timedelta(days=1)
        active = instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_ACTIVE, created_after=since))
        latest = instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
        if active or not latest:
            return dg.SkipReason(
                f"{active} runs of {line.name} are still to come" if active else "no runs yet"
            )
        return dg.RunRequest(run_key=latest[0].run_id, tags={CATALOG_TAG: line.name})

    return report_sensor
