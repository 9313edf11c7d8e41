"""A budget that goes to its end says so where people look: in the log and at the cost report."""

from decimal import Decimal

import dagster as dg
import pytest
from small_catalogs import InstantGenerator, InstantGeneratorResource, settings_for, write_catalog

from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.instance import open_instance
from trellis_pipeline.generation.generator import GeneratorIdentity


@pytest.mark.slow
def test_the_cost_report_shows_when_half_of_a_budget_is_gone_and_says_it_once(tmp_path, caplog):
    generator = InstantGenerator(paid=True, cost="0.06")
    generator.identity = GeneratorIdentity("runware", "microsoft:trellis-2@4b", "1")
    settings = settings_for(
        tmp_path,
        write_catalog(tmp_path / "shop", ["A", "B", "C"]),
        budget={"total_usd": "0.30"},
        run={"workers": 1, "in_flight": 1},
        triage={"hold": "never"},
    )
    done = run_catalog(settings, settings.catalogs[0], generator=InstantGeneratorResource.around(generator))
    assert [product.status for product in done.products] == ["generated"] * 3
    assert sum(product.cost_usd for product in done.products) == Decimal("0.18")
    with open_instance(settings) as instance:
        seen = instance.fetch_observations(dg.AssetKey(["shop", "cost_report"]), limit=10).records
    told = [record.asset_observation for record in seen]
    assert [one.metadata["percent"].value for one in told] == [50]
    assert "cap $0.30" in told[0].description
    assert sum("50 % of a budget" in message for message in caplog.messages) >= 1
