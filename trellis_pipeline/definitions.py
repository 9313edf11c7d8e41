"""The code location: what Dagster loads. Assets, resources and automation for every configured catalog."""

from __future__ import annotations

import dagster as dg
from pydantic import SecretStr

from assets.cost_report import build_cost_report
from assets.line import build_line
from assets.opening import LineSettings
from assets.product_catalog import build_product_catalog
from assets.quality_report import build_quality_report
from resources.catalog import CatalogResource
from resources.generator import GeneratorResource, generator_of
from resources.ledger import LedgerResource
from resources.progress import ProgressResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.automation.switchboard import build_automation
from trellis_pipeline.config import Settings, load_settings
from trellis_pipeline.costs.budgets import Budgets


def build_definitions(
    settings: Settings,
    progress: ProgressResource | None = None,
    generator: GeneratorResource | None = None,
) -> dg.Definitions:
    """Definitions for every catalog in the settings.

    progress: for those who watch a run in this process. generator: instead of the configured one.
    """
    lines = [LineSettings(settings, catalog) for catalog in settings.catalogs]
    jobs, schedules, sensors = build_automation(lines)
    store = ArtifactStoreResource(
        url=settings.storage_url,
        s3_endpoint=settings.storage.s3_endpoint,
        s3_region=settings.storage.s3_region,
    )
    return dg.Definitions(
        assets=[asset for line in lines for asset in line_assets(line)],
        jobs=jobs,
        schedules=schedules,
        sensors=sensors,
        resources={
            "store": store,
            "catalogs": CatalogResource(store=store),
            "generator": generator or generator_of(settings),
            "ledger": LedgerResource(
                SecretStr(settings.ledger_url),
                Budgets(**dict(settings.budget)),
                settings.alerts.percents,
                settings.alerts.slack_url,
            ),
            "progress": progress or ProgressResource(),
        },
    )


def line_assets(line: LineSettings) -> list[dg.AssetsDefinition]:
    """All assets of one catalog."""
    return [
        build_product_catalog(line),
        build_line(line),
        build_quality_report(line),
        build_cost_report(line),
    ]


@dg.definitions
def defs() -> dg.Definitions:
    """The code location as configured by trellis.toml and the environment; read when Dagster asks for it."""
    return build_definitions(load_settings())
