"""`trellis-pipeline plan` as a user meets it: one document or one page, exit codes, nothing bought."""

import json
import shutil

import pytest
from small_catalogs import settings_for, write_catalog
from typer.testing import CliRunner

from assets.product_catalog import refresh_snapshot
from trellis_pipeline.automation.ui import main as serve_ui
from trellis_pipeline.cli import app
from trellis_pipeline.cli_common import settings_for as settings_for_command
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.review.quote_text import print_quote


def trellis(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """No settings of whoever runs the tests: the working directory and its parents have none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")


def test_the_draft_is_quoted_at_nothing_as_a_page_and_as_a_document(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A", "B"], [{"sku": "GONE", "image": "gone.png"}])
    asked = ("plan", "--catalog", catalog, "--output", tmp_path / "out")
    page = trellis(*asked)
    assert page.exit_code == 0, page.output
    assert "$0: draft is free" in page.stdout
    assert "failed GONE: source_images" in page.stdout
    assert "gone.png" in page.stdout
    assert "published figure" in page.stdout
    assert "nothing was bought" in page.stdout

    document = json.loads(trellis(*asked, "--json").stdout)
    assert document["counts"] == {
        "products": 3, "new": 2, "shared": 0, "cached": 0, "in_flight": 0, "held": 0, "failed": 1,
        "bad_rows": 0,
    }  # fmt: skip
    assert document["fits"] is True
    assert document["cost"]["p95_usd"] == "0.000000000"
    assert [product["sku"] for product in document["products"]] == ["A", "B", "GONE"]
    assert not list(tmp_path.glob("out/generations/*"))


def test_only_the_named_products_are_quoted(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A", "B", "C"])
    done = trellis("plan", "--catalog", catalog, "--output", tmp_path / "out", "--json", "--only", "A", "C")
    assert [product["sku"] for product in json.loads(done.stdout)["products"]] == ["A", "C"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "--catalog", "absent.csv"], "absent.csv"),
        (["plan", "--catalog", "shop", "--only", "NOBODY"], "NOBODY"),
        (["plan", "--catalog", "shop", "--budget", "a lot"], "--budget: 'a lot' is not an amount"),
        (["run", "--catalog", "shop", "--budget", "-1"], "--budget: '-1' is not an amount"),
        (["plan", "--catalog", "shop", "--generator", "magic"], "generation.generator"),
        (["plan", "--catalog", "shop", "stray"], "stray"),
    ],
)
def test_unusable_arguments_give_exit_code_2_and_one_clear_message(tmp_path, arguments, expected):
    write_catalog(tmp_path / "shop", ["A"])
    done = trellis(*arguments)
    assert done.exit_code == 2, done.output
    assert expected in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('cron = "every night"', "automation.nightly.cron: 'every night' is no cron expression"),
        ('cron = "0 25 * * *"', "automation.nightly.cron: '0 25 * * *' is no cron expression"),
        ('timezone = "Europe/Berln"', "'Europe/Berln' is no time zone; did you mean \"Europe/Berlin\"?"),
        ('timezone = "../passwd"', "'../passwd' is no time zone"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_the_key_and_the_way_out(
    tmp_path, line, said, monkeypatch, capsys
):
    write_catalog(tmp_path / "shop", [])
    catalog = '[[catalogs]]\nname = "shop"\nsource = "shop"\n'
    (tmp_path / "trellis.toml").write_text(f"{catalog}[automation.nightly]\n{line}\n")
    monkeypatch.setenv("TRELLIS_UI_PORT", "none")  # nobody would get a server, whatever is checked
    assert serve_ui() == 2
    assert said in capsys.readouterr().err
    for command in ("run", "plan"):
        refused = trellis(command, "--catalog", "shop", "--output", "out")
        assert refused.exit_code == 2, refused.output
        assert said in refused.output
        assert refused.exception is None or isinstance(refused.exception, SystemExit)


def test_an_output_may_be_a_url_and_then_the_ledger_stays_at_home(tmp_path):
    bucket = settings_for_command(output="s3://bucket/spring")
    assert (bucket.storage_url, bucket.home_dir) == ("s3://bucket/spring", tmp_path / ".trellis")
    for folder in ("a b", (tmp_path / "a b").as_uri()):
        here = settings_for_command(output=folder)
        assert here.storage_url == (tmp_path / "a b").as_uri()
        assert here.home_dir == tmp_path / "a b" / ".trellis"
    for command in (["costs"], ["costs", "waste"], ["costs", "resume"]):
        done = trellis(*command, "--output", "s3://bucket/spring")
        assert done.exit_code == 0, done.output
    assert (tmp_path / ".trellis" / "ledger.sqlite").exists()
    write_catalog(tmp_path / "shop", [])
    refused = trellis("plan", "--catalog", "shop", "--output", "ftp://host/spring")
    assert refused.exit_code == 2
    assert "a store URL starts with file:/// or s3://" in refused.output
    assert not list(tmp_path.glob("*:"))


def test_a_catalog_that_only_shares_its_file_name_with_another_does_not_replace_its_results(tmp_path):
    first, second = (
        write_catalog(tmp_path / place, []).rename(tmp_path / place / "shop.csv") for place in "xy"
    )
    settings = settings_for(tmp_path, first)
    parts = build_definitions(settings).resources
    refresh_snapshot("shop", parts["catalogs"].load(str(first)), parts["store"], parts["catalogs"])
    at = ("--output", tmp_path / "output")
    for command in (["run"], ["plan"], ["reproduce", "A"]):
        refused = trellis(*command, "--catalog", second, *at)
        assert refused.exit_code == 2, refused.output
        assert f"has the results of {first}; {second} would be called shop too" in refused.output
    assert trellis("plan", "--catalog", tmp_path / "y" / ".." / "x" / "shop.csv", *at).exit_code == 0
    shutil.copytree(tmp_path, tmp_path.with_name("elsewhere"))
    together = tmp_path.with_name("elsewhere") / "x" / "shop.csv", tmp_path.with_name("elsewhere") / "output"
    assert trellis("plan", "--catalog", together[0], "--output", together[1]).exit_code == 0
    # The way out that the message names for a catalog that was moved.
    moved = f'[[catalogs]]\nname = "shop"\nsource = "{second}"\n'
    (tmp_path / "trellis.toml").write_text(moved)
    assert trellis("plan", "--catalog", second, *at).exit_code == 0


def test_a_catalog_of_which_nothing_can_be_planned_gives_exit_code_1(tmp_path):
    catalog = write_catalog(tmp_path / "shop", [], [{"sku": "GONE", "image": "gone.png"}])
    done = trellis("plan", "--catalog", catalog, "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "cannot be ordered" in done.stdout


def paid_quote(**changes):
    """A document of a paid generator, as docs/reference/json.md describes it."""
    budget = {
        "scope": "day", "key": "2026-01-02", "cap_usd": "2.000000000", "settled_usd": "0.500000000",
        "reserved_usd": "0.064000000", "left_usd": "1.436000000", "needed_usd": "6.400000000",
        "over_usd": "4.964000000", "products_over": 0,
    }  # fmt: skip
    preset = {
        "preset": "1024/2048/500000/remesh", "purchases": 100, "p50_usd": "0.025600000",
        "p95_usd": "0.064000000", "reserve_usd": "0.064000000", "basis": "list_price", "samples": 3,
        "price_book": "2026", "seconds": 17.0, "seconds_basis": "published",
    }  # fmt: skip
    counts = {
        "products": 104, "new": 100, "shared": 0, "cached": 3, "in_flight": 0, "held": 1, "failed": 0,
        "bad_rows": 1,
    }  # fmt: skip
    held = {"sku": "[b]CUT", "status": "held", "preset": "", "reason": "runs out of the photo", "flags": []}
    return {
        "catalog": "shop", "generator": "runware/microsoft:trellis-2@4b/1", "paid": True, "fits": False,
        "refusal": None, "advice": ["day 2026-01-02: $4.964 short"], "counts": counts,
        "cost": {
            "purchases": 100, "p50_usd": "2.560000000", "p95_usd": "6.400000000",
            "reserved_at_once_usd": "0.512000000", "needed_usd": "6.400000000",
        },
        "time": {"hours": 2.5, "at_once": 8},
        "savings": {"cached_usd": "0.0768", "held_usd": "0.0256"},
        "budgets": [budget], "presets": [preset], "products": [held],
        "bad_rows": [{"row": 7, "sku": "../x", "reason": "not a SKU"}], "ignored_columns": [], "seconds": 1.0,
        **changes,
    }  # fmt: skip


def test_a_paid_quote_says_what_it_costs_where_it_hits_and_who_is_held(capsys):
    print_quote(paid_quote())
    page = capsys.readouterr().out
    for text in (
        "$2.56 expected (P50)",
        "$6.40 at most in 95 of 100 (P95), for 100 generations",
        "100 x 1024/2048/500000/remesh: $0.0256 to $0.064 each, list price",
        "$0.512 set aside with 8 at once",
        "2.5 hours of generation, 8 at once (a published figure",
        "held [b]CUT: runs out of the photo",
        "bad row 7 (../x): not a SKU",
        "day 2026-01-02: $4.964 short",
        "nothing was bought",
    ):
        assert text in page
    assert "fits the budgets" not in page


def test_many_problems_are_cut_short_and_the_document_has_all(capsys):
    problem = {"status": "failed", "reason": "no photo", "flags": [], "preset": ""}
    print_quote(paid_quote(products=[{"sku": f"P{n}", **problem} for n in range(50)], bad_rows=[]))
    page = capsys.readouterr().out
    assert page.count("no photo") == 20
    assert "and 30 more; --json lists all of them" in page
