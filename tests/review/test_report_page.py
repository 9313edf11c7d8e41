"""The page as text: what stands on it, that it is repeatable, and that nothing escapes its quotes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis_pipeline.review.records import ReportCheck, ReportProduct, RunReport, totals_of
from trellis_pipeline.review.report import duration, money, safe_href, write_report


class Page(HTMLParser):
    """Elements, attributes and text, as an HTML parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.inside.append(tag)
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text.append(data)
        elif self.inside[-1] == "script":
            self.scripts[-1] += data
        else:
            self.styles[-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def products(self) -> list[dict[str, object]]:
        return json.loads(self.scripts[0])


def report(*products: ReportProduct, generator: str = "runware", notes: tuple[str, ...] = ()) -> RunReport:
    return RunReport(
        catalog="Chairs & tables",
        generator=generator,
        generated_at="2026-03-01 09:30 UTC",
        products=products,
        totals=totals_of(products, seconds=75.0),
        notes=notes,
    )


CHAIR = ReportProduct(
    sku="CHAIR-7",
    title="Oak chair",
    category="seating",
    photo_href="photos/CHAIR-7.jpg",
    preview_href="previews/CHAIR-7.png",
    model_href="models/CHAIR-7.glb",
    triangles=18_432,
    vertices=10_001,
    max_texture_px=2048,
    file_bytes=2_310_000,
    cost_usd=Decimal("0.0375"),
    seconds=2.44,
    verdict="warn",
    checks=(
        ReportCheck("polycount", True, "error", "18,432", "150,000", "within the limit"),
        ReportCheck("watertight", False, "warning", "no", "", "36 boundary edges"),
    ),
    facts={"source sha256": "9f86d0", "seed": "42", "generator": "runware 1"},
)
LAMP = ReportProduct(sku="LAMP-1", status="failed", failed_stage="product_models", error="provider said no")


def test_a_reviewer_finds_every_number_of_a_product() -> None:
    (row,) = Page(write_report(report(CHAIR))).products
    assert row["numbers"] == [
        ["Triangles", "18,432"],
        ["Vertices", "10,001"],
        ["Texture", "2,048 px"],
        ["File", "2.31 MB"],
        ["Cost", "$0.0375"],
        ["Time", "2.4 s"],
    ]
    assert row["checks"][1] == ["watertight", False, "warning", "no", "", "36 boundary edges"]
    assert row["facts"] == [["source sha256", "9f86d0"], ["seed", "42"], ["generator", "runware 1"]]
    assert (row["photo"], row["preview"]) == ("photos/CHAIR-7.jpg", "previews/CHAIR-7.png")


def test_failed_products_are_named_at_the_top_with_stage_and_reason() -> None:
    words = Page(write_report(report(CHAIR, LAMP))).words
    top = words[: words.index("Search")]
    assert "1 product failed" in top
    assert "LAMP-1 product_models provider said no" in top
    assert "CHAIR-7" not in top


def test_thousands_of_failures_do_not_bury_the_page() -> None:
    failed = [ReportProduct(sku=f"S{n}", status="failed", error="no") for n in range(450)]
    words = Page(write_report(report(*failed))).words
    assert "450 products failed" in words
    assert "and 250 more" in words


def test_a_run_without_failures_shows_no_failures() -> None:
    page = Page(write_report(report(CHAIR)))
    assert not any("failures" in (attrs.get("class") or "") for _, attrs in page.tags)


def test_the_draft_generator_is_called_a_draft() -> None:
    assert "These are drafts." in Page(write_report(report(CHAIR, generator="draft"))).words
    assert "These are drafts." not in Page(write_report(report(CHAIR, generator="runware"))).words


def test_totals_count_each_product_once_and_add_exact_money() -> None:
    held = ReportProduct(sku="A", status="held", cost_usd=Decimal("0.1"))
    cached = ReportProduct(sku="B", status="cached", verdict="pass", cost_usd=Decimal("0.2"))
    totals = totals_of((CHAIR, LAMP, held, cached), seconds=3.0)
    assert (totals.products, totals.generated, totals.cached, totals.held, totals.failed) == (4, 1, 1, 1, 1)
    assert (totals.passed, totals.warned, totals.rejected) == (1, 1, 0)
    assert totals.cost_usd == Decimal("0.3375")


def test_the_same_report_is_the_same_page() -> None:
    assert write_report(report(CHAIR, LAMP)) == write_report(report(CHAIR, LAMP))


def test_the_policy_admits_the_pages_own_style_and_script_and_nothing_else() -> None:
    page = Page(write_report(report(CHAIR)))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    for text in (page.styles[0], page.scripts[1]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_page_names_no_address_outside_of_itself() -> None:
    html = write_report(report(CHAIR, LAMP, generator="draft", notes=("a note",)))
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "<img src=x onerror=alert(1)>",
            "\"' onmouseover=alert(1) x='",
            "{{ 7 * 7 }}{% raw %}",
            "&lt;b&gt;",
            "\u2028\u2029]]>",
            "\ud800 lone surrogate",
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_whatever_a_catalog_says_stays_text(sku: str, title: str, error: str) -> None:
    product = ReportProduct(
        sku=sku, title=title, category=title, status="failed", failed_stage=error, error=error,
        checks=(ReportCheck(title, False, "error", error, sku, error),), facts={title: error},
    )  # fmt: skip
    html = write_report(report(product, notes=(error,)))
    page, plain = Page(html), Page(write_report(report(LAMP, notes=("n",))))
    html.encode("utf-8")
    # The same elements with the same attribute names as a harmless page; one category may be added.
    shape = [(tag, sorted(attrs)) for tag, attrs in page.tags]
    harmless = [(tag, sorted(attrs)) for tag, attrs in plain.tags]
    optional = [("label", []), ("span", ["class"]), ("select", ["id"]), ("option", ["value"]), ("option", [])]
    assert [s for s in shape if s not in optional] == [
        s for s in harmless + ([("span", ["class"])] if title else []) if s not in optional
    ]
    row = page.products[0]
    assert row["title"] == title.encode("utf-8", "replace").decode()
    assert row["error"] == error.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    "path",
    ["https://evil.example/x.png", "javascript:alert(1)", "//evil.example/x", "/etc/passwd",
     "data:text/html,x", "JaVaScRiPt:alert(1)", "file:///etc/passwd", "a\\b.png", "java\nscript:x", "", None],
)  # fmt: skip
def test_links_that_lead_elsewhere_are_left_out(path: str | None) -> None:
    assert safe_href(path) == ""
    product = ReportProduct(sku="A", photo_href=path, model_href=path)
    (row,) = Page(write_report(report(product))).products
    assert (row["photo"], row["model"]) == ("", "")


def test_file_names_with_odd_characters_are_encoded_not_reinterpreted() -> None:
    assert safe_href("previews/50% off #1?.png") == "previews/50%25%20off%20%231%3F.png"
    assert safe_href("../blobs/Möbel.png") == "../blobs/M%C3%B6bel.png"


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("0.0375", "$0.0375"), ("1204.5", "$1,204.50"), ("-0.1", "-$0.10"), ("NaN", "unknown"),
     ("1E+3", "$1,000.00"), ("0.000000001", "$0.000000001")],
)  # fmt: skip
def test_money_keeps_every_digit_that_was_billed(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"),
     (7500, "2 h 05 min")],
)  # fmt: skip
def test_durations_read_like_speech(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
