"""A quote as the JSON document that `plan --json` prints; the terminal's text is made of the same."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any

from trellis_pipeline.automation.plan import CatalogPlan
from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.purchasing.quote import Terms, advice


def plan_document(plan: CatalogPlan) -> dict[str, Any]:
    """The plan as plain JSON-able data: what `plan --json` prints. Amounts are exact text."""
    quote = plan.quote
    return {
        "catalog": plan.catalog,
        "generator": plan.generator,
        "paid": plan.paid,
        "fits": quote.fits,
        "refusal": quote.refusal,
        "advice": [advice(scope) for scope in quote.scopes if scope.over],
        "counts": {
            "products": len(quote.products),
            **quote.counts,
            "bad_rows": len(plan.bad_rows),
        },
        "cost": {
            "purchases": quote.purchases,
            "p50_usd": usd(quote.cost.expected),
            "p95_usd": usd(quote.cost.high),
            "reserved_at_once_usd": usd(quote.reserved_at_once),
            "needed_usd": usd(quote.needed),
        },
        "time": {"hours": quote.hours, "at_once": quote.at_once},
        "savings": {"cached_usd": usd(quote.savings.cached), "held_usd": usd(quote.savings.held)},
        "budgets": [
            {
                "scope": scope.state.scope,
                "key": scope.state.key,
                "cap_usd": usd(scope.state.cap),
                "settled_usd": usd(scope.state.settled),
                "reserved_usd": usd(scope.state.reserved),
                "left_usd": usd(scope.state.left),
                "needed_usd": usd(scope.needed),
                "over_usd": usd(scope.over),
                "products_over": scope.products,
            }
            for scope in quote.scopes
            if scope.state.cap is not None
        ],
        "presets": [
            {"preset": line.preset, "purchases": line.purchases, **_terms_data(line.terms)}
            for line in quote.presets
        ],
        "products": [
            {
                "sku": product.sku,
                "status": product.standing,
                "preset": product.preset,
                "reason": product.reason,
                "flags": list(product.flags),
                "request_key": product.request_key,
            }
            for product in sorted(quote.products, key=lambda product: product.sku)
        ],
        "bad_rows": [asdict(row) for row in plan.bad_rows],
        "ignored_columns": list(plan.ignored_columns),
        "seconds": round(plan.seconds, 3),
    }


def usd(amount: Decimal | None) -> str | None:
    """An exact amount as text, never in scientific notation; None stays None."""
    return None if amount is None else usd_text(amount)


def _terms_data(terms: Terms) -> dict[str, Any]:
    estimate = terms.estimate
    return {
        "p50_usd": usd(estimate.likely),
        "p95_usd": usd(estimate.high),
        "reserve_usd": usd(estimate.reserve),
        "basis": estimate.basis,
        "samples": estimate.samples,
        "price_book": estimate.price_book_version,
        "seconds": terms.seconds,
        "seconds_basis": terms.seconds_basis,
    }
