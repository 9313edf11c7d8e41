"""Runs as the Dagster UI and its backfill daemon launch them: one partition, a range, a part of the line."""

import dagster as dg
import pytest
from small_catalogs import InstantGenerator, InstantGeneratorResource, draw_photo, settings_for, write_catalog

from assets.line import STAGES
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.instance import open_instance
from trellis_pipeline.definitions import build_definitions

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SKUS = ("A", "B", "C")


class Ui:
    """Launches what a person would click, on a catalog whose products have partitions already."""

    def __init__(self, tmp_path, instance):
        self.folder = tmp_path / "shop"
        self.settings = settings_for(tmp_path, write_catalog(self.folder, SKUS))
        self.generator = InstantGenerator()
        self.defs = build_definitions(
            self.settings, generator=InstantGeneratorResource.around(self.generator)
        )
        self.instance = instance
        self.assets = list(self.defs.assets)
        assert self.materialize("product_catalog").success

    def materialize(self, *stages, **options):
        return dg.materialize(
            self.assets,
            instance=self.instance,
            resources=dict(self.defs.resources),
            selection=[dg.AssetKey(["shop", stage]) for stage in stages],
            run_config=QUIET,
            raise_on_error=False,
            **options,
        )

    def range(self, first, last, *stages):
        tags = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
        return self.materialize(*stages, tags=tags)

    def materialized(self, stage):
        return self.instance.get_materialized_partitions(dg.AssetKey(["shop", stage]))

    def status(self, stage, sku):
        partitions = dg.DynamicPartitionsDefinition(name="shop_products")
        found = self.instance.get_status_by_partition(dg.AssetKey(["shop", stage]), list(SKUS), partitions)
        return found[sku].value if found[sku] else None


ALL = tuple(stage.name for stage in STAGES)


@pytest.fixture
def ui(tmp_path):
    with open_instance(settings_for(tmp_path)) as instance:
        yield Ui(tmp_path, instance)


def test_one_partition_runs_that_product_alone(ui):
    assert ui.materialize(*ALL, partition_key="B").success
    assert ui.materialized("model_quality") == {"B"}
    assert len(ui.generator.billed) == 1


def test_a_range_keeps_the_good_products_and_marks_the_broken_one_failed_from_where_it_stopped(ui):
    (ui.folder / "B.png").write_bytes(b"broken")
    result = ui.range("A", "C", *ALL)
    assert not result.success
    assert ui.materialized("model_quality") == {"A", "C"}
    assert ui.status("source_images", "B") == "FAILED"
    assert ui.status("model_quality", "B") == "FAILED"
    assert ui.status("model_quality", "A") == "MATERIALIZED"
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "1 of 3 products failed" in failure.step_failure_data.user_failure_data.description
    assert "B: source_images" in failure.step_failure_data.user_failure_data.description


def test_one_stage_can_be_run_again_on_what_earlier_runs_left(ui):
    ui.range("A", "C", *ALL)
    before = len(ui.generator.billed)
    assert ui.range("A", "C", "model_quality").success
    assert len(ui.generator.billed) == before
    events = ui.instance.fetch_materializations(dg.AssetKey(["shop", "source_images"]), limit=10).records
    assert len(events) == 3


def test_a_stage_without_its_inputs_says_which_to_materialize_first(ui):
    result = ui.materialize("model_quality", partition_key="A")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    text = failure.step_failure_data.user_failure_data.description
    assert "materialize product_models first" in text


def test_a_run_that_names_no_products_says_how_to_name_them(ui):
    result = ui.materialize(*ALL)
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "launch it over partitions" in failure.step_failure_data.user_failure_data.description


def test_a_partition_that_left_the_catalog_fails_by_name(ui):
    ui.instance.add_dynamic_partitions("shop_products", ["GHOST"])
    result = ui.materialize(*ALL, partition_key="GHOST")
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "the catalog has no product 'GHOST'" in failure.step_failure_data.user_failure_data.description


@pytest.mark.slow
def test_a_corrected_dimension_finishes_the_model_again_without_generating(ui):
    generator = InstantGeneratorResource.around(ui.generator)
    first = run_catalog(ui.settings, ui.settings.catalogs[0], generator=generator)
    catalog = ui.folder / "catalog.csv"
    catalog.write_text(catalog.read_text().replace("0.3", "0.6"))
    second = run_catalog(ui.settings, ui.settings.catalogs[0], generator=generator)
    assert len(ui.generator.billed) == 3
    assert {p.status for p in first.products} == {"generated"}
    assert {p.status for p in second.products} == {"cached"}
    heights = [
        record.asset_materialization.metadata["sha256"].value
        for record in ui.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(["shop", "product_models"]), asset_partitions=["A"]), limit=2
        ).records
    ]
    assert heights[0] != heights[1]


def test_a_changed_photo_makes_exactly_its_own_model_anew(ui):
    generator = InstantGeneratorResource.around(ui.generator)
    run_catalog(ui.settings, ui.settings.catalogs[0], generator=generator)
    draw_photo(ui.folder / "C.png", 5)
    again = run_catalog(ui.settings, ui.settings.catalogs[0], generator=generator)
    assert {p.sku: p.status for p in again.products} == {"A": "cached", "B": "cached", "C": "generated"}
