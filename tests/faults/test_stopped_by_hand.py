"""Ctrl-C and `docker stop`: the run ends at once, says that nothing is lost, and goes on when asked again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from line_process import (
    SAFETY_SECONDS,
    assert_books_are_right,
    assert_nobody_stays,
    assert_whole,
    environment,
    wait_until,
)
from small_catalogs import draw_photo, write_catalog

SKUS = tuple(f"CAN-{number}" for number in range(3))
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


class Shop:
    """A catalog whose last photo comes when it is asked for: no run is over before, on any machine."""

    def __init__(self, folder):
        self.photo_may_come = may_come = threading.Event()
        photo = draw_photo(folder / "last.png", 5).read_bytes()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                may_come.wait()
                self.send_response(200)
                self.send_header("Content-Length", str(len(photo)))
                self.end_headers()
                self.wfile.write(photo)

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                with contextlib.suppress(ConnectionError):  # the run that asked is stopped
                    super().handle_one_request()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        late = {"sku": "LATE", "image": f"http://127.0.0.1:{self.server.server_port}/last.png"}
        self.catalog = write_catalog(folder / "shop", SKUS, [late])

    def close(self):
        self.photo_may_come.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def start(program, catalog, output):
    settings = {
        "RUN__WORKERS": "1",
        "RUN__IN_FLIGHT": "1",
        "IMAGERY__ALLOW_PRIVATE_ADDRESSES": "true",
        "IMAGERY__TIMEOUT_SECONDS": str(SAFETY_SECONDS),
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-c", program),
            *("run", "--catalog", str(catalog), "--output", str(output), "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**{f"TRELLIS_{name}": value for name, value in settings.items()}),
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
def test_a_run_stopped_by_a_signal_keeps_what_was_finished_and_goes_on_later(shop, tmp_path, number):
    output = tmp_path / "out"
    process = start(COMMAND, shop.catalog, output)
    wait_until(lambda: list(output.glob("shop/products/*/model_quality.json")), "the first product")
    os.kill(process.pid, number)
    assert_stopped(process, output)
    finished = finished_products(output)
    assert finished
    assert "LATE" not in finished

    shop.photo_may_come.set()
    again = start(COMMAND, shop.catalog, output)
    out, err = again.communicate(timeout=SAFETY_SECONDS)
    assert again.returncode == 0, err
    products = {p["sku"]: p["status"] for p in json.loads(out)["products"]}
    assert {sku for sku, status in products.items() if status == "cached"} >= finished
    assert set(products) == {*SKUS, "LATE"}
    assert_books_are_right(output)


def test_a_signal_whose_exception_python_drops_stops_the_run_all_the_same(shop, tmp_path):
    output = tmp_path / "out"
    assert_stopped(start(SIGNALLED_IN_A_FINALIZER, shop.catalog, output), output)
    assert finished_products(output)
