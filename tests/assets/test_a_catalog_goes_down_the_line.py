"""One real run with the draft generator, looked at from every side a user would look from."""

import json
from types import SimpleNamespace

import dagster as dg
import pandas as pd
import pytest
from small_catalogs import settings_for, write_catalog

from assets.line import CHECK_NAMES, STAGES
from assets.stream import ProductDone
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.instance import open_instance
from trellis_pipeline.automation.summary import summarise
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.mesh.glb_read import parse_glb
from trellis_pipeline.storage.store import open_store

GOOD = ("BOTTLE-1", "BOTTLE-2")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("shop")
    catalog = write_catalog(
        tmp / "shop",
        GOOD,
        [
            {"sku": "BROKEN", "image": "broken.jpg"},
            {"sku": "../../etc/passwd", "image": "BOTTLE-1.png"},
            {"sku": "NO-PHOTO", "image": ""},
        ],
    )
    (tmp / "shop" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"not a photo" * 20)
    settings = settings_for(tmp, catalog)
    run = run_catalog(settings, settings.catalogs[0])
    store = open_store(settings.storage_url)
    with open_instance(settings) as instance:
        yield SimpleNamespace(
            tmp=tmp,
            settings=settings,
            run=run,
            summary=summarise(run, 1.0),
            store=store,
            instance=instance,
            output=tmp / "output" / "shop",
        )


def key(stage):
    return dg.AssetKey(["shop", stage])


def latest(shop, stage, sku):
    records = shop.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key(stage), asset_partitions=[sku]), limit=1
    ).records
    return records[0].asset_materialization if records else None


def test_good_products_have_models_and_the_broken_one_is_named_with_its_reason(shop):
    by_sku = {product.sku: product for product in shop.summary.products}
    assert {sku: product.status for sku, product in by_sku.items()} == {
        "BOTTLE-1": "generated",
        "BOTTLE-2": "generated",
        "BROKEN": "failed",
    }
    assert by_sku["BROKEN"].failed_stage == "source_images"
    assert "JPEG" in by_sku["BROKEN"].error
    assert by_sku["BOTTLE-1"].triangles > 100
    assert by_sku["BOTTLE-1"].verdict in {"pass", "warn"}
    assert shop.summary.exit_code(strict=False) == 1


def test_bad_rows_are_reported_with_their_line_and_stop_nobody(shop):
    reasons = {row.row: row.reason for row in shop.summary.bad_rows}
    assert set(reasons) == {5, 6}
    assert not (shop.tmp / "etc").exists()


def test_every_good_product_has_its_files_where_people_look(shop):
    for sku in GOOD:
        folder = shop.output / "products" / sku
        names = {path.name for path in folder.iterdir()}
        assert {"photo.png", "crop.png", "model.glb", "preview.png"} <= names
        assert {f"{stage.name}.json" for stage in STAGES} <= names
    assert (shop.output / "products" / "BROKEN" / "problem.json").exists()


def test_the_glb_carries_its_birth_certificate_and_says_that_it_is_a_draft(shop):
    document = parse_glb((shop.output / "products" / "BOTTLE-1" / "model.glb").read_bytes()).document
    extras = document["asset"]["extras"]
    certificate = extras["trellis_pipeline"]
    photo = latest(shop, "source_images", "BOTTLE-1").metadata["sha256"].value
    assert certificate["sku"] == "BOTTLE-1"
    assert certificate["source_sha256"] == photo
    assert certificate["seed"] == 42
    assert certificate["draft"] is True
    assert "not a generated model" in extras["draft"]["what"]


def test_each_stage_is_a_materialization_with_its_content_hash_as_data_version(shop):
    model = latest(shop, "product_models", "BOTTLE-1")
    assert model.tags["dagster/data_version"] == model.metadata["sha256"].value
    assert model.metadata["triangles"].value > 100
    assert model.metadata["cost_usd"].value == 0
    assert model.metadata["thumbnail"].value.startswith("![](data:image/webp;base64,")
    assert len(model.metadata["thumbnail"].value) < 1000
    assert latest(shop, "source_images", "BROKEN") is None


def test_the_failed_product_is_red_at_the_stage_where_it_failed_and_only_there(shop):
    partitions = dg.DynamicPartitionsDefinition(name="shop_products")
    skus = [*GOOD, "BROKEN"]
    for stage, expected in (("source_images", "FAILED"), ("model_quality", None)):
        statuses = shop.instance.get_status_by_partition(key(stage), skus, partitions)
        assert statuses["BOTTLE-1"].value == "MATERIALIZED"
        assert (statuses["BROKEN"].value if statuses["BROKEN"] else None) == expected


def test_checks_are_recorded_for_each_product_and_point_at_its_materialization(shop):
    asset = key("model_quality")
    stored = shop.instance.event_log_storage
    for name in CHECK_NAMES:
        history = stored.get_asset_check_execution_history(dg.AssetCheckKey(asset, name), limit=10)
        events = [record.event.dagster_event for record in history if record.partition]
        evaluations = [event.asset_check_evaluation_data for event in events]
        assert {evaluation.partition for evaluation in evaluations} == set(GOOD)
        for evaluation in evaluations:
            target = evaluation.target_materialization_data
            record = shop.instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[evaluation.partition]), limit=1
            ).records[0]
            assert target.storage_id == record.storage_id
            assert target.run_id == record.run_id


def test_dagsters_own_staleness_view_says_fresh_and_then_names_a_changed_crop(shop):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    graph = build_definitions(shop.settings).resolve_asset_graph()

    def status(stage):
        resolver = CachingStaleStatusResolver(shop.instance, graph, LoadingContextForTest(shop.instance))
        return resolver.get_status(key(stage), "BOTTLE-2").value

    assert {stage.name: status(stage.name) for stage in STAGES} == {stage.name: "FRESH" for stage in STAGES}
    shop.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            key("product_crops"), partition="BOTTLE-2", tags={"dagster/data_version": "another crop"}
        )
    )
    assert status("product_models") == "STALE"
    assert status("source_images") == "FRESH"


def test_the_report_shows_every_product_and_the_failure_first(shop):
    page = (shop.output / "report.html").read_text()
    for sku in (*GOOD, "BROKEN"):
        assert sku in page
    assert "Row 5" in page  # a row without a product is told too
    assert "Row 6" in page
    table = pd.read_parquet(shop.output / "quality.parquet").set_index("sku")
    assert table.loc["BROKEN", "status"] == "failed"
    assert table.loc["BOTTLE-1", "triangles"] > 100


def test_a_second_run_generates_nothing_and_says_so(shop):
    events = []
    again = run_catalog(shop.settings, shop.settings.catalogs[0], only=GOOD, on_event=events.append)
    assert [done.status for done in again.products] == ["cached", "cached"]
    assert all(done.seconds == 0 for done in again.products)
    assert sum(isinstance(event, ProductDone) for event in events) == 2


def test_the_documents_numbers_are_those_of_the_file(shop):
    summary = json.loads(shop.summary.model_dump_json())
    product = next(p for p in summary["products"] if p["sku"] == "BOTTLE-1")
    path = shop.output / "products" / "BOTTLE-1" / "model.glb"
    assert product["model_path"] == str(path)
    assert product["file_bytes"] == path.stat().st_size
    assert summary["totals"]["generated"] == 2
