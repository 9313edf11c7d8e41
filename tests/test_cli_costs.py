"""`trellis-pipeline costs` as a user meets it: reports, the kill switch, waste, the account."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from service_process import service_process
from small_catalogs import InstantGenerator, write_catalog
from typer.testing import CliRunner

from assets.paths import record_path, snapshot_path
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.catalog.snapshot import snapshot_to_parquet
from trellis_pipeline.cli import app
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import SpendingPaused
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.service.testing import running_service
from trellis_pipeline.storage.store import open_store

KEY = "key-hunter2sentinel"


def trellis(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """No settings of whoever runs the tests: the working directory and its parents have none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)


def books(folder="out"):
    return Ledger.open(f"sqlite:///{Path(folder).absolute() / '.trellis' / 'ledger.sqlite'}")


def scope(sku="A", key="key-a"):
    return SpendScope("shop", sku, "run-1", "runware", "microsoft:trellis-2@4b", "1024", key)


def buy(ledger, sku, key, usd):
    ledger.settle(
        ledger.reserve(Decimal("0.10"), scope(sku, key), Budgets()), Decimal(usd), source="provider_cost"
    )


# -- the report --------------------------------------------------------------------------------------------


def test_the_report_is_what_it_was_with_commands_beside_it():
    with books() as ledger:
        buy(ledger, "A", "a", "0.0314")
    page = trellis("costs", "--output", "out", "--by", "product", "--catalog", "shop")
    assert page.exit_code == 0, page.output
    assert "shop/A" in page.stdout
    assert "total settled: $0.0314" in page.stdout
    document = json.loads(trellis("costs", "--output", "out", "--json").stdout)
    assert [line["settled_usd"] for line in document["lines"]] == ["0.031400000"]


# -- the kill switch ---------------------------------------------------------------------------------------


def test_pause_stops_spending_says_what_is_under_way_and_resume_lifts_it():
    with books() as ledger:
        ledger.reserve(Decimal("0.064"), scope(), Budgets())
        done = trellis("costs", "pause", "--reason", "prices look wrong", "--output", "out")
        assert done.exit_code == 0, done.output
        assert "prices look wrong" in done.stdout
        assert "1 purchases ($0.064 set aside)" in done.stdout
        with pytest.raises(SpendingPaused):
            ledger.reserve(Decimal("0.064"), scope(), Budgets())
        report = trellis("costs", "--output", "out", "--json")
        assert json.loads(report.stdout)["by"] == "catalog"
        assert "paused" in report.stderr
        assert "costs resume" in report.stderr
        done = trellis("costs", "resume", "--output", "out")
        assert done.exit_code == 0
        assert "prices look wrong" in done.stdout
        ledger.reserve(Decimal("0.064"), scope(), Budgets())
    assert "not paused" in trellis("costs", "resume", "--output", "out").stdout


@pytest.mark.slow
def test_a_run_on_a_paused_ledger_buys_nothing_and_says_why(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A"])
    trellis("costs", "pause", "--reason", "audit", "--output", "out")
    nowhere = ("--generator", "runware", "--base-url", "http://127.0.0.1:9/v1")
    done = trellis("run", "--catalog", catalog, "--output", "out", "--budget", "1", "--json", *nowhere)
    assert done.exit_code == 1, done.output
    assert "audit" in json.loads(done.stdout)["stopped"]
    assert "costs resume" in json.loads(done.stdout)["stopped"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["costs", "pause"], "--reason"),
        (["costs", "pause", "--reason", "  "], "needs a reason"),
        (["costs", "--output", "out", "pause", "--reason", "x"], "options stand behind the command"),
        (["costs", "--by", "mood"], "mood"),
        (["costs", "fly"], "fly"),
        (["costs", "reconcile", "--balance", "a lot"], "--balance: 'a lot' is not an amount"),
        (["costs", "reconcile", "--balance", "1", "--topped-up", "x"], "--topped-up: 'x'"),
        (["costs", "reconcile"], "--balance USD"),
    ],
)
def test_unusable_arguments_give_exit_code_2_and_one_clear_message(arguments, expected):
    done = trellis(*arguments)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr


# -- waste -------------------------------------------------------------------------------------------------


def keep_product(store, sku, request_key, verdict, *, attempt=1, judged_attempt=1):
    record = {"request_key": request_key, "attempt": attempt}
    store.write(record_path("shop", sku, "product_models"), json.dumps(record).encode())
    if verdict:
        record = {"verdict": verdict, "attempt": judged_attempt}
        store.write(record_path("shop", sku, "model_quality"), json.dumps(record).encode())


def test_waste_is_shown_by_cause_with_the_price_of_an_accepted_model(tmp_path):
    store = open_store((tmp_path / "out").as_uri())
    skus = ("GOOD", "BAD", "STALE", "BROKEN", "NEVER-RUN")
    store.write(snapshot_path("shop"), snapshot_to_parquet([Product(sku=sku, image="x.png") for sku in skus]))
    keep_product(store, "GOOD", "good", "pass")
    keep_product(store, "BAD", "bad", "fail")
    keep_product(store, "STALE", "stale", "pass", attempt=2)  # the verdict is about the first attempt
    store.write(record_path("shop", "BROKEN", "product_models"), b'{"request_key": ')
    with books() as ledger:
        for sku, usd in [("GOOD", "0.03"), ("BAD", "0.04"), ("STALE", "0.05"), ("BROKEN", "0.06")]:
            buy(ledger, sku, sku.lower(), usd)
        ledger.adjust(Decimal("0.02"), SpendScope("(unattributed)", "", "", "runware", "", "", ""), "found")
    done = trellis("costs", "waste", "--output", "out", "--json")
    assert done.exit_code == 0, done.output
    account, shop = json.loads(done.stdout)["catalogs"]
    assert (shop["accepted_models"], shop["usd_per_accepted_model"]) == (1, "0.18")
    assert {fate: usd for fate, usd in shop["usd_by_fate"].items() if usd != "0"} == {
        "accepted": "0.03",
        "rejected": "0.04",
        "unjudged": "0.05",
        "abandoned": "0.06",
    }
    assert (account["catalog"], account["usd_by_fate"]["unattributed"]) == ("(unattributed)", "0.02")
    assert account["usd_per_accepted_model"] is None
    page = trellis("costs", "waste", "--output", "out", "--catalog", "shop").stdout
    assert "$0.18 for each" in page
    assert "rejected" in page
    assert "unattributed" not in page


def test_waste_of_an_empty_ledger_is_nothing():
    assert "nothing was spent" in trellis("costs", "waste", "--output", "out").stdout


# -- the account -------------------------------------------------------------------------------------------


def test_a_balance_typed_by_hand_is_compared_with_the_last_one():
    assert trellis("costs", "reconcile", "--balance", "10", "--output", "out").exit_code == 0
    wrong = trellis("costs", "reconcile", "--balance", "9.50", "--output", "out")
    assert wrong.exit_code == 1
    assert "unexplained          $0.50" in wrong.stdout
    booked = trellis("costs", "reconcile", "--balance", "9.50", "--book", "by hand", "--output", "out")
    assert booked.exit_code == 0
    right = trellis("costs", "reconcile", "--balance", "9.50", "--output", "out", "--json")
    document = json.loads(right.stdout)
    assert (document["verdict"], document["unexplained_usd"], right.exit_code) == ("ok", "0", 0)


def test_money_paid_in_can_be_told():
    trellis("costs", "reconcile", "--balance", "1", "--output", "out")
    rose = trellis("costs", "reconcile", "--balance", "21", "--output", "out")
    assert rose.exit_code == 1
    assert "--topped-up 20" in rose.stdout
    told = trellis("costs", "reconcile", "--balance", "21", "--topped-up", "20", "--output", "out")
    assert told.exit_code == 0, told.output


def test_the_provider_is_asked_what_is_left(tmp_path):
    asked = ("costs", "reconcile", "--generator", "runware", "--output", "out", "--json")
    port = 0
    for number, (credit, code) in enumerate([("5.00", 0), ("3.00", 1)]):
        account = {"folder": tmp_path / f"service-{number}", "credit_usd": Decimal(credit)}
        with running_service(InstantGenerator(), port=port, **account) as service:
            done = trellis(*asked, "--base-url", service.base_url)
        port = service.port  # at another it would be another seller
        assert done.exit_code == code, done.output
        found = json.loads(done.stdout)
        assert found["generator"] == f"runware@127.0.0.1:{port}"
        assert Decimal(found["balance_now_usd"]) == Decimal(credit)
    assert found["unexplained_usd"] == "2"
    told = trellis(*asked, "--balance", "70")  # Runware's own account was never looked at
    assert (json.loads(told.stdout)["generator"], json.loads(told.stdout)["verdict"]) == ("runware", "first")


def test_a_provider_that_is_not_there_or_refuses_the_key_is_reported_without_the_key(tmp_path):
    asked = ("costs", "reconcile", "--generator", "runware", "--output", "out", "--base-url")
    with running_service(InstantGenerator(), folder=tmp_path / "service", api_keys=["other"]) as service:
        refused = trellis(*asked, service.base_url)
    assert refused.exit_code == 2, refused.output
    assert refused.stderr.startswith("error: Runware does not accept the API key")
    assert "RUNWARE_API_KEY" in refused.stderr
    assert KEY not in refused.output
    with books() as ledger:
        assert ledger.verify() == ()


def test_open_purchases_of_another_server_say_where_they_have_to_be_asked_for():
    begun = SpendScope("shop", "A", "run-1", "runware@127.0.0.1:9", "m", "1024", "key-a")
    with books() as ledger:
        Journal(ledger).begin(Decimal("0.10"), begun, Budgets(), after=None)
    done = trellis("costs", "open", "--finish", "--generator", "runware", "--output", "out")
    assert done.exit_code == 2, done.output
    assert "runware@127.0.0.1:9" in done.stderr
    assert "--generator runware --base-url http://127.0.0.1:9/v1" in done.stderr


@pytest.mark.slow
def test_after_a_run_the_account_has_lost_exactly_what_the_ledger_booked(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A", "B", "C"])
    (tmp_path / "trellis.toml").write_text('[run]\nworkers = 1\n[triage]\nhold = "never"\n')
    with service_process(tmp_path / "service", "--price", "0.0314", "--credit", "5") as service:
        bought = ("--generator", "runware", "--base-url", service.base_url, "--output", "out")
        assert trellis("costs", "reconcile", *bought).exit_code == 0
        done = trellis("run", "--catalog", catalog, "--budget", "1", *bought)
        assert done.exit_code == 0, done.output
        found = json.loads(trellis("costs", "reconcile", *bought, "--json").stdout)
    assert (found["verdict"], found["left_account_usd"]) == ("ok", "0.0942")
    assert found["settled_usd"] == "0.0942"
    waste = json.loads(trellis("costs", "waste", "--output", "out", "--json").stdout)
    (shop,) = waste["catalogs"]
    assert shop["settled_usd"] == "0.0942"
