"""Photos in other people's buckets: one that cannot be read fails by name, and stops nobody."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_catalogs import draw_photo, settings_for, write_catalog

from assets import source_images
from assets.catalog_snapshot import load_products
from assets.opening import LineSettings, open_tools
from assets.product_catalog import refresh_snapshot
from assets.records import LineItem
from assets.stream import ProductDone, RunStopped, stream
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import CatalogError

ANSWERS = {"typo": (404, "NoSuchBucket"), "private": (403, "AccessDenied")}


class S3(BaseHTTPRequestHandler):
    """Speaks as much S3 as it takes to refuse, with the codes that S3 has for it, or to send too much."""

    def do_GET(self):
        if self.path.startswith("/huge/"):
            self.send_response(200)
            self.send_header("ETag", '"huge"')
            self.send_header("Content-Length", str(10**12))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(bytes(30_000))
            return
        status, code = ANSWERS[self.path.partition("?")[0].split("/")[1]]
        body = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with ThreadingHTTPServer(("127.0.0.1", 0), S3) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def credentials(monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-0123")


@contextmanager
def opened(tmp_path, endpoint, photos, **sections):
    """The tools of a line over these photos and one good one, after its catalog was read."""
    rows = [{"sku": sku, "image": image} for sku, image in photos.items()]
    settings = settings_for(
        tmp_path, write_catalog(tmp_path / "shop", [], rows), storage={"s3_endpoint": endpoint}, **sections
    )
    resources = build_definitions(settings).resources
    line = LineSettings(settings, settings.catalogs[0])
    names = ("store", "generator", "catalogs", "ledger")
    with open_tools(line, "run-1", *(resources[name] for name in names)) as tools:
        loaded = resources["catalogs"].load(line.source)
        refresh_snapshot("shop", loaded, resources["store"], resources["catalogs"])
        yield tools


def outcomes(tools, skus):
    products = load_products(tools.store, "shop", set(skus))
    items = [LineItem(products[sku]) for sku in skus]
    events = list(stream(items, [source_images.STAGE], [], tools, in_flight=1))
    assert not [event for event in events if isinstance(event, RunStopped)]
    return {event.item.product.sku: event.error for event in events if isinstance(event, ProductDone)}


def test_a_row_with_a_wrong_or_private_bucket_fails_by_name_and_the_others_go_on(
    tmp_path, endpoint, credentials
):
    photos = {
        "TYPO": "s3://typo/a.png",
        "PRIVATE": "s3://private/b.png",
        "ILL": "s3://No Bucket/c.png",
        "GOOD": str(draw_photo(tmp_path / "good.png")),
    }
    with opened(tmp_path, endpoint, photos) as tools:
        errors = outcomes(tools, list(photos))
    assert errors["GOOD"] is None
    assert "s3://typo/a.png: S3 answered NoSuchBucket" in errors["TYPO"]
    assert errors["TYPO"].endswith("(catalog row 2)")
    assert "s3://private/b.png: S3 answered AccessDenied" in errors["PRIVATE"]
    assert "correct the URL" in errors["ILL"]


def test_without_credentials_the_photos_in_buckets_fail_by_name_and_the_others_go_on(tmp_path, endpoint):
    photos = {
        "S3": "s3://private/b.png",
        "NEVER": "nothere.png",
        "GOOD": str(draw_photo(tmp_path / "good.png")),
    }
    with opened(tmp_path, endpoint, photos) as tools:
        errors = outcomes(tools, list(photos))
    assert errors["GOOD"] is None
    assert "s3://private/b.png: NoCredentialsError; check endpoint and credentials" in errors["S3"]
    missing = tmp_path / "shop" / "nothere.png"
    assert errors["NEVER"] == f"{missing} does not exist; put it there or correct the catalog (catalog row 3)"


def test_a_terabyte_in_a_bucket_is_refused_after_as_much_of_it_as_a_photo_may_have(
    tmp_path, endpoint, credentials
):
    limits = {"max_bytes": 20_000, "timeout_seconds": 240}
    with opened(tmp_path, endpoint, {"HUGE": "s3://huge/a.png"}, imagery=limits) as tools:
        errors = outcomes(tools, ["HUGE"])
    assert "s3://huge/a.png is too large; the limit is 0.02 MB (imagery.max_bytes)" in errors["HUGE"]


@pytest.mark.parametrize("source", ["s3://typo/catalog.csv", "s3://private/photos/"])
def test_a_catalog_in_a_bucket_that_cannot_be_read_is_refused_as_a_catalog(
    tmp_path, endpoint, credentials, source
):
    settings = settings_for(tmp_path, storage={"s3_endpoint": endpoint})
    with pytest.raises(CatalogError, match="S3 answered"):
        build_definitions(settings).resources["catalogs"].load(source)
