"""The local generator where its users meet it: a run with its books, a service, the command line."""

import asyncio
import json
import os
import subprocess
import sys
from decimal import Decimal

import dagster as dg
import pytest
from runware_parts import options as client_options
from small_catalogs import draw_photo, settings_for, write_catalog

from assets.workers import Timed
from trellis_pipeline.automation.chunks import line_config, line_job_name
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.plan import plan_catalog
from trellis_pipeline.automation.plan_document import plan_document
from trellis_pipeline.automation.summary import summarise
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.costs.stage_seconds import stage_totals
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.local.generator import LocalGenerator
from trellis_pipeline.generation.local.options import LocalOptions
from trellis_pipeline.generation.request import build_request
from trellis_pipeline.generation.runware.generator import RunwareGenerator
from trellis_pipeline.service.testing import running_service
from trellis_pipeline.storage.store import BlobRef

COMMAND = [sys.executable, "-c", "from trellis_pipeline.cli import main; main()"]
SMALL = {"resolution": 512, "textureSize": 1024, "remesh": False}


def shop_settings(tmp_path, checkpoint, **local):
    return settings_for(
        tmp_path,
        write_catalog(tmp_path / "shop", ["CAN-1", "CAN-2"]),
        generation={"generator": "local", "settings": SMALL},
        local={"weights": str(checkpoint), "device": "cpu", "usd_per_gpu_second": "0.001", **local},
        budget={"total_usd": "5.00"},
        triage={"hold": "never"},
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory, checkpoint):
    """A catalog of two products after its first run."""
    settings = shop_settings(tmp_path_factory.mktemp("shop"), checkpoint)
    return settings, run_catalog(settings, settings.catalogs[0])


def test_a_run_makes_every_product_and_the_books_say_where_the_time_went(shop):
    settings, done = shop
    summary = summarise(done, 1.0)
    assert [product.status for product in summary.products] == ["generated", "generated"]
    with Ledger.open(settings.ledger_url) as ledger:
        settled = totals(ledger).settled_usd
        stages = {total.stage: total for total in stage_totals(ledger)}
    assert settled == sum((product.cost_usd for product in summary.products), Decimal(0)) > 0
    assert set(stages) == {"load", "generate", "post_process"}
    assert all(total.generator == "local" and total.generations == 2 for total in stages.values())
    busy = Decimal(str(stages["load"].seconds + stages["generate"].seconds))
    assert abs(settled - busy * Decimal("0.001")) < Decimal("0.00001")


def test_a_second_run_pays_for_nothing(shop):
    settings, first = shop
    again = run_catalog(settings, settings.catalogs[0])
    assert [product.status for product in summarise(again, 1.0).products] == ["cached", "cached"]
    with Ledger.open(settings.ledger_url) as ledger:
        assert totals(ledger).generations == 2
    assert first is not again


def test_a_plan_counts_one_model_at_a_time_at_the_price_of_a_second(tmp_path, checkpoint):
    settings = shop_settings(tmp_path, checkpoint, expected_seconds=20)
    document = plan_document(plan_catalog(settings, settings.catalogs[0]))
    assert document["time"]["at_once"] == 1
    assert document["counts"]["new"] == 2
    assert document["presets"][0]["basis"] == "list_price"
    assert Decimal(document["presets"][0]["p50_usd"]) == Decimal("0.02")
    assert Decimal(document["presets"][0]["reserve_usd"]) == Decimal("0.05")


def test_without_a_price_nothing_begins_and_the_message_says_what_to_set(tmp_path, checkpoint):
    settings = shop_settings(tmp_path, checkpoint, usd_per_gpu_second=None)
    with pytest.raises(ConfigError, match="usd_per_gpu_second"):
        plan_catalog(settings, settings.catalogs[0])


def test_a_model_that_costs_nothing_is_no_draft():
    from assets import product_models
    from assets.records import ProductModel

    free = ProductModel.model_construct(
        generator="local/microsoft:trellis-2@4b/1-0", paid=False, triangles=4, vertices=4, max_texture_px=16,
        model=BlobRef("0" * 64, 1, ".glb"), cost_usd=Decimal(0), seconds=1.0, generation_seconds=1.0, seed=7,
        attempt=1, request={}, request_key="key",
    )  # fmt: skip
    draft = free.model_copy(update={"generator": "draft/silhouette-blockout/1"})
    assert "draft" not in product_models.metadata(free)["generator"]
    assert "not a generated model" in product_models.metadata(draft)["generator"]


def test_a_machine_that_counts_as_free_needs_no_budget(tmp_path, checkpoint):
    settings = shop_settings(tmp_path, checkpoint, usd_per_gpu_second="0")
    document = plan_document(plan_catalog(settings.model_copy(update={"budget": {}}), settings.catalogs[0]))
    assert document["paid"] is False
    assert document["fits"]


def test_a_runs_tag_chooses_the_device_and_the_pool_holds_runs_back(tmp_path, checkpoint):
    settings = shop_settings(tmp_path, checkpoint)
    definitions = build_definitions(settings)
    line = next(asset for asset in definitions.assets if asset.node_def.name == "shop_line")
    assert line.node_def.pool == "trellis_gpu"
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("shop_products", ["CAN-1"])
        resolved = definitions.resolve_job_def(line_job_name("shop"))
        done = resolved.execute_in_process(
            instance=instance,
            run_config=line_config("shop", ["CAN-1"]),
            tags={"trellis/device": "cuda:7"},
            raise_on_error=False,
        )
        assert not done.success
        failure = next(event for event in done.all_events if event.is_step_failure)
        text = str(failure.step_failure_data.error.to_string())
    assert "device 'cuda:7' is not on this machine" in text


async def here(function, *args):
    return Timed(await asyncio.to_thread(function, *args), 0.1)


def test_the_service_sells_what_the_warm_model_makes(checkpoint, crop, tmp_path):
    local = LocalGenerator(LocalOptions(checkpoint, device="cpu", usd_per_gpu_second=Decimal("0.001")), here)
    request = build_request({"seed": 7, "settings": {**SMALL, "decimationTarget": 100_000}})

    async def buy(base_url):
        async with RunwareGenerator(client_options(base_url, task_seconds=240.0)) as client:
            return await client.generate(request, crop)

    with running_service(local, folder=tmp_path / "service", price=None, concurrency=1) as service:
        (bought,) = asyncio.run(buy(service.base_url))
        (billed,) = service.billing()
    (made,) = asyncio.run(
        LocalGenerator(LocalOptions(checkpoint, device="cpu"), here).generate(request, crop)
    )
    assert bought.glb == made.glb
    assert bought.cost_usd == billed.cost > 0


def trellis(*arguments, cwd):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_"))}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=kept, check=False
    )


def test_one_photo_becomes_one_file_with_its_picture(checkpoint, tmp_path):
    draw_photo(tmp_path / "bottle.png")
    done = trellis(
        *("generate", "bottle.png", "-o", "models/bottle.glb", "--preview", "bottle-3d.png", "--json"),
        *("--weights", checkpoint, "--device", "cpu", "--resolution", "512", "--texture-size", "1024"),
        *("--no-remesh", "--seed", "7", "--height", "0.3"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["seed"] == 7
    assert set(facts["seconds"]) == {"load", "generate", "post_process"}
    assert (tmp_path / "models/bottle.glb").read_bytes()[:4] == b"glTF"
    assert (tmp_path / "bottle-3d.png").stat().st_size > 1000
    height = json.loads(trellis("inspect", "models/bottle.glb", "--json", cwd=tmp_path).stdout)["bbox_m"][1]
    assert height == pytest.approx(0.3, rel=1e-5)


def test_a_photo_that_gives_no_model_leaves_no_file(checkpoint, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"this is no photo")
    done = trellis(
        "generate", "photo.png", "--weights", checkpoint, "--device", "cpu", "-o", "m.glb", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "PNG" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.png"]
