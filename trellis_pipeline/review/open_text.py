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
    questions = document["questions"]
    if not purchases and not questions:
        console.print("no purchase is open")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("begun (UTC)", "catalog", "product", "generator", "state"):
        table.add_column(column, overflow="fold")
    states = [_state_of_purchase(one) for one in purchases] + [_state_of_question(one) for one in questions]
    for one, words in zip([*purchases, *questions], states, strict=True):
        begun = one["begun_at"][:16].replace("T", " ")
        table.add_row(
            *(Text(str(text)) for text in (begun, one["catalog"], one["sku"], one["generator"], words))
        )
    console.print(table)
    if purchases and all(one["end"] is None for one in purchases):
        console.print("a run of these products goes on with them; --finish asks the provider about each now")
    if any(one["is_left"] and one["end"] is None for one in questions):
        console.print("--finish books a question that was left as bought: nobody can learn what it did cost")


def _state_of_purchase(one: Mapping[str, Any]) -> str:
    state = one["end"] or ("handed in" if one["handed_in_at"] else "not handed in yet")
    return f"{state}: {one['reason']}" if one["reason"] else state


def _state_of_question(one: Mapping[str, Any]) -> str:
    state = one["end"] or ("left by a process that is gone" if one["is_left"] else "being asked")
    return f"question of doctor --live ({one['what']}, ${one['set_aside_usd']}): {state}"
