"""The command line as a user meets it: exit codes, one JSON document, errors that name the way out."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from small_catalogs import box_glb, draw_photo, write_catalog
from sqlalchemy.pool import NullPool

from trellis_pipeline.cli_common import guarded

COMMAND = [sys.executable, "-c", "from trellis_pipeline.cli import main; main()"]


def trellis(*arguments, cwd, env=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_"))}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, **(env or {})},
        check=False,
    )


class StoppedAsItCloses(sqlite3.Connection):
    def close(self):
        super().close()
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_while_a_database_connection_is_closed_shows_no_traceback(capsys, caplog):
    pool = NullPool(lambda: sqlite3.connect(":memory:", factory=StoppedAsItCloses))
    with pytest.raises(typer.Exit) as ended:
        guarded(lambda: pool.connect().close())
    assert ended.value.exit_code == 130
    assert "what was finished is kept" in capsys.readouterr().err
    assert caplog.text == ""


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("cli")
    catalog = write_catalog(tmp / "shop", ["CAN-1"], [{"sku": "GONE", "image": "gone.png"}])
    done = trellis("run", "--catalog", catalog, "--output", tmp / "out", "--json", cwd=tmp)
    return tmp, catalog, done


def test_json_is_the_only_thing_on_stdout_and_a_failed_product_gives_exit_code_1(first_run):
    tmp, _, done = first_run
    document = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    products = {product["sku"]: product for product in document["products"]}
    assert products["CAN-1"]["status"] == "generated"
    assert Path(products["CAN-1"]["model_path"]).stat().st_size == products["CAN-1"]["file_bytes"]
    assert set(products["CAN-1"]) == {
        "sku", "status", "failed_stage", "error", "model_path", "triangles", "vertices", "max_texture_px",
        "file_bytes", "cost_usd", "seconds", "verdict",
    }  # fmt: skip
    assert products["GONE"]["status"] == "failed"
    assert products["GONE"]["failed_stage"] == "source_images"
    assert "gone.png" in products["GONE"]["error"]
    assert document["totals"]["generated"] == 1
    assert document["totals"]["failed"] == 1
    assert str(tmp / "out") in document["report"]


def test_a_second_run_finds_everything_and_says_so(first_run):
    tmp, catalog, _ = first_run
    again = trellis("run", "--catalog", catalog, "--output", tmp / "out", "--only", "CAN-1", cwd=tmp)
    assert again.returncode == 0, again.stderr
    assert "nothing to generate: all 1 products were there already" in again.stdout
    assert "report" in again.stdout


def test_costs_lists_the_free_generation_with_its_seconds(first_run):
    tmp, _, _ = first_run
    done = trellis("costs", "--by", "product", "--output", tmp / "out", "--json", cwd=tmp)
    (line,) = json.loads(done.stdout)["lines"]
    assert line["product"] == "shop/CAN-1"
    assert line["settled_usd"] in {"0", "0.000000000", "0E-9"}
    assert line["seconds"] > 0


def test_inspect_reads_a_glb_that_is_not_ours(first_run):
    tmp, _, _ = first_run
    (tmp / "box.glb").write_bytes(box_glb())
    record = json.loads(trellis("inspect", tmp / "box.glb", "--json", cwd=tmp).stdout)
    assert record["triangles"] == 12
    assert record["watertight"] is True
    assert record["textures"][0]["width"] == 8
    assert "12" in trellis("inspect", tmp / "box.glb", cwd=tmp).stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--catalog", "absent.csv"], "absent.csv"),
        (["run", "--catalog", "shop", "--generator", "magic"], "generation.generator"),
        (["run", "--catalog", "shop/catalog.csv", "--only", "NOBODY"], "NOBODY"),
        (["run"], "--catalog"),
        (["run", "--catalog", "shop", "stray"], "stray"),
        (["inspect", "absent.glb"], "no such file"),
        (["inspect", "/"], "is not a regular file"),
        (["costs", "--by", "mood"], "mood"),
        (["fly"], "fly"),
    ],
)
def test_unusable_arguments_give_exit_code_2_and_one_clear_message(tmp_path, arguments, expected):
    write_catalog(tmp_path / "shop", ["A"])
    done = trellis(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_in_the_settings_file_suggests_the_right_one(tmp_path):
    (tmp_path / "trellis.toml").write_text('[storage]\nulr = "file://out"\n')
    done = trellis("costs", cwd=tmp_path)
    assert done.returncode == 2
    assert 'did you mean "url"' in done.stderr


def test_an_empty_catalog_is_a_run_with_nothing_to_do(tmp_path):
    (tmp_path / "empty.csv").write_text("sku,image\n")
    done = trellis("run", "--catalog", "empty.csv", "--output", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["products"] == []


def test_a_run_with_settings_of_its_own_does_not_mind_broken_ones_in_this_folder(tmp_path):
    (tmp_path / "empty.csv").write_text("sku,image\n")
    (tmp_path / "trellis.toml").write_text("[budgte]\n")
    (tmp_path / "own.toml").write_text('[[catalogs]]\nname = "empty"\nsource = "empty.csv"\n')
    done = trellis("run", "--catalog", "empty", "--config", "own.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"DAGSTER_HOME={tmp_path / '.trellis' / 'dagster'}" in "".join(done.stdout.splitlines())


def test_a_report_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "empty.csv").write_text("sku,image\n")
    (tmp_path / "out" / "empty" / "report.html" / "a folder").mkdir(parents=True)
    done = trellis("run", "--catalog", "empty.csv", "--output", "out", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert "the reports could not be made" in json.loads(done.stdout)["stopped"]


def test_a_catalog_of_bad_rows_names_each_of_them(tmp_path):
    (tmp_path / "bad.csv").write_text("sku,image,height_m\n,a.png,\n../x,b.png,\nOK-1,c.png,tall\n")
    done = trellis("run", "--catalog", "bad.csv", "--output", "out", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [row["row"] for row in document["bad_rows"]] == [2, 3, 4]


def test_an_output_that_cannot_be_written_is_named_before_anything_is_made(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A"])
    (tmp_path / "file").write_text("not a folder")
    done = trellis("run", "--catalog", catalog, "--output", tmp_path / "file" / "out", cwd=tmp_path)
    assert done.returncode != 0
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_photos_is_a_catalog_too(tmp_path):
    (tmp_path / "photos").mkdir()
    draw_photo(tmp_path / "photos" / "red can.png")
    done = trellis("run", "--catalog", "photos", "--output", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (product,) = json.loads(done.stdout)["products"]
    assert product["status"] == "generated"


def test_a_setting_out_of_range_in_one_row_fails_that_product_and_a_misspelt_column_is_named(tmp_path):
    catalog = write_catalog(
        tmp_path / "shop", ["GOOD"], [{"sku": "BAD", "image": "GOOD.png", "settings.resolution": "777"}]
    )
    catalog.write_text(catalog.read_text().replace("height_m", "hight_m", 1))
    done = trellis("run", "--catalog", catalog, "--output", "out", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    products = {product["sku"]: product for product in document["products"]}
    assert products["GOOD"]["status"] == "generated"
    assert products["BAD"]["failed_stage"] == "product_models"
    assert "allowed are 512, 1024, 1536" in products["BAD"]["error"]
    assert document["ignored_columns"] == ["hight_m (did you mean height_m?)"]


def test_an_option_wins_over_the_environment(tmp_path):
    catalog = write_catalog(tmp_path / "shop", [])
    elsewhere = {"TRELLIS_STORAGE__URL": f"file://{tmp_path / 'elsewhere'}"}
    done = trellis("run", "--catalog", catalog, "--output", "here", "--json", cwd=tmp_path, env=elsewhere)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "shop" / "report.html").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_only_takes_several_skus(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A", "B", "C", "D"])
    arguments = ("plan", "--catalog", catalog, "--output", "out", "--json", "--only", "A", "C", "--only", "D")
    done = trellis(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [product["sku"] for product in json.loads(done.stdout)["products"]] == ["A", "C", "D"]
