"""The page in a real browser, from disk: pictures load, nothing is injected, keys work, 10,000 hold."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trellis_pipeline.review.records import ReportCheck, ReportProduct, RunReport, totals_of
from trellis_pipeline.review.report import write_report

pytestmark = pytest.mark.browser


def write(folder: Path, products: tuple[ReportProduct, ...], extra: str = "") -> Path:
    report = RunReport("Demo", "draft", "2026-03-01 09:30 UTC", products, totals_of(products, seconds=9.0))
    page = folder / "report.html"
    page.write_text(write_report(report).replace("</body>", f"{extra}</body>"), encoding="utf-8")
    return page


def picture(path: Path) -> str:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (180, 90, 40)).save(path)
    return path.name


def some_products(count: int) -> tuple[ReportProduct, ...]:
    verdicts = ("pass", "warn", "fail")
    return tuple(
        ReportProduct(
            sku=f"SKU-{n:05d}",
            title=f"Product number {n}",
            category=("chairs", "lamps")[n % 2],
            triangles=1000 + (n * 7919) % 90_000,
            file_bytes=10_000 * (n % 97),
            cost_usd=Decimal(n % 11) / 100,
            seconds=1.0 + n % 13,
            verdict=verdicts[n % 3],
            checks=(ReportCheck("polycount", n % 3 == 0, "error", "1", "2", "too many triangles"),),
            facts={"request key": f"{n * 2654435761 % 2**32:08x}"},
        )
        for n in range(count)
    )


@pytest.fixture
def bait() -> Iterator[tuple[str, list[str]]]:
    """A server that a page must never ask for anything: its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_beside_the_page_are_shown_when_it_is_opened_from_disk(browser: Any, tmp_path: Path) -> None:
    photo = "photos/" + picture(tmp_path / "photos" / "50% off #1?.png")
    render = "previews/" + picture(tmp_path / "previews" / "Möbel.png")
    browser.open(write(tmp_path, (ReportProduct(sku="A", photo_href=photo, preview_href=render),)))
    browser.until("[...document.images].length === 2 && [...document.images].every((i) => i.complete)")
    assert browser.run("[...document.images].map((i) => i.naturalWidth)") == [64, 64]
    assert browser.run("[...document.images].map((i) => i.alt)") == ["Photo of A", "Render of the model of A"]
    assert browser.complaints() == []


def test_a_picture_that_is_gone_says_so(browser: Any, tmp_path: Path) -> None:
    browser.open(write(tmp_path, (ReportProduct(sku="A", preview_href="gone.png"),)))
    browser.until("document.querySelector('.pictures').textContent.includes('file not found')")


ATTACKS = (
    "<script>document.documentElement.dataset.owned = 1</script>",
    "</script><script>document.documentElement.dataset.owned = 1</script>",
    "<img src=x onerror='document.documentElement.dataset.owned = 1'>",
    "<svg onload=document.documentElement.dataset.owned=1>",
    "\"><iframe srcdoc='<script>parent.document.documentElement.dataset.owned=1</script>'></iframe>",
    "<style>body{display:none}</style><base href='BAIT/'><link rel=stylesheet href='BAIT/a.css'>",
    "<img src='BAIT/beacon.png'><meta http-equiv=refresh content='0;url=BAIT/'>",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_markup_in_a_catalog_is_shown_and_never_run(
    browser: Any, tmp_path: Path, bait: tuple[str, list[str]], attack: str
) -> None:
    address, asked = bait
    text = attack.replace("BAIT", address)
    product = ReportProduct(
        sku=text, title=text, category=text, status="failed", failed_stage=text, error=text,
        photo_href=f"{address}/photo.png", preview_href="javascript:document.documentElement.dataset.owned=1",
        model_href="javascript:document.documentElement.dataset.owned=1",
        checks=(ReportCheck(text, False, "error", text, text, text),), facts={text: text},
    )  # fmt: skip
    page = write(tmp_path, (product,))
    browser.open(page)
    browser.until("document.querySelectorAll('.card').length === 1")
    browser.press("Enter")
    browser.run("document.querySelector('.enlarge').click()")
    assert browser.run("document.querySelector('.card h3').textContent") == text
    assert browser.run("document.querySelector('#large-title').textContent") == text
    assert browser.run("document.documentElement.dataset.owned ?? null") is None
    assert browser.run("document.scripts.length") == 2
    strangers = "iframe, base, link, svg, object, embed, [onerror], [onload], meta[http-equiv=refresh]"
    assert browser.run(f"document.querySelectorAll({strangers!r}).length") == 0
    assert browser.run("[...document.links].filter((a) => a.protocol !== 'file:').length") == 0
    assert asked == []
    assert {url for url in browser.requested() if not url.startswith("data:")} == {page.as_uri()}


def test_even_markup_that_got_in_could_neither_run_nor_call_home(
    browser: Any, tmp_path: Path, bait: tuple[str, list[str]]
) -> None:
    address, asked = bait
    extra = (
        "<script>document.documentElement.dataset.owned = 1</script>"
        f"<img src='{address}/a.png'><script src='{address}/b.js'></script>"
        f"<iframe src='{address}/c'></iframe><link rel=stylesheet href='{address}/d.css'>"
        f"<img src=x onerror=\"fetch('{address}/e')\">"
    )
    browser.open(write(tmp_path, (ReportProduct(sku="A"),), extra))
    browser.until("document.querySelectorAll('.card').length === 1")
    assert browser.run("document.documentElement.dataset.owned ?? null") is None
    # Asked from a script of the page's own context, a connection is refused by the policy as well.
    assert browser.run(f"fetch('{address}/f').then(() => 'open', () => 'refused')") == "refused"
    assert asked == []


def test_search_filter_and_sort_narrow_the_list(browser: Any, tmp_path: Path) -> None:
    browser.open(write(tmp_path, some_products(30)))
    browser.press("/")
    assert browser.run("document.activeElement.id") == "find"
    browser.type("product SKU-00017")
    browser.until("document.querySelectorAll('.card').length === 1")
    assert browser.run("document.querySelector('.card .sku').firstChild.textContent") == "SKU-00017"
    assert browser.run("document.querySelector('#count').textContent") == "1 of 30"
    browser.run("document.querySelector('#find').value = 'nothing like it'")
    browser.run("document.querySelector('#find').dispatchEvent(new Event('input'))")
    browser.until("!document.querySelector('#none').hidden")
    browser.run("document.querySelector('#reset').click()")
    assert browser.run("document.querySelectorAll('.card').length") == 30

    def choose(control: str, value: str) -> list[str]:
        browser.run(f"document.querySelector('#{control}').value = '{value}'")
        browser.run(f"document.querySelector('#{control}').dispatchEvent(new Event('change'))")
        return browser.run(
            "[...document.querySelectorAll('.card .sku')].map((s) => s.firstChild.textContent)"
        )

    assert choose("show", "fail") == [f"SKU-{n:05d}" for n in range(2, 30, 3)]
    assert choose("category", "lamps") == [f"SKU-{n:05d}" for n in range(2, 30, 3) if n % 2]
    assert choose("sort", "size") == [f"SKU-{n:05d}" for n in reversed(range(2, 30, 3)) if n % 2]


def test_a_reviewer_can_work_with_the_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    browser.open(write(tmp_path, some_products(60)))
    title = "document.activeElement.getAttribute('aria-label')"
    browser.press("j")
    assert browser.run(title) == "Product number 0"
    browser.press("j")
    browser.press("j")
    browser.press("k")
    assert browser.run(title) == "Product number 1"
    browser.press("Enter")
    assert browser.run("document.querySelector('#large').open") is True
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('#large-title').textContent") == "Product number 2"
    browser.press("Escape")
    browser.until("!document.querySelector('#large').open")
    for _ in range(50):
        browser.press("j")
    assert browser.run(title) == "Product number 51"


def test_enlarged_pictures_are_shown_whole(browser: Any, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "views").mkdir()
    Image.new("RGB", (400, 100), (9, 9, 9)).save(tmp_path / "views" / "a.png")
    tall = "photos/" + picture(tmp_path / "photos" / "a.png")
    product = ReportProduct(sku="A", photo_href=tall, preview_href=tall, views_href="views/a.png")
    browser.open(write(tmp_path, (product,)))
    browser.press("j")
    browser.press("Enter")
    browser.until("[...document.querySelectorAll('dialog img')].every((i) => i.complete)")
    outside = browser.run(
        """[...document.images].filter((image) => {
          const [inner, outer] = [image, image.parentElement].map((e) => e.getBoundingClientRect());
          return inner.width < 9 || inner.bottom > outer.bottom + 1 || inner.right > outer.right + 1;
        }).length"""
    )
    assert browser.run("document.querySelectorAll('dialog img').length") == 3
    assert outside == 0


def test_a_failure_at_the_top_leads_to_its_product(browser: Any, tmp_path: Path) -> None:
    failed = ReportProduct(sku='odd "sku" \\ one', status="failed", failed_stage="product_crops", error="no")
    browser.open(write(tmp_path, (*some_products(200), failed)))
    browser.run("document.querySelector('[data-show]').click()")
    assert browser.run("document.activeElement.querySelector('h3').textContent") == failed.sku


def test_ten_thousand_products_stay_usable(browser: Any, tmp_path: Path) -> None:
    browser.open(write(tmp_path, some_products(10_000)))
    assert browser.run("document.querySelector('#count').textContent") == "10,000 products"
    assert browser.run("document.querySelectorAll('.card').length") < 200
    assert browser.run("document.querySelectorAll('*').length") < 12_000
    browser.run("document.querySelector('#find').value = 'sku-09999'")
    browser.run("document.querySelector('#find').dispatchEvent(new Event('input'))")
    browser.until("document.querySelector('#count').textContent === '1 of 10,000'")
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Any, tmp_path: Path, scheme: str) -> None:
    failed = ReportProduct(sku="F", title="Lamp", status="failed", failed_stage="s", error="reason")
    held = ReportProduct(sku="H", status="held", failed_stage="s", error="reason", facts={"seed": "1"})
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(write(tmp_path, (failed, held, *some_products(3))))
    worst = browser.run(
        """(() => {
          const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          const rgb = (color) => { pixel.fillStyle = color; pixel.fillRect(0, 0, 1, 1);
            return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3); };
          const light = (color) => rgb(color).map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (element) => { for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color; } return "white"; };
          let worst = 99;
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            const element = walker.currentNode.parentElement;
            if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
            const pair = [light(getComputedStyle(element).color), light(behind(element))];
            const [a, b] = pair.sort((x, y) => y - x);
            worst = Math.min(worst, (a + 0.05) / (b + 0.05));
          }
          return worst;
        })()"""
    )
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert worst >= 4.5  # WCAG 2.2, level AA


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, tmp_path: Path, width: int) -> None:
    long = "x" * 300
    product = ReportProduct(
        sku=long, title=long, status="failed", failed_stage=long, error=long, facts={"hash": long}
    )
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.call("Emulation.setDeviceMetricsOverride", **metrics)
    browser.open(write(tmp_path, (product, *some_products(3))))
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    overflow = browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert overflow == 0


def test_every_control_has_a_name_and_headings_are_in_order(browser: Any, tmp_path: Path) -> None:
    failed = ReportProduct(sku="F", status="failed", error="reason")
    browser.open(write(tmp_path, (failed, *some_products(3))))
    unnamed = (
        "[...document.querySelectorAll('input, select, button, a')].filter((e) => e.checkVisibility() && "
    )
    unnamed += "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"
    assert browser.run(unnamed) == 0
    shown = "[...document.querySelectorAll('h1,h2,h3')].filter((h) => h.checkVisibility())"
    levels = browser.run(f"{shown}.map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
