"""Planning a catalog: every product is placed, nothing is bought, and the run that follows agrees."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from small_catalogs import (
    InstantGenerator,
    InstantGeneratorResource,
    box_glb,
    draw_photo,
    settings_for,
    write_catalog,
)

from assets.outcome import Problem, load_problem, save_problem
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.plan import plan_catalog
from trellis_pipeline.automation.plan_document import plan_document
from trellis_pipeline.catalog.readers import load_catalog
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import report, totals
from trellis_pipeline.errors import CatalogError, ConfigError
from trellis_pipeline.purchasing.generations import certificate_path
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.storage.store import open_store

RUNWARE = ("runware", "microsoft:trellis-2@4b")


class ListedGenerator(InstantGenerator):
    """Paid, and listed in the price book."""

    def __init__(self, cost="0.03"):
        super().__init__(paid=True, cost=cost)
        self.identity = type(self.identity)(*RUNWARE, "1")


class Shop:
    """A catalog, its settings and a generator with its billing log."""

    def __init__(self, folder, skus, rows=(), generator=None, **sections):
        self.folder = folder
        self.generator = generator or ListedGenerator()
        self.path = write_catalog(folder / "shop", skus, rows)
        self.configure(**sections)

    def configure(self, **sections):
        self.settings = settings_for(self.folder, self.path, **sections)

    @property
    def resource(self):
        return InstantGeneratorResource.around(self.generator)

    def plan(self, only=()):
        return plan_catalog(self.settings, self.settings.catalogs[0], only, generator=self.resource)

    def run(self, only=()):
        return run_catalog(self.settings, self.settings.catalogs[0], only, generator=self.resource)

    def bought_elsewhere(self):
        """Put what this catalog would buy into the store, as another catalog's run would have left it."""
        store = open_store(self.settings.storage_url)
        blob = store.put_blob(box_glb(), ".glb")
        for product in self.plan().quote.products:
            certificate = {
                "request_key": product.request_key,
                "glb": {"sha256": blob.sha256, "size": blob.size, "suffix": blob.suffix},
                "seed": 42,
                "cost_usd": "0.03",
                "seconds": 1.0,
                "provenance": {},
            }
            store.write(certificate_path(product.request_key), json.dumps(certificate).encode())

    def ledger(self, **options):
        return Ledger.open(self.settings.ledger_url, **options)

    def statuses(self, only=()):
        return {product["sku"]: product["status"] for product in plan_document(self.plan(only))["products"]}


def cut_photo(path):
    """A thing that runs out of its photo, which triage flags."""
    image = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((150, 120, 300, 400), fill="firebrick")
    image.save(path)


def test_a_plan_places_every_product_and_buys_nothing_and_the_run_agrees(tmp_path):
    rows = [
        {"sku": "CUT", "image": "cut.png"},
        {"sku": "GONE", "image": "gone.png"},
        {"sku": "WRONG", "image": "A.png", "settings.resolution": "777"},
        {"sku": "TWIN", "image": "B.png"},
        {"sku": "../x", "image": "A.png"},
    ]
    shop = Shop(tmp_path, ["A", "B"], rows, budget={"total_usd": "5"})
    cut_photo(tmp_path / "shop" / "cut.png")
    shop.run(["A"])
    assert len(shop.generator.billed) == 1

    plan = shop.plan()
    document = plan_document(plan)
    products = {product["sku"]: product for product in document["products"]}
    assert {sku: product["status"] for sku, product in products.items()} == {
        "A": "cached",
        "B": "new",
        "CUT": "held",
        "GONE": "failed",
        "TWIN": "shared",
        "WRONG": "failed",
    }
    assert "runs out of the photo" in products["CUT"]["reason"]
    assert products["CUT"]["flags"]
    assert "source_images" in products["GONE"]["reason"]
    assert "777" in products["WRONG"]["reason"]
    assert [row["sku"] for row in document["bad_rows"]] == ["../x"]
    assert document["counts"]["products"] == 6
    assert document["cost"]["purchases"] == 1
    assert document["cost"]["p50_usd"] == "0.025600000"
    assert document["cost"]["p95_usd"] == "0.064000000"
    assert document["savings"] == {"cached_usd": "0.051200000", "held_usd": "0.025600000"}
    assert plan.exit_code == 0
    assert len(shop.generator.billed) == 1
    with shop.ledger() as ledger:
        assert totals(ledger).generations == 1
        assert ledger.open_reservations() == ()

    kept = [
        (path, path.stat().st_mtime_ns)
        for stage in ("source_images", "product_crops")
        for path in sorted(tmp_path.glob(f"output/shop/products/*/{stage}.json"))
    ]
    shop.configure(budget={"total_usd": "5"}, run={"workers": 1, "in_flight": 1})
    shop.run()
    assert len(shop.generator.billed) == 1 + document["cost"]["purchases"]
    assert len(kept) == 10
    assert kept == [(path, path.stat().st_mtime_ns) for path, _ in kept]


def test_a_plan_takes_no_news_from_the_sensors(tmp_path):
    shop = Shop(tmp_path, ["A"], budget={"total_usd": "5"})
    shop.plan()
    store = open_store(shop.settings.storage_url)
    assert not store.exists("shop/catalog.parquet")


def test_a_plan_leaves_the_reason_standing_for_which_a_product_has_no_model(tmp_path):
    shop = Shop(tmp_path, [], [{"sku": "CUT", "image": "cut.png"}], budget={"total_usd": "5"})
    cut_photo(tmp_path / "shop" / "cut.png")
    store = open_store(shop.settings.storage_url)
    held = Problem(status="held", stage="product_models", reason="cut", seconds=0.0, run_id="run")
    fetching = Problem(status="failed", stage="source_images", reason="offline", seconds=0.0, run_id="run")
    for problem, stays in ((held, held), (fetching, None)):
        save_problem(store, "shop", "CUT", problem)
        shop.plan()
        assert load_problem(store, "shop", "CUT") == stays


def test_a_changed_photo_is_new_again_and_a_changed_title_is_not(tmp_path):
    shop = Shop(tmp_path, ["A", "B"], budget={"total_usd": "5"})
    shop.bought_elsewhere()
    assert shop.statuses() == {"A": "cached", "B": "cached"}
    draw_photo(tmp_path / "shop" / "A.png", number=7)
    shop.path.write_text(shop.path.read_text().replace("Bottle 1", "Flask 1"))
    assert load_catalog(shop.path).products[1].title == "Flask 1"
    assert shop.statuses() == {"A": "new", "B": "cached"}


@pytest.mark.slow
def test_a_model_whose_certificate_is_lost_is_still_there_until_its_record_is_lost_too(tmp_path):
    shop = Shop(tmp_path, ["A", "B"], budget={"total_usd": "5"})
    shop.run()
    for certificate in tmp_path.glob("output/generations/*.json"):
        certificate.unlink()
    assert shop.statuses() == {"A": "cached", "B": "cached"}
    (tmp_path / "output/shop/products/A/product_models.json").unlink()
    assert shop.statuses() == {"A": "new", "B": "cached"}


def test_what_somebody_is_buying_already_counts_as_under_way_and_not_again_as_money(tmp_path):
    shop = Shop(tmp_path, ["A", "B"], budget={"total_usd": "1"})
    wanted = {product["sku"]: product for product in plan_document(shop.plan())["products"]}["A"]
    scope = SpendScope("shop", "A", "other", *RUNWARE, wanted["preset"], wanted["request_key"])
    with shop.ledger() as ledger:
        Journal(ledger).begin(Decimal("0.064"), scope, Budgets(total_usd=Decimal(1)), after=None)
        document = plan_document(shop.plan())
    assert {product["sku"]: product["status"] for product in document["products"]} == {
        "A": "in_flight",
        "B": "new",
    }
    (budget,) = document["budgets"]
    assert (budget["reserved_usd"], budget["needed_usd"]) == ("0.064000000", "0.064000000")


def test_over_budget_gives_code_3_and_names_the_scope(tmp_path):
    shop = Shop(tmp_path, ["A", "B"], budget={"total_usd": "5", "run_usd": "0.10"})
    plan = shop.plan()
    assert plan.exit_code == 3
    (text,) = plan_document(plan)["advice"]
    assert text.startswith("run: $0.10 left of $0.10, $0.128 needed, $0.028 short")
    assert shop.plan(["A"]).exit_code == 0


def test_a_paid_generator_without_a_budget_is_quoted_and_told_how_to_set_one(tmp_path):
    shop = Shop(tmp_path, ["A"])
    plan = shop.plan()
    document = plan_document(plan)
    assert plan.exit_code == 3
    assert document["cost"]["p95_usd"] == "0.064000000"
    assert "total_usd" in document["refusal"]
    assert "--budget" in document["refusal"]


def test_paused_spending_is_said(tmp_path):
    shop = Shop(tmp_path, ["A"], budget={"total_usd": "5"})
    with shop.ledger() as ledger:
        ledger.pause("prices look wrong")
    plan = shop.plan()
    assert plan.exit_code == 3
    assert "prices look wrong" in plan.quote.refusal


def test_a_free_generator_is_quoted_at_nothing_and_holds_nobody_back(tmp_path):
    shop = Shop(tmp_path, ["A"], [{"sku": "CUT", "image": "cut.png"}], generator=InstantGenerator())
    cut_photo(tmp_path / "shop" / "cut.png")
    plan = shop.plan()
    assert plan.exit_code == 0
    assert plan.quote.counts["new"] == 2
    assert (plan.quote.cost.expected, plan.quote.cost.high, plan.quote.needed) == (0, 0, 0)


def test_a_paid_generator_without_a_price_is_refused(tmp_path):
    shop = Shop(tmp_path, ["A"], generator=InstantGenerator(paid=True), budget={"total_usd": "5"})
    with pytest.raises(ConfigError, match="price"):
        shop.plan()


def test_an_unknown_product_is_refused_by_name(tmp_path):
    with pytest.raises(CatalogError, match="NOBODY"):
        Shop(tmp_path, ["A"]).plan(["NOBODY"])


def test_nothing_that_could_be_planned_gives_code_1(tmp_path):
    assert Shop(tmp_path / "1", [], [{"sku": "GONE", "image": "gone.png"}]).plan().exit_code == 1
    assert Shop(tmp_path / "2", [], [{"sku": "../x", "image": "a.png"}]).plan().exit_code == 1
    assert Shop(tmp_path / "3", []).plan().exit_code == 0


def test_history_makes_the_quote_and_its_hours(tmp_path):
    shop = Shop(tmp_path, ["A", "B"], budget={"total_usd": "5"})
    first = shop.plan()
    with shop.ledger(clock=lambda: datetime(2026, 1, 2, tzinfo=UTC)) as ledger:
        preset = first.quote.products[0].preset
        for number in range(30):
            scope = SpendScope("other", f"X{number}", "run", *RUNWARE, preset, f"key-{number}")
            reservation = ledger.reserve(Decimal("0.1"), scope, Budgets())
            ledger.settle(reservation, Decimal("0.05"), source="provider_cost", seconds=36.0)
    document = plan_document(shop.plan())
    (line,) = document["presets"]
    assert (line["basis"], line["samples"], line["seconds_basis"]) == ("history", 30, "history")
    assert document["cost"]["p50_usd"] == document["cost"]["p95_usd"] == "0.100000000"
    assert document["time"]["hours"] == pytest.approx(0.01)


def test_one_run_budget_holds_for_all_of_dagsters_runs_of_a_command(tmp_path):
    shop = Shop(
        tmp_path,
        ["A", "B", "C", "D"],
        budget={"run_usd": "0.10"},
        triage={"hold": "never"},
        run={"workers": 1, "in_flight": 1, "products_per_run": 1},
    )
    done = shop.run()
    # $0.064 are set aside for each, $0.03 are billed: the third would cross $0.10.
    assert len(shop.generator.billed) == 2
    assert "run_usd" in str(done.stopped)
    with shop.ledger() as ledger:
        (line,) = report(ledger, by="run")
    assert line.settled_usd == Decimal("0.06")


def test_every_key_of_the_document_is_in_the_reference_and_every_amount_is_exact_text(tmp_path):
    shop = Shop(tmp_path, ["A"], budget={"total_usd": "5"})
    reference = Path(__file__).parents[2] / "docs/reference/json.md"
    described = reference.read_text().split("## plan")[1].split("\n## ")[0]

    def check(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                assert f"`{name}`" in described or f"`{name}[]`" in described, name
                check(inner, name)
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        elif key.endswith("_usd"):
            assert isinstance(value, str)
            assert Decimal(value) >= 0

    check(json.loads(json.dumps(plan_document(shop.plan()))))
