"""What runs by itself: each change is asked for once, however often the tick comes and whatever dies."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pytest
from small_catalogs import InstantGenerator, InstantGeneratorResource, draw_photo, settings_for, write_catalog
from sqlalchemy import update

from trellis_pipeline.automation.chunks import line_config
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.instance import open_instance
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.purchasing.journal import Journal


class Shop:
    """A catalog on disk with the Dagster definitions and instance that belong to it."""

    def __init__(self, tmp_path, instance, skus=("A", "B", "C"), **sections):
        self.folder = tmp_path / "shop"
        self.catalog = write_catalog(self.folder, skus)
        self.settings = settings_for(tmp_path, self.catalog, **sections)
        self.instance = instance
        self.generator = InstantGenerator()
        self.defs = build_definitions(
            self.settings, generator=InstantGeneratorResource.around(self.generator)
        )
        self.repository = self.defs.get_repository_def()

    def tick(self, sensor, cursor=None):
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            resources=dict(self.defs.resources),
            repository_def=self.repository,
        )
        with context:
            return self.repository.get_sensor_def(sensor).evaluate_tick(context)

    def night(self, day):
        context = dg.build_schedule_context(
            instance=self.instance,
            resources=dict(self.defs.resources),
            scheduled_execution_time=datetime(2026, 1, day, 2, tzinfo=UTC),
        )
        with context:
            return self.repository.get_schedule_def("shop_nightly").evaluate_tick(context)

    def execute(self, request):
        """What the daemon would do with a run request."""
        job = self.defs.resolve_job_def("shop_products_job")
        return job.execute_in_process(
            instance=self.instance,
            run_config=request.run_config,
            tags=request.tags,
            raise_on_error=False,
        )

    def kill(self, request):
        """A run that the daemon started and that died before it came to any product."""
        job = self.defs.resolve_job_def("shop_products_job")
        run = self.instance.create_run_for_job(job, run_config=request.run_config, tags=request.tags)
        self.instance.report_run_failed(run)


def products_of(requests):
    return [request.run_config["ops"]["shop_line"]["config"]["products"] for request in requests]


@pytest.fixture
def instance(tmp_path):
    with open_instance(settings_for(tmp_path)) as instance:
        yield instance


@pytest.fixture
def shop(tmp_path, instance):
    return Shop(tmp_path, instance, run={"workers": 1, "products_per_run": 2})


def test_new_products_become_partitions_and_runs_in_chunks(shop):
    tick = shop.tick("shop_catalog_sensor")
    assert products_of(tick.run_requests) == [["A", "B"], ["C"]]
    assert shop.instance.get_dynamic_partitions("shop_products") == ["A", "B", "C"]


def test_a_repeated_tick_asks_with_the_same_run_keys_so_nothing_starts_twice(shop):
    first = shop.tick("shop_catalog_sensor")
    # The daemon died before it stored the cursor, so the same tick comes again.
    again = shop.tick("shop_catalog_sensor")
    assert [r.run_key for r in first.run_requests] == [r.run_key for r in again.run_requests]
    assert len({r.run_key for r in first.run_requests}) == 2


def test_once_the_cursor_is_stored_an_unchanged_catalog_asks_for_nothing(shop):
    first = shop.tick("shop_catalog_sensor")
    quiet = shop.tick("shop_catalog_sensor", cursor=first.cursor)
    assert quiet.run_requests == []
    assert "nothing new" in quiet.skip_message


def test_changed_rows_changed_photos_and_removed_products_are_noticed(shop):
    first = shop.tick("shop_catalog_sensor")
    lines = shop.catalog.read_text().splitlines()
    lines = [line.replace("Bottle 0", "Bottle zero") for line in lines if not line.endswith(",C,Bottle 2")]
    shop.catalog.write_text("\n".join(lines) + "\n")
    draw_photo(shop.folder / "B.png", 5)
    tick = shop.tick("shop_catalog_sensor", cursor=first.cursor)
    assert products_of(tick.run_requests) == [["A", "B"]]
    assert shop.instance.get_dynamic_partitions("shop_products") == ["A", "B"]


def test_a_change_that_is_taken_back_and_made_again_is_run_each_time(shop):
    cursor, keys = None, []
    for height in ("0.3", "0.6", "0.3", "0.6"):
        lines = [
            line for line in shop.catalog.read_text().splitlines() if line.endswith(("title", ",A,Bottle 0"))
        ]
        shop.catalog.write_text("\n".join(lines).replace("0.6", "0.3").replace("0.3", height) + "\n")
        tick = shop.tick("shop_catalog_sensor", cursor)
        assert products_of(tick.run_requests) == [["A"]]
        assert [r.run_key for r in shop.tick("shop_catalog_sensor", cursor).run_requests] == [
            r.run_key for r in tick.run_requests
        ]
        keys += [request.run_key for request in tick.run_requests]
        cursor = tick.cursor
    assert len(set(keys)) == 4


def test_a_cursor_of_an_earlier_version_is_read(shop):
    first = json.loads(shop.tick("shop_catalog_sensor").cursor)
    older = json.dumps({name: first[name] for name in ("sha256", "size", "suffix")})
    assert "nothing new" in shop.tick("shop_catalog_sensor", older).skip_message


def test_an_unreadable_catalog_skips_the_tick_and_says_why(shop):
    shop.catalog.unlink()
    tick = shop.tick("shop_catalog_sensor")
    assert tick.run_requests == []
    assert "catalog.csv" in tick.skip_message


def test_everything_is_off_until_it_is_switched_on(tmp_path, instance, shop):
    assert {s.default_status.value for s in shop.defs.sensors} == {"STOPPED"}
    assert {s.default_status.value for s in shop.defs.schedules} == {"STOPPED"}
    on = Shop(
        tmp_path, instance, automation={"nightly": {"enabled": True}, "catalog_sensor": {"enabled": True}}
    )
    assert on.repository.get_schedule_def("shop_nightly").default_status.value == "RUNNING"
    assert on.repository.get_sensor_def("shop_catalog_sensor").default_status.value == "RUNNING"
    assert on.repository.get_sensor_def("shop_failed_quality_sensor").default_status.value == "STOPPED"


def test_how_long_a_purchase_may_be_left_alone_is_a_setting(tmp_path, instance):
    settings = settings_for(tmp_path)
    begun = datetime.now(UTC) - timedelta(minutes=2)
    with Ledger.open(settings.ledger_url) as ledger:
        scope = SpendScope("shop", "A", "run-1", "runware", "m", "1024", "key-A")
        task = Journal(ledger).begin(Decimal("0.10"), scope, Budgets(), after=None).task_uuid
        with ledger.writing() as connection:
            left = {"owner": "", "lease_until": begun, "made_at": begun}
            connection.execute(update(intents).where(intents.c.task_uuid == task).values(**left))
    for seconds, taken_up in ((600, []), (60, [["A"]])):
        sensor = {"webhook_sensor": {"left_after_seconds": seconds}}
        shop = Shop(tmp_path, instance, automation=sensor)
        assert products_of(shop.tick("shop_webhook_sensor").run_requests or []) == taken_up


def test_the_night_takes_what_is_missing_and_then_only_what_changed_until_it_is_made(shop):
    for request in shop.night(1).run_requests:
        assert shop.execute(request).success
    assert len(shop.generator.billed) == 3
    quiet = shop.night(2)
    assert quiet.run_requests == []
    assert "up to date" in quiet.skip_message
    draw_photo(shop.folder / "B.png", 5)
    for night in (3, 4):
        # The run dies. The old model is still there, and the photo is no news any more.
        (changed,) = shop.night(night).run_requests
        assert products_of([changed]) == [["B"]]
        shop.kill(changed)
    by_day = [dg.RunRequest(run_config=line_config("shop", [sku])) for sku in "BC"]
    assert shop.execute(by_day[0]).success
    assert "up to date" in shop.night(5).skip_message
    # A photo that is away for a while: the product fails by day, and has its old model too.
    photo = (shop.folder / "C.png").rename(shop.folder / "away")
    assert not shop.execute(by_day[1]).success
    photo.rename(shop.folder / "C.png")
    assert products_of(shop.night(6).run_requests) == [["C"]]
    assert len(shop.generator.billed) == 4


def test_a_night_that_died_before_it_had_started_every_run_starts_the_others_when_it_is_made_again(shop):
    for request in shop.night(1).run_requests:
        assert shop.execute(request).success
    for number, sku in enumerate("ABC"):
        draw_photo(shop.folder / f"{sku}.png", number + 3)
    first = shop.night(2).run_requests
    assert shop.execute(first[0]).success  # and here the daemon died
    again = shop.night(2).run_requests
    assert products_of(again) == products_of(first) == [["A", "B"], ["C"]]
    assert [r.run_key for r in again] == [r.run_key for r in first]
    # Were the key the same, Dagster would take the run for one that it has started.
    write_catalog(shop.folder, ["A", "B", "C", "D"])
    grown = shop.night(2).run_requests
    assert products_of(grown) == [["A", "B"], ["C", "D"]]
    assert not {r.run_key for r in grown} & {r.run_key for r in first}


def test_a_product_that_failed_is_tried_again_the_next_night(shop):
    photo = (shop.folder / "B.png").read_bytes()
    (shop.folder / "B.png").write_bytes(b"broken")
    results = [shop.execute(request) for request in shop.night(1).run_requests]
    assert [result.success for result in results] == [False, True]
    (shop.folder / "B.png").write_bytes(photo)
    retried = shop.night(2).run_requests
    assert products_of(retried) == [["B"]]
    assert shop.execute(retried[0]).success


def test_a_rejected_model_is_generated_again_with_the_next_seed_up_to_the_limit(tmp_path, instance):
    # No model has fewer than one triangle, so every attempt is rejected.
    strict = {"profile": "tiny", "profiles": {"tiny": {"max_triangles": 1}}}
    shop = Shop(tmp_path, instance, skus=("A",), quality=strict)
    generator = InstantGeneratorResource.around(shop.generator)
    run_catalog(shop.settings, shop.settings.catalogs[0], generator=generator)
    cursor, seeds = None, []
    for _ in range(4):
        tick = shop.tick("shop_failed_quality_sensor", cursor)
        cursor = tick.cursor or cursor
        for request in tick.run_requests:
            shop.execute(request)
        seeds.append([seed for _, seed in shop.generator.billed])
    assert seeds == [[42, 43], [42, 43, 44], [42, 43, 44], [42, 43, 44]]
    # The attempt is remembered: an ordinary run keeps the latest model instead of going back to the first.
    again = run_catalog(shop.settings, shop.settings.catalogs[0], generator=generator)
    assert [done.status for done in again.products] == ["cached"]
    assert len(shop.generator.billed) == 3


def test_reports_are_renewed_when_the_last_run_has_ended_and_only_once(shop):
    assert shop.tick("shop_report_sensor").run_requests == []
    for request in shop.night(1).run_requests:
        shop.execute(request)
    first, second = shop.tick("shop_report_sensor"), shop.tick("shop_report_sensor")
    assert len(first.run_requests) == 1
    assert first.run_requests[0].run_key == second.run_requests[0].run_key
