"""Settings of what runs by itself: the nightly schedule and the sensors."""

from __future__ import annotations

import difflib
import zoneinfo
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

_STRICT = ConfigDict(frozen=True, extra="forbid")


class ScheduleSettings(BaseModel):
    """The nightly backfill of missing and changed products.

    cron is checked where the schedule is built: by Dagster, which this module does not load.
    """

    model_config = _STRICT
    enabled: bool = False
    cron: str = "0 2 * * *"
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name.upper() if name == "utc" else name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            close = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1)
            hint = f'did you mean "{close[0]}"?' if close else 'write it like "Europe/Berlin" or "UTC"'
            raise ValueError(f"{name!r} is no time zone; {hint}") from None
        return name


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
