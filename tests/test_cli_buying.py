"""Buying as a user meets it: a key, a budget, a run, and what to do when the outcome is not known."""

import json
import os
import subprocess
import sys
from decimal import Decimal

import pytest
from small_catalogs import InstantGenerator, write_catalog
from typer.testing import CliRunner

from trellis_pipeline.cli import app
from trellis_pipeline.service.faults import Fault, FaultPlan
from trellis_pipeline.service.testing import LIST_PRICE, running_service

COMMAND = [sys.executable, "-c", "from trellis_pipeline.cli import main; main()"]
KEY = "sentinel-key-7f3a9c"
SETTINGS = """
[triage]
hold = "never"
[run]
workers = 1
[budget]
total_usd = 1.00
"""


def trellis(*arguments, cwd, key=KEY, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_", "RUNWARE_"))}
    given = {"RUNWARE_API_KEY": key} if key else {}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, **given, **environment},
        check=False,
    )


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "trellis.toml").write_text(SETTINGS)
    write_catalog(tmp_path / "shop", ["CAN-1", "CAN-2"])
    return tmp_path


def buy(shop, service, *more, **options):
    return trellis(
        *("run", "--catalog", "shop/catalog.csv", "--generator", "runware"),
        *("--base-url", service.base_url, "--output", "out", "--json", *more),
        cwd=shop,
        **options,
    )


def assert_no_secret(shop, *outputs):
    for output in outputs:
        assert KEY not in output.stdout + output.stderr
    for path in (shop / "out").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_models_are_bought_once_with_their_price_and_the_key_is_nowhere(shop, monkeypatch):
    with running_service(InstantGenerator(), folder=shop / "service", api_keys=[KEY]) as service:
        first = buy(shop, service)
        assert first.returncode == 0, first.stderr
        document = json.loads(first.stdout)
        assert {p["status"] for p in document["products"]} == {"generated"}
        assert Decimal(document["totals"]["cost_usd"]) == 2 * LIST_PRICE
        again = buy(shop, service)
        assert {p["status"] for p in json.loads(again.stdout)["products"]} == {"cached"}
        assert [bill.cost for bill in service.billing()] == [LIST_PRICE, LIST_PRICE]
    certificate = json.loads((shop / "out/shop/products/CAN-1/birth_certificate.json").read_text())
    assert certificate["generator"] == f"runware@127.0.0.1:{service.port}/microsoft:trellis-2@4b/1"
    assert Decimal(certificate["cost_usd"]) == LIST_PRICE
    assert certificate["quality"]["verdict"] in {"pass", "warn", "fail"}
    assert_no_secret(shop, first, again)

    asked = ("plan", "--catalog", "shop/catalog.csv", "--generator", "runware", "--output", "out", "--json")
    monkeypatch.chdir(shop)
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)  # a quote asks nobody
    for address, counts in ((f"{service.base_url}/", (2, 0)), ("https://api.runware.ai/v1", (0, 2))):
        quote = json.loads(CliRunner().invoke(app, [*asked, "--base-url", address]).stdout)
        assert (quote["counts"]["cached"], quote["counts"]["new"]) == counts


def test_a_wrong_key_costs_one_call_and_the_run_says_what_to_set(shop):
    with running_service(InstantGenerator(), folder=shop / "service", api_keys=["another"]) as service:
        refused = buy(shop, service)
        assert service.accepted() == []
    assert refused.returncode == 2, refused.stderr
    document = json.loads(refused.stdout)
    assert document["stopped"].startswith("Runware does not accept the API key")
    assert "RUNWARE_API_KEY" in document["stopped"]
    assert [p["status"] for p in document["products"] if p["status"] != "failed"] == []
    assert_no_secret(shop, refused)


def test_without_a_key_nothing_is_asked_of_anybody(shop):
    with running_service(InstantGenerator(), folder=shop / "service") as service:
        refused = buy(shop, service, key=None)
        assert sum(service.requests().values()) == 0
    assert refused.returncode == 2
    assert "RUNWARE_API_KEY is not set" in refused.stderr


def test_an_empty_account_stops_the_run_and_keeps_what_was_bought(shop):
    with running_service(InstantGenerator(), folder=shop / "service", credit_usd=LIST_PRICE) as service:
        stopped = buy(shop, service, TRELLIS_RUN__IN_FLIGHT="1")
        document = json.loads(stopped.stdout)
        assert stopped.returncode == 1
        assert sorted(p["status"] for p in document["products"]) == ["failed", "generated"]
        assert "credit" in document["stopped"]
        assert len(service.billing()) == 1


@pytest.mark.slow
def test_what_is_still_processing_is_listed_and_finished_later_without_a_second_purchase(shop):
    stuck = FaultPlan.of(Fault("stuck", seconds=4.0, times=0))
    with running_service(InstantGenerator(), folder=shop / "service", faults=stuck) as service:
        late = buy(shop, service, "--only", "CAN-1", TRELLIS_RUNWARE__TASK_SECONDS="1.5")
        assert late.returncode == 1
        (product,) = json.loads(late.stdout)["products"]
        assert product["status"] == "failed"
        shown = trellis("costs", "open", "--output", "out", cwd=shop)
        assert "CAN-1" in shown.stdout
        assert "handed in" in shown.stdout
        options = ("--generator", "runware", "--base-url", service.base_url, "--output", "out", "--json")
        done = trellis("costs", "open", "--finish", *options, cwd=shop)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [one["end"] for one in json.loads(done.stdout)["purchases"]] == ["kept"]
        found = buy(shop, service, "--only", "CAN-1")
        assert [p["status"] for p in json.loads(found.stdout)["products"]] == ["cached"]
        assert len(service.billing()) == 1
    assert "no purchase is open" in trellis("costs", "open", "--output", "out", cwd=shop).stdout


@pytest.mark.slow
def test_a_model_that_a_killed_run_had_bought_still_shows_what_it_cost(shop):
    with running_service(InstantGenerator(), folder=shop / "service") as service:
        assert buy(shop, service, "--only", "CAN-1").returncode == 0
        # As if the run had died between the store and its own record.
        record = shop / "out/shop/products/CAN-1/product_models.json"
        record.unlink()
        again = buy(shop, service, "--only", "CAN-1")
        assert [p["status"] for p in json.loads(again.stdout)["products"]] == ["cached"]
        assert len(service.billing()) == 1
    found = json.loads(record.read_text())
    assert (Decimal(found["cost_usd"]), Decimal(found["model_cost_usd"])) == (0, LIST_PRICE)
    assert "$0.0256" in (shop / "out/shop/report.html").read_text()
