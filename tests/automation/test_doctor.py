"""`trellis-pipeline doctor`: all that a run would trip over, each with its way out, and nothing made."""

import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from s3_server import s3_server
from small_catalogs import write_catalog
from sqlalchemy import update
from typer.testing import CliRunner

from trellis_pipeline.cli import app
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.purchasing.journal import Journal

KEY = "s3ntinelKeyThatMustNeverShow0001"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    return tmp_path


def write_settings(folder, text=""):
    (folder / "trellis.toml").write_text(text)


def doctor(*arguments):
    """Exit code, and the checks by name."""
    done = CliRunner().invoke(app, ["doctor", "--json", *map(str, arguments)])
    assert KEY not in done.output
    assert "Traceback" not in done.output
    document = json.loads(done.stdout)
    assert document["healthy"] == (done.exit_code == 0)
    return done.exit_code, {check["name"]: check for check in document["checks"]}


def test_a_new_project_is_healthy_and_nothing_is_made_in_it(here):
    write_catalog(here / "shop", ["A", "B"])
    write_settings(here, '[[catalogs]]\nname = "shop"\nsource = "shop/catalog.csv"\n')
    before = sorted(here.rglob("*"))
    code, checks = doctor()
    assert code == 0
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert checks["catalog shop"]["message"] == "2 products"
    assert sorted(here.rglob("*")) == before


def test_the_page_has_one_line_for_each_check_and_the_way_out_below(here):
    write_settings(here, '[generation]\ngenerator = "runware"\n')
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("problem   budgets"))
    assert "no budget is set" in lines[at]
    assert "total_usd = 5.00" in lines[at + 1]
    assert any(
        line.startswith("problem   api key") and "RUNWARE_API_KEY is not set" in line for line in lines
    )
    assert lines[-1].endswith("2 problems")


def test_settings_that_cannot_be_read_are_the_one_thing_that_is_said(here):
    write_settings(here, "[generation]\ngenerater = 1\n")
    code, checks = doctor()
    assert code == 1
    assert list(checks) == ["settings"]
    assert 'did you mean "generator"' in checks["settings"]["message"]


def test_a_key_is_found_and_not_shown(here, monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    write_settings(here, '[generation]\ngenerator = "runware"\n[budget]\ntotal_usd = 5\n')
    code, checks = doctor()
    assert code == 0
    assert "is set" in checks["api key"]["message"]
    assert checks["budgets"]["message"] == "total_usd $5.00"


def test_a_key_that_would_travel_in_the_open_is_a_problem(here, monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    write_settings(here, '[generation]\ngenerator = "runware"\n[budget]\ntotal_usd = 5\n')
    code, checks = doctor("--base-url", "http://somewhere.example/v1")
    assert code == 1
    assert "plain http" in checks["api key"]["message"]


def test_a_catalog_with_bad_rows_is_a_warning_and_one_that_is_not_there_a_problem(here):
    write_catalog(here / "shop", ["A"], [{"sku": "../up", "image": "A.png"}])
    catalogs = [("shop", "shop/catalog.csv"), ("gone", "gone.csv")]
    text = "".join(f'[[catalogs]]\nname = "{name}"\nsource = "{source}"\n' for name, source in catalogs)
    write_settings(here, text)
    code, checks = doctor()
    assert code == 1
    assert checks["catalog shop"]["status"] == "warning"
    assert "1 bad rows" in checks["catalog shop"]["message"]
    assert "row 3" in checks["catalog shop"]["way_out"]
    assert checks["catalog gone"]["status"] == "problem"
    assert "gone.csv" in checks["catalog gone"]["message"]


def test_a_request_setting_that_the_api_does_not_know_is_a_problem_of_its_catalog(here):
    write_catalog(here / "shop", ["A"])
    write_settings(
        here,
        '[[catalogs]]\nname = "shop"\nsource = "shop/catalog.csv"\n'
        "[catalogs.generation.settings]\nresolution = 999\n",
    )
    code, checks = doctor()
    assert code == 1
    assert "settings.resolution" in checks["catalog shop"]["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written_is_a_problem(here):
    (here / "closed").mkdir(mode=0o500)
    write_settings(here, 'home = "closed/home"\n')
    code, checks = doctor()
    assert code == 1
    assert checks["home"]["status"] == "problem"


def test_a_home_below_a_file_is_a_problem_that_names_it(here):
    (here / "taken").write_text("a file")
    write_settings(here, 'home = "taken/home"\n')
    code, checks = doctor()
    assert code == 1
    assert checks["home"]["status"] == "problem"
    assert str(here / "taken") in checks["home"]["message"]
    assert "trellis.toml" in checks["home"]["way_out"]


def test_paused_spending_is_a_problem_with_its_reason(here):
    write_settings(here)
    assert CliRunner().invoke(app, ["costs", "pause", "--reason", "prices look wrong"]).exit_code == 0
    code, checks = doctor()
    assert code == 1
    assert "prices look wrong" in checks["spending"]["message"]
    assert "costs resume" in checks["spending"]["way_out"]


def open_ledger(here):
    return Ledger.open(f"sqlite:///{here / '.trellis' / 'ledger.sqlite'}")


def test_books_that_do_not_add_up_are_a_problem(here):
    write_settings(here)
    with open_ledger(here) as ledger:
        ledger.reserve(Decimal(1), SpendScope("shop", "A", "r", "runware", "m", "p", "k"), Budgets())
        with ledger.writing() as connection:
            connection.exec_driver_sql("UPDATE scope_totals SET reserved = 0 WHERE scope = 'catalog'")
    code, checks = doctor()
    assert code == 1
    assert "catalog shop" in checks["ledger"]["message"]
    assert "rebuild" in checks["ledger"]["way_out"]


def test_a_file_that_is_no_ledger_is_a_problem(here):
    write_settings(here)
    (here / ".trellis").mkdir()
    (here / ".trellis" / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    code, checks = doctor()
    assert code == 1
    assert checks["ledger"]["status"] == "problem"
    assert checks["matte"]["status"] == "ok"  # the others are looked at all the same


def test_a_purchase_that_is_open_for_days_is_named(here):
    write_settings(here)
    with open_ledger(here) as ledger:
        for sku in ("OLD", "NEW"):
            scope = SpendScope("shop", sku, "r", "runware", "m", "p", f"key-{sku}")
            Journal(ledger).begin(Decimal("0.1"), scope, Budgets(), after=None)
        then = datetime.now(UTC) - timedelta(days=3)
        with ledger.writing() as connection:
            connection.execute(update(intents).where(intents.c.sku == "OLD").values(made_at=then))
    code, checks = doctor()
    assert code == 0
    assert checks["purchases"]["status"] == "warning"
    assert "shop/OLD" in checks["purchases"]["message"]
    assert "NEW" not in checks["purchases"]["message"]


def test_a_budget_that_is_used_up_is_a_warning(here, monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    write_settings(here, '[generation]\ngenerator = "runware"\n[budget]\nday_usd = 1\n')
    with open_ledger(here) as ledger:
        ledger.reserve(Decimal(1), SpendScope("shop", "A", "r", "runware", "m", "p", "k"), Budgets())
    code, checks = doctor()
    assert code == 0
    assert checks["budgets"]["status"] == "warning"
    assert "nothing is left of day" in checks["budgets"]["message"]


def test_a_matte_that_is_not_installed_is_named(here):
    write_settings(here, '[imagery]\nmatte = "magic"\n')
    code, checks = doctor()
    assert code == 1
    assert "u2netp" in checks["matte"]["way_out"]


def test_a_matte_that_was_not_fetched_or_is_another_file_is_named(here):
    write_settings(here, '[imagery]\nmatte = "birefnet"\n[local]\nweights = "weights"\n')
    _, checks = doctor()
    assert checks["matte"]["status"] == "problem"
    assert "model.onnx does not exist" in checks["matte"]["message"]
    assert checks["matte"]["way_out"] == "trellis-pipeline weights fetch --matte"
    network = here / "weights/onnx-community/BiRefNet-ONNX/onnx/model.onnx"
    network.parent.mkdir(parents=True)
    network.write_bytes(b"short")
    assert "has the wrong size" in doctor()[1]["matte"]["message"]
    with network.open("wb") as stream:
        stream.truncate(972_666_916)  # a hole: nothing is written
    assert doctor()[1]["matte"]["status"] == "ok"


def test_schedules_without_a_daemon_are_a_warning(here):
    from trellis_pipeline.automation.instance import open_instance
    from trellis_pipeline.config import load_settings

    write_settings(here, "[automation.nightly]\nenabled = true\n")
    with open_instance(load_settings()):
        pass
    code, checks = doctor()
    assert code == 0
    assert checks["dagster"]["status"] == "warning"
    assert "nightly" in checks["dagster"]["message"]
    assert "dagster dev" in checks["dagster"]["way_out"]


def test_a_webhook_address_that_the_provider_cannot_call_is_a_problem(here):
    bought = '[generation]\ngenerator = "runware"\n[webhooks]\npublic_url = '
    for url, why in (("http://hooks.example.com", "must be like https"), ("https://localhost", "cannot be")):
        write_settings(here, f'{bought}"{url}"\n')
        code, checks = doctor()
        assert code == 1
        assert checks["settings"]["status"] == "problem"
        assert "webhooks.public_url: " in checks["settings"]["message"]
        assert why in checks["settings"]["message"]


def test_a_postgres_that_does_not_answer_is_a_problem_and_its_password_stays_secret(here, monkeypatch):
    write_settings(here)
    monkeypatch.setenv("TRELLIS_LEDGER__URL", f"postgresql://shop:{KEY}@127.0.0.1:1/books")
    code, checks = doctor()
    assert code == 1
    assert "postgresql://127.0.0.1:1/books" in checks["ledger"]["message"]


def test_a_postgres_that_answers_is_well(here, monkeypatch, postgres_url):
    write_settings(here)
    monkeypatch.setenv("TRELLIS_LEDGER__URL", postgres_url)
    code, checks = doctor()
    assert code == 0
    assert checks["ledger"]["message"].startswith("postgresql://")
    assert checks["spending"]["status"] == "ok"


def test_a_bucket_is_written_read_and_left_as_it_was(here, monkeypatch):
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    with s3_server() as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="models")
        where = f's3_endpoint = "{endpoint}"\ns3_region = "us-east-1"\n'
        write_settings(here, f'[storage]\nurl = "s3://models/shop"\n{where}')
        assert doctor()[1]["storage"]["status"] == "ok"
        assert client.list_objects_v2(Bucket="models").get("KeyCount") == 0
        write_settings(here, f'[storage]\nurl = "s3://absent/shop"\n{where}')
        code, checks = doctor()
        assert code == 1
        assert checks["storage"]["status"] == "problem"
