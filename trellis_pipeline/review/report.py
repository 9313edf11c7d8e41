"""The report page of a run: photo beside render, verdict, numbers, cost and lineage of every product.

It is one static file that opens from disk: people mail it, put it on a share, keep it for years. So it loads
nothing from a network, and its own policy forbids it to; pictures stay files beside it, or 10,000 products
would not fit into a browser. Titles, SKUs and errors come from catalogs and providers: they reach the page
only through Jinja's escaping or as JSON that the script shows as text, never as markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from importlib import resources
from urllib.parse import quote

from trellis_pipeline.review.records import ReportProduct, RunReport

FAILURES_LISTED = 200
"""Failures named at the top of the page; the rest is reached through its filter."""

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_report(report: RunReport) -> str:
    """The page as HTML. Equal reports give equal text.

    Links that are not paths relative to the page (with a scheme, absolute, with backslashes or control
    characters) are left out: a catalog must not be able to point a reviewer's browser anywhere.
    """
    import jinja2

    style, script = _packaged("report.css"), _packaged("report.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["money"] = money
    environment.filters["duration"] = duration
    environment.filters["safe_href"] = safe_href
    failures = [product for product in report.products if product.status == "failed"]
    page = environment.from_string(_packaged("report.html.j2")).render(
        report=report,
        totals=report.totals,
        is_draft=report.generator == "draft",
        failures=failures[:FAILURES_LISTED],
        more_failures=max(len(failures) - FAILURES_LISTED, 0),
        categories=sorted({product.category for product in report.products if product.category}),
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        data=_embedded(report.products),
    )
    # A lone surrogate in a title would make the page impossible to write as UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


def safe_href(path: str | None) -> str:
    """A relative file path as a URL reference, percent-encoded; "" if it is None or leads elsewhere."""
    if not path or path.startswith("/") or "\\" in path or _SCHEME.match(path) or not path.isprintable():
        return ""
    return quote(path, safe="/-_.~!$'()*+,;=@", errors="replace")


def money(amount: Decimal) -> str:
    """US dollars with every digit that counts and at least two decimals: "$0.00", "$1,204.0375"."""
    if not amount.is_finite():
        return "unknown"
    whole, _, cents = f"{abs(amount):,f}".partition(".")
    return f"{'-' if amount < 0 else ''}${whole}.{cents.rstrip('0').ljust(2, '0')}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "0.8 s", "42 s", "3 min 20 s", "2 h 05 min"; "" for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def megabytes(count: int | None) -> str:
    """Bytes as megabytes of 10^6 bytes: "3.42 MB"; "" for None."""
    return "" if count is None else f"{count / 1e6:.2f} MB"


def _embedded(products: Iterable[ReportProduct]) -> str:
    """The products as JSON that cannot end the script element it stands in."""
    rows = [_row(product) for product in products]
    text = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def _row(product: ReportProduct) -> dict[str, object]:
    return {
        "sku": product.sku,
        "title": product.title,
        "category": product.category,
        "status": product.status,
        "stage": product.failed_stage or "",
        "error": product.error or "",
        "verdict": product.verdict or "",
        "photo": safe_href(product.photo_href),
        "crop": safe_href(product.crop_href),
        "preview": safe_href(product.preview_href),
        "views": safe_href(product.views_href),
        "model": safe_href(product.model_href),
        "numbers": [
            ["Triangles", "" if product.triangles is None else f"{product.triangles:,}"],
            ["Vertices", "" if product.vertices is None else f"{product.vertices:,}"],
            ["Texture", "" if not product.max_texture_px else f"{product.max_texture_px:,} px"],
            ["File", megabytes(product.file_bytes)],
            ["Cost", money(product.cost_usd)],
            ["Time", duration(product.seconds)],
        ],
        "sort": {
            "triangles": product.triangles or 0,
            "size": product.file_bytes or 0,
            "cost": float(product.cost_usd) if product.cost_usd.is_finite() else 0.0,
            "seconds": round(product.seconds or 0.0, 3),
        },
        "checks": [
            [check.name, check.passed, check.severity, check.value_text, check.limit_text, check.message]
            for check in product.checks
        ],
        "facts": [[name, value] for name, value in product.facts.items()],
    }


@functools.cache
def _packaged(name: str) -> str:
    return resources.files("trellis_pipeline.review").joinpath("templates", name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    """The source expression by which a Content-Security-Policy admits exactly this inline text."""
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
