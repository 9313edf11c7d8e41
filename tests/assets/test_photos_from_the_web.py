"""Photos on a web server: asked about in every run, sent again only when they are others."""

import asyncio
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_catalogs import draw_photo, settings_for, write_catalog

from assets import source_images
from assets.opening import LineSettings, open_tools
from assets.records import LineItem
from assets.stage import run_stage
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.definitions import build_definitions


class Shop:
    """A catalog of one photo behind a real web server, and what the server sent."""

    def __init__(self, tmp_path, etags):
        self.photo = draw_photo(tmp_path / "served.png")
        self.etags = etags
        self.sent = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = shop.photo.read_bytes()
                etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                same = shop.etags and self.headers["If-None-Match"] == etag
                shop.sent.append(304 if same else 200)
                self.send_response(shop.sent[-1])
                if shop.etags:
                    self.send_header("ETag", etag)
                self.send_header("Content-Length", "0" if same else str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if same else body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever).start()
        self.product = Product("A", f"http://127.0.0.1:{self.server.server_port}/a.png?signature=5ecret")
        self.output = tmp_path / "output"
        catalog = write_catalog(tmp_path / "shop", [])
        self.settings = settings_for(tmp_path, catalog, imagery={"allow_private_addresses": True})

    def take(self):
        """Bring the product through the stage; whether that made a new record, and the photo's hash in it."""
        resources = build_definitions(self.settings).resources
        needed = {name: resources[name] for name in ("store", "generator", "catalogs", "ledger")}
        with open_tools(LineSettings(self.settings, self.settings.catalogs[0]), "run", **needed) as tools:
            item = asyncio.run(run_stage(source_images.STAGE, LineItem(self.product), tools))
        record = item.records["source_images"]
        assert record.photo.sha256 == hashlib.sha256(self.photo.read_bytes()).hexdigest()
        return "source_images" in item.fresh

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def shop_with(tmp_path):
    shops = []

    def make(etags):
        shops.append(Shop(tmp_path, etags))
        return shops[-1]

    yield make
    for shop in shops:
        shop.close()


def test_an_unchanged_photo_is_sent_once_and_a_changed_one_again(shop_with):
    shop = shop_with(etags=True)
    assert [shop.take(), shop.take(), shop.take()] == [True, False, False]
    assert shop.sent == [200, 304, 304]
    draw_photo(shop.photo, 3)
    assert [shop.take(), shop.take()] == [True, False]
    assert shop.sent == [200, 304, 304, 200, 304]
    # No file of ours repeats the signature.
    records = list(shop.output.rglob("*.json"))
    assert records
    assert not any("5ecret" in path.read_text() for path in records)


def test_a_photo_whose_copy_is_gone_is_fetched_whole_although_its_server_knows_no_news(shop_with):
    shop = shop_with(etags=True)
    shop.take()
    digest = hashlib.sha256(shop.photo.read_bytes()).hexdigest()
    kept = [path for path in (shop.output / "blobs").rglob("*") if digest in path.name]
    assert kept
    for path in kept:
        path.unlink()
    assert shop.take()
    assert shop.sent == [200, 200]
    assert all(path.exists() for path in kept)


def test_another_limit_or_another_address_asks_for_the_photo_anew(shop_with):
    shop = shop_with(etags=True)
    shop.take()
    imagery = shop.settings.imagery.model_copy(update={"max_pixels": 1_000_000})
    shop.settings = shop.settings.model_copy(update={"imagery": imagery})
    assert shop.take()
    shop.product = Product("A", shop.product.image + "&v=2")
    assert shop.take()
    assert shop.sent == [200, 200, 200]


def test_a_proxy_in_the_environment_hears_nothing_of_the_photos_and_their_signatures(shop_with, monkeypatch):
    shop = shop_with(etags=True)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert shop.take()
    assert shop.sent == [200]


def test_a_server_without_etags_sends_it_every_time(shop_with):
    shop = shop_with(etags=False)
    assert [shop.take(), shop.take()] == [True, True]
    assert shop.sent == [200, 200]
