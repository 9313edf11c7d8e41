"""Settings of what runs by itself: the nightly schedule and the sensors."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(frozen=True, extra="forbid")


class ScheduleSettings(BaseModel):
    """The nightly backfill of missing and changed products."""

    model_config = _STRICT
    enabled: bool = False
    cron: str = "0 2 * * *"
    timezone: str = "UTC"


class SensorSettings(BaseModel):
    """A sensor and how often it looks."""

    model_config = _STRICT
    enabled: bool = False
    every_seconds: Annotated[int, Field(ge=5)] = 60


class RetrySettings(SensorSettings):
    """Regeneration of products whose quality verdict is `fail`, with a new seed each time."""

    max_attempts: Annotated[int, Field(ge=2, le=10)] = 3


class WebhookSensorSettings(SensorSettings):
    """Purchases that nobody waits for. left_after_seconds: the age at which one is taken up without news."""

    left_after_seconds: Annotated[float, Field(ge=1, le=30 * 24 * 3600)] = 600.0


class AutomationSettings(BaseModel):
    """What runs by itself. Everything is off until switched on here or in the Dagster UI."""

    model_config = _STRICT
    nightly: ScheduleSettings = ScheduleSettings()
    catalog_sensor: SensorSettings = SensorSettings()
    failed_quality_sensor: RetrySettings = RetrySettings()
    report_sensor: SensorSettings = SensorSettings()
    webhook_sensor: WebhookSensorSettings = WebhookSensorSettings()
