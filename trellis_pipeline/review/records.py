"""What a report says, as plain records: whoever runs the line fills them, the page only shows them.

Nothing here is looked up or computed from files, so a report of a run from last year can be written again
from its numbers, and the page needs to know neither Dagster nor the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

Status = Literal["generated", "cached", "held", "failed"]
Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class ReportCheck:
    """One quality check. value_text, limit_text: as people read them, "" where there is none."""

    name: str
    passed: bool
    severity: Literal["error", "warning"]
    value_text: str = ""
    limit_text: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ReportProduct:
    """One product of the run.

    status: what happened to it. failed_stage, error: where and why, for `failed` and `held`.
    photo_href, crop_href, preview_href, views_href, model_href: file paths relative to the report, with
    forward slashes and not percent-encoded; None where there is no such file. views_href: one picture with
    several views side by side.
    cost_usd: exact. seconds: time spent on this product. verdict: None if its quality was not judged.
    facts: lineage to show as it is, in this order: source hash, crop, request key, seed, generator and so on.
    """

    sku: str
    title: str = ""
    category: str = ""
    status: Status = "generated"
    failed_stage: str | None = None
    error: str | None = None
    photo_href: str | None = None
    crop_href: str | None = None
    preview_href: str | None = None
    views_href: str | None = None
    model_href: str | None = None
    triangles: int | None = None
    vertices: int | None = None
    max_texture_px: int | None = None
    file_bytes: int | None = None
    cost_usd: Decimal = Decimal(0)
    seconds: float | None = None
    verdict: Verdict | None = None
    checks: tuple[ReportCheck, ...] = ()
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ReportTotals:
    """Sums over the run. seconds: wall time of the whole run, which is less than the products' sum."""

    products: int = 0
    generated: int = 0
    cached: int = 0
    held: int = 0
    failed: int = 0
    passed: int = 0
    warned: int = 0
    rejected: int = 0
    cost_usd: Decimal = Decimal(0)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run as the page shows it.

    generator: its name; the `draft` generator gets a plain-spoken label everywhere. generated_at: as it shall
    be printed, with its time zone; it is passed in, so equal input gives an equal page. notes: sentences for
    the top of the page, for example rows of the catalog that were refused.
    """

    catalog: str
    generator: str
    generated_at: str
    products: tuple[ReportProduct, ...]
    totals: ReportTotals
    notes: tuple[str, ...] = ()


def totals_of(products: Iterable[ReportProduct], *, seconds: float) -> ReportTotals:
    """Count statuses and verdicts and add up the costs. seconds: wall time of the run."""
    listed = tuple(products)
    statuses = [product.status for product in listed]
    verdicts = [product.verdict for product in listed]
    return ReportTotals(
        products=len(listed),
        generated=statuses.count("generated"),
        cached=statuses.count("cached"),
        held=statuses.count("held"),
        failed=statuses.count("failed"),
        passed=verdicts.count("pass"),
        warned=verdicts.count("warn"),
        rejected=verdicts.count("fail"),
        cost_usd=sum((product.cost_usd for product in listed), Decimal(0)),
        seconds=seconds,
    )
