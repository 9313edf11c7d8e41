"""A quote as a person reads it in the terminal: what would be bought, for how much, and what is in the way.

Takes the document that `plan --json` prints, so that the two never say different things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trellis_pipeline.catalog.rows import row_name
from trellis_pipeline.costs.money import format_usd

_MEANINGS = (
    ("new", "green", "to be generated"),
    ("shared", "cyan", "get the model that is generated for another of these"),
    ("cached", "cyan", "are there already"),
    ("in_flight", "cyan", "are under way, their money is set aside"),
    ("held", "yellow", "triage holds them back"),
    ("failed", "red", "cannot be ordered"),
    ("bad_rows", "red", "rows that are no product"),
)
_NAMED = 20


def print_quote(quote: Mapping[str, Any]) -> None:
    """Print the quote. quote: see docs/reference/json.md."""
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    _say(console, f"{quote['catalog']}, {quote['counts']['products']} products, {quote['generator']}\n")
    console.print(_counts(quote["counts"]))
    _print_problems(console, quote)
    _print_cost(console, quote)
    _print_budgets(console, quote)
    _print_verdict(console, quote)


def _counts(counts: Mapping[str, int]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column()
    for name, style, meaning in _MEANINGS:
        if counts[name] or name == "new":
            table.add_row(f"{counts[name]:,}", f"[{style}]{name.replace('_', ' ')}[/]", meaning)
    return table


def _print_problems(console: Console, quote: Mapping[str, Any]) -> None:
    lines = [f"bad {row_name(row['row'], row['sku'])}: {row['reason']}" for row in quote["bad_rows"]]
    lines += [
        f"{product['status']} {product['sku']}: {product['reason']}"
        for product in quote["products"]
        if product["reason"]
    ]
    if quote["ignored_columns"]:
        _say(console, f"\nignored columns: {'; '.join(quote['ignored_columns'])}", "yellow")
    elif lines:
        console.print()
    for line in lines[:_NAMED]:
        _say(console, line)
    if len(lines) > _NAMED:
        _say(console, f"and {len(lines) - _NAMED:,} more; --json lists all of them")


def _print_cost(console: Console, quote: Mapping[str, Any]) -> None:
    cost, presets, saved = quote["cost"], quote["presets"], quote["savings"]
    at_once = quote["time"]["at_once"]
    console.print()
    if not quote["paid"]:
        _say(console, f"cost     $0: {quote['generator'].partition('/')[0]} is free")
    elif cost["purchases"]:
        _say(
            console,
            f"cost     {_usd(cost['p50_usd'])} expected (P50), {_usd(cost['p95_usd'])} at most in 95 of 100 "
            f"(P95), for {cost['purchases']:,} generations",
        )
        for line in presets:
            _say(console, f"         {line['purchases']:,} x {_preset(line)}")
        _say(
            console,
            f"         {_usd(cost['reserved_at_once_usd'])} set aside with {at_once} at once; "
            f"budgets need {_usd(cost['needed_usd'])} of room",
        )
    else:
        _say(console, "cost     $0: nothing to buy")
    if Decimal(saved["cached_usd"]) or Decimal(saved["held_usd"]):
        _say(
            console,
            f"saved    {_usd(saved['cached_usd'])} on what is there or shared, "
            f"{_usd(saved['held_usd'])} on what triage holds back",
        )
    if cost["purchases"]:
        _say(console, f"time     {_time(quote['time'], presets)}")


def _preset(line: Mapping[str, Any]) -> str:
    times = f"{Decimal(line['p95_usd']) / (Decimal(line['p50_usd']) or 1):.3g}"
    settled = f"{line['samples']} settled purchases"
    source = (
        f"from {settled}"
        if line["basis"] == "history"
        else f"list price to {times} times of it; {settled} are too few to learn from"
    )
    each = f"{_usd(line['p50_usd'])} to {_usd(line['p95_usd'])}"
    return f"{line['preset']}: {each} each, {source}"


def _time(time: Mapping[str, Any], presets: Sequence[Mapping[str, Any]]) -> str:
    if time["hours"] is None:
        return "of generation is not known before the first run with this generator"
    hours, published = time["hours"], any(line["seconds_basis"] == "published" for line in presets)
    span = f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    source = "a published figure, no history yet" if published else "from the ledger's history"
    return f"{span} of generation, {time['at_once']} at once ({source})"


def _print_budgets(console: Console, quote: Mapping[str, Any]) -> None:
    if not quote["budgets"]:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("budget", "cap", "settled", "reserved", "left", "needed"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for budget in quote["budgets"]:
        amounts = [_usd(budget[f"{name}_usd"]) for name in ("cap", "settled", "reserved", "left", "needed")]
        name = budget["scope"] if budget["scope"] == "run" else f"{budget['scope']} {budget['key']}".strip()
        style = "red" if Decimal(budget["over_usd"]) else None
        table.add_row(escape(name), *amounts, style=style)
    console.print()
    console.print(table)


def _print_verdict(console: Console, quote: Mapping[str, Any]) -> None:
    console.print()
    for text in [*([quote["refusal"]] if quote["refusal"] else []), *quote["advice"]]:
        _say(console, text, "red")
    if quote["fits"] and quote["cost"]["purchases"] and quote["paid"]:
        _say(console, "fits the budgets; nothing was bought", "green")
    else:
        _say(console, "nothing was bought")


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def _usd(text: str) -> str:
    """As people write it; whole cents are enough from ten dollars on."""
    amount = Decimal(text)
    return format_usd(amount.quantize(Decimal("0.01")) if amount >= 10 else amount)
