"""Passwords and signed URLs go in and never come out: not in events, records, models, reports or terminals.

The one place that must hold a photo's whole URL is the catalog's own snapshot: it is what the photo is
fetched by. It stands in the output as `catalog.parquet` and as a blob of the same content.
"""

import functools
import http.server
import re
import socket
import threading

import pytest
from line_process import Plan, start
from small_catalogs import draw_photo

SIGNATURE = "c0ffee5ec4e7516na7u4e"
PASSWORD = "hunter2-s3nt1nel"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_photo(folder / "A.png", 0)
    (folder / "B.png").write_bytes(b"no picture")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def places_with(secret, *folders):
    files = [(path, folder) for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path, folder in files if secret.encode() in path.read_bytes()]


def test_a_signed_photo_url_is_used_and_never_repeated(tmp_path, photos):
    query = f"?X-Amz-Expires=600&X-Amz-Signature={SIGNATURE}"
    (tmp_path / "catalog.csv").write_text(
        "sku,image\n"
        f"A,{photos}/A.png{query}\n"
        f"B,{photos}/B.png{query}\n"
        f"MISSING,{photos}/missing.png{query}\n"
        f"REFUSED,ftp://127.0.0.1/x.png{query}\n"
        f"A,{photos}/A.png{query}\n"
    )
    home = tmp_path / "home"
    plan = Plan(
        str(home),
        str(tmp_path / "catalog.csv"),
        sections={"imagery": {"allow_private_addresses": True}},
        verbose=True,
    )
    process = start(plan)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:].replace(SIGNATURE, "***")
    assert '"status":"generated"' in out
    assert "missing.png" in out
    assert SIGNATURE not in out
    assert SIGNATURE not in err
    snapshot = re.compile(r"shop/catalog\.parquet|blobs/.*\.parquet")
    told = [place for place in places_with(SIGNATURE, home / "output") if not snapshot.fullmatch(place)]
    assert told == []
    assert places_with(SIGNATURE, home / ".trellis") == []


def test_a_ledger_password_is_never_repeated(tmp_path):
    pytest.importorskip("psycopg2", reason="a Postgres ledger needs it")
    draw_photo(tmp_path / "A.png")
    (tmp_path / "catalog.csv").write_text("sku,image\nA,A.png\n")
    home = tmp_path / "home"
    # A port that was free a moment ago: nobody listens, so the ledger cannot be opened.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"postgresql://clerk:{PASSWORD}@127.0.0.1:{port}/books"
    process = start(
        Plan(str(home), str(tmp_path / "catalog.csv"), sections={"ledger": {"url": url}}, verbose=True)
    )
    out, err = process.communicate(timeout=240)
    assert PASSWORD not in out
    assert PASSWORD not in err
    assert process.returncode == 0, err[-3000:]
    assert "StorageUnavailable" in out
    assert f"127.0.0.1:{port}" in out
    assert places_with(PASSWORD, home) == []


def test_the_search_itself_finds_what_is_there(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"..." + PASSWORD.encode())
    assert places_with(PASSWORD, tmp_path) == ["a/b/c"]
