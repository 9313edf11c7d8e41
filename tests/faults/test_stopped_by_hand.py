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

SKUS = tuple(f"CAN-{number}" for number in range(5))
COMMAND = "from trellis_pipeline.cli import main; main()"
# Python prints and drops what is raised in a finalizer, the exception of a signal's handler too.
SIGNALLED_IN_A_FINALIZER = """
import signal
from trellis_pipeline.cli import main
from trellis_pipeline.review.terminal import Progress

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def event(self, happened):
    if type(happened).__name__ == "ProductDone" and not stopped:
        stopped.append(Finalized())
        stopped[0] = None

stopped = []
Progress.event = event
main()
"""


def start(program, catalog, output):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", program),
            *("run", "--catalog", str(catalog), "--output", str(output), "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TRELLIS_RUN__WORKERS="1", TRELLIS_RUN__IN_FLIGHT="1"),
        cwd=output.parent,
        start_new_session=True,
    )


def assert_stopped(process, output):
    out, err = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == 130, err
    assert "what was finished is kept" in err
    assert "Traceback" not in err, err
    assert out == ""
    assert_nobody_stays(process.pid)
    assert_whole(output)


def finished_products(output):
    return {path.parent.name for path in output.glob("shop/products/*/product_models.json")}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_a_run_stopped_by_a_signal_keeps_what_was_finished_and_goes_on_later(tmp_path, number):
    catalog, output = write_catalog(tmp_path / "shop", SKUS), tmp_path / "out"
    process = start(COMMAND, catalog, output)
    wait_until(lambda: list(output.glob("shop/products/*/model_quality.json")), "the first product")
    os.kill(process.pid, number)
    assert_stopped(process, output)
    finished = finished_products(output)
    assert 1 <= len(finished) < len(SKUS)

    again = start(COMMAND, catalog, output)
    out, err = again.communicate(timeout=SAFETY_SECONDS)
    assert again.returncode == 0, err
    products = {p["sku"]: p["status"] for p in json.loads(out)["products"]}
    assert {sku for sku, status in products.items() if status == "cached"} >= finished
    assert set(products) == set(SKUS)
    assert_books_are_right(output)


def test_a_signal_whose_exception_python_drops_stops_the_run_all_the_same(tmp_path):
    catalog, output = write_catalog(tmp_path / "shop", SKUS), tmp_path / "out"
    assert_stopped(start(SIGNALLED_IN_A_FINALIZER, catalog, output), output)
    assert 1 <= len(finished_products(output)) < len(SKUS)
