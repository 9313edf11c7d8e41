"""Open purchases as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_open(document: Mapping[str, Any]) -> None:
    """The document of `costs open --json`, for people."""
    console = Console()
    purchases = document["purchases"]
    if not purchases:
        console.print("no purchase is open")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("begun (UTC)", "catalog", "product", "generator", "state"):
        table.add_column(column, overflow="fold")
    for one in purchases:
        state = one["end"] or ("handed in" if one["handed_in_at"] else "not handed in yet")
        words = f"{state}: {one['reason']}" if one["reason"] else state
        begun = one["begun_at"][:16].replace("T", " ")
        table.add_row(
            *(Text(str(text)) for text in (begun, one["catalog"], one["sku"], one["generator"], words))
        )
    console.print(table)
    if all(one["end"] is None for one in purchases):
        console.print("a run of these products goes on with them; --finish asks the provider about each now")
