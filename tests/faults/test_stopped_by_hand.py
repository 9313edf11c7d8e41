"""Ctrl-C and `docker stop`: the run ends at once, says that nothing is lost, and goes on when asked again."""

import json
import os
import signal
import subprocess
import sys

import pytest
from line_process import (
    SAFETY_SECONDS,
    assert_books_are_right,
    assert_nobody_stays,
    assert_whole,
    environment,
    wait_until,
)
from small_catalogs import write_catalog

SKUS = tuple(f"CAN-{number}" for number in range(8))


def command(catalog, output):
    return [
        *(sys.executable, "-c", "from trellis_pipeline.cli import main; main()"),
        *("run", "--catalog", str(catalog), "--output", str(output), "--json"),
    ]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_a_run_stopped_by_a_signal_keeps_what_was_finished_and_goes_on_later(tmp_path, number):
    catalog, output = write_catalog(tmp_path / "shop", SKUS), tmp_path / "out"
    env = environment(TRELLIS_RUN__WORKERS="1", TRELLIS_RUN__IN_FLIGHT="1")
    process = subprocess.Popen(
        command(catalog, output),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
    )
    wait_until(lambda: list(output.glob("shop/products/*/model_quality.json")), "the first product")
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == 130, err
    assert "what was finished is kept" in err
    assert "Traceback" not in err, err
    assert out == ""
    assert_nobody_stays(process.pid)
    assert_whole(output)
    finished = {path.parent.name for path in output.glob("shop/products/*/product_models.json")}
    assert 1 <= len(finished) < len(SKUS)

    again = subprocess.run(
        command(catalog, output), capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert again.returncode == 0, again.stderr
    products = {p["sku"]: p["status"] for p in json.loads(again.stdout)["products"]}
    assert {sku for sku, status in products.items() if status == "cached"} >= finished
    assert set(products) == set(SKUS)
    assert_books_are_right(output)
