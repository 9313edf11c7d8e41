"""What became of the money, for a person in the terminal and for a program as JSON.

Amounts in JSON are strings, because JSON numbers are not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trellis_pipeline.costs.money import NANO, format_usd

if TYPE_CHECKING:
    from trellis_pipeline.costs.accepted import SpendByFate
    from trellis_pipeline.costs.reconcile import Reconciliation


def waste_document(catalogs: Mapping[str, SpendByFate]) -> dict[str, Any]:
    """Dollars per accepted model, and all dollars by what became of them, for each catalog."""
    return {
        "catalogs": [
            {
                "catalog": name,
                "settled_usd": _exact(spent.settled),
                "accepted_models": spent.accepted,
                "usd_per_accepted_model": None if spent.per_accepted is None else _exact(spent.per_accepted),
                "wasted_usd": _exact(spent.wasted),
                "outcome_unknown_usd": _exact(spent.outcome_unknown),
                "usd_by_fate": {fate: _exact(usd) for fate, usd in spent.usd.items()},
            }
            for name, spent in catalogs.items()
        ]
    }


def print_waste(catalogs: Mapping[str, SpendByFate]) -> None:
    """The same as tables: one line for each catalog, then where the money went."""
    console = Console()
    for name, spent in catalogs.items():
        price = "-" if spent.per_accepted is None else format_usd(spent.per_accepted)
        console.print(
            f"[bold]{escape(name)}[/]  {format_usd(spent.settled)} settled, "
            f"{spent.accepted} accepted models, {price} for each",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column("fate")
        table.add_column("usd", justify="right")
        table.add_column("share", justify="right")
        for fate, usd in spent.usd.items():
            if usd:
                share = f"{usd * 100 / spent.settled:.1f} %" if spent.settled > 0 else ""
                table.add_row(f"  {fate}", format_usd(usd), share)
        if spent.outcome_unknown:
            table.add_row("  reserved, outcome not known yet", format_usd(spent.outcome_unknown), "")
        console.print(table)
    if not catalogs:
        console.print("nothing was spent yet")


def reconciliation_document(found: Reconciliation) -> dict[str, Any]:
    """A comparison with the account."""
    before = found.before
    return {
        "generator": found.generator,
        "verdict": found.verdict,
        "since": None if before is None else before.at.isoformat(),
        "until": found.now.at.isoformat(),
        "balance_before_usd": None if before is None else _exact(before.amount),
        "balance_now_usd": _exact(found.now.amount),
        "topped_up_usd": _exact(found.topped_up),
        "left_account_usd": _exact(found.left_account),
        "settled_usd": _exact(found.settled),
        "unexplained_usd": _exact(found.unexplained),
        "open_reservations_may_explain_usd": _exact(found.may_be_open),
        "unexplained_percent": str(found.percent),
        "balance_rose": found.rose,
    }


def _exact(usd: Decimal) -> str:
    return f"{usd.quantize(NANO).normalize():f}"
