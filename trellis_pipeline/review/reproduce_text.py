"""A reproduction as a person reads it: the estimate before, the verdict and its measures afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trellis_pipeline.costs.money import format_usd

_STYLES = {"same": "green", "equivalent": "cyan", "different": "red"}
_MEANINGS = {
    "same": "the same bytes came again",
    "equivalent": "not the same bytes, and no difference above its limit",
    "different": "something differs by more than its limit",
}


def estimate_text(said: Mapping[str, Any]) -> str:
    """What making it again will cost, said before it is bought."""
    if not said["paid"]:
        return f"{said['sku']}: made again by {said['generator']}, which is free"
    likely, reserve = (format_usd(Decimal(said[key])) for key in ("likely_usd", "reserve_usd"))
    return f"{said['sku']}: bought again from {said['generator']}, about {likely}; {reserve} is set aside"


def print_reproduction(document: Mapping[str, Any]) -> None:
    """Print the document of a reproduction; see docs/reference/json.md."""
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    verdict = document["verdict"]
    console.print(
        f"[bold]{escape(document['sku'])}[/]  [{_STYLES[verdict]}]{verdict}[/]: {_MEANINGS[verdict]}",
        highlight=False,
        soft_wrap=True,
    )
    if document["measures"]:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "first", "again", "difference", "limit"):
            table.add_column(column)
        for one in document["measures"]:
            style = None if one["within"] else "red"
            numbers = (f"{one['difference']:.4f}", f"{one['limit']:.4f}")
            table.add_row(one["name"], escape(one["first"]), escape(one["second"]), *numbers, style=style)
        console.print(table)
    went_on = ", bought by an earlier call that was interrupted" if document["went_on"] else ""
    cost = format_usd(Decimal(document["cost_usd"]))
    console.print(
        escape(f"seed {document['seed']}, {cost}{went_on}, sha256 {document['second_sha256']}"),
        highlight=False,
        soft_wrap=True,
    )
