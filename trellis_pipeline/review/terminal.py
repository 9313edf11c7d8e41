"""What a person sees in the terminal: the progress bar while products run, the table when they are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from trellis_pipeline.catalog.rows import row_name
from trellis_pipeline.costs.money import usd_text

if TYPE_CHECKING:
    from trellis_pipeline.costs.reports import CostLine
    from trellis_pipeline.costs.stage_seconds import StageTotal

_STATUS_STYLE = {"generated": "green", "cached": "cyan", "held": "yellow", "failed": "red"}
# What the table needs beside the product, in characters with the gaps, and what goes first in a narrow one.
_DECISIONS = len("  generated") + len("  verdict")
_FIGURES = {"triangles": 11, "texture": 9, "MB": 8, "seconds": 9, "cost $": 8}
_GO_FIRST = ("texture", "MB", "seconds", "triangles")
_SKU_CHARACTERS = 24
_VERDICT_STYLE = {"pass": "green", "warn": "yellow", "fail": "red"}


class Progress:
    """A progress bar on stderr. Where nobody looks (a pipe, `--json`) it draws nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self._bar = Bar(
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            BarColumn(bar_width=None, table_column=Column(ratio=2, max_width=40)),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis"),
            ),
            expand=True,
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """What is going on before the number of products is known."""
        self._task = self._bar.add_task(text, total=None)

    def start(self, products: int) -> None:
        """How many products there are to do."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("products", total=products)

    def event(self, event: Any) -> None:
        """An event of the line; a finished product moves the bar."""
        status = getattr(event, "status", None)
        if status is None or self._task is None:
            return
        self._bar.advance(self._task)
        self._bar.update(self._task, description=f"{status} {event.item.product.sku}")


def print_run(summary: Any, lineage: str) -> None:
    """The table of a run, what went wrong by name, and where everything is. lineage: how to see it."""
    console = _console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    shown, room = _shown(console.width, max((len(product.sku) for product in summary.products), default=0))
    table.add_column("product", no_wrap=True, overflow="ellipsis", max_width=room)
    table.add_column("status", no_wrap=True)
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for product in summary.products:
        figures = {
            "triangles": _count(product.triangles),
            "texture": _count(product.max_texture_px),
            "MB": "" if product.file_bytes is None else f"{product.file_bytes / 1e6:.2f}",
            "seconds": f"{product.seconds:.1f}",
            "cost $": f"{product.cost_usd:.4f}",
        }
        table.add_row(
            escape(product.sku),
            f"[{_STATUS_STYLE[product.status]}]{product.status}[/]",
            *(figures[column] for column in shown),
            f"[{_VERDICT_STYLE.get(product.verdict, 'dim')}]{product.verdict or '-'}[/]",
        )
    console.print(table)
    _print_problems(console, summary)
    totals = summary.totals
    made, found = totals["generated"], totals["cached"]
    line = f"{made} generated, {found} cached, {totals['held']} held, {totals['failed']} failed"
    if not made and found == totals["products"] and found:
        line = f"nothing to generate: all {found} products were there already"
    console.print(f"\n{line}; ${totals['cost_usd']:.4f} in {totals['seconds']:.1f} s", highlight=False)
    folder = summary.report.rsplit("/", 1)[0]
    console.print(
        escape(f"report   {summary.report}\nmodels   {folder}/products/<sku>/model.glb\nlineage  {lineage}"),
        highlight=False,
        soft_wrap=True,
    )


def _shown(width: int, longest_sku: int) -> tuple[list[str], int]:
    """The figures that the table has room for in so many characters, and the room for the product."""
    shown = list(_FIGURES)
    for first in ("", *_GO_FIRST):
        if first:
            shown.remove(first)
        room = width - _DECISIONS - sum(_FIGURES[column] for column in shown)
        if room >= min(longest_sku, _SKU_CHARACTERS):
            break
    return shown, max(room, 8)


def _console() -> Console:
    """As wide as the terminal; a file or a pipe has no width, so nothing is cut there."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _print_problems(console: Console, summary: Any) -> None:
    if summary.stopped:
        console.print(f"\n[red]stopped:[/] {escape(summary.stopped)}", highlight=False)
    if summary.ignored_columns:
        console.print(f"[yellow]ignored columns:[/] {escape('; '.join(summary.ignored_columns))}")
    for row in summary.bad_rows:
        name = escape(row_name(row.row, row.sku))
        console.print(f"[red]bad[/]  {name}: {escape(row.reason)}", highlight=False)
    for product in summary.products:
        if product.error:
            style = _STATUS_STYLE[product.status]
            stage = f" at {product.failed_stage}" if product.failed_stage else ""
            console.print(
                f"[{style}]{product.status}[/]  {escape(product.sku)}{stage}: {escape(product.error)}",
                highlight=False,
            )


def print_costs(by: str, lines: Sequence[CostLine], stages: Sequence[StageTotal] = ()) -> None:
    """A cost report as a table. stages: where the time of the user's own machine went."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(by)
    for column in ("settled USD", "reserved USD", "generations", "seconds"):
        table.add_column(column, justify="right")
    for line in lines:
        table.add_row(
            escape(line.key),
            f"{line.settled_usd:.4f}",
            f"{line.reserved_usd:.4f}",
            str(line.generations),
            f"{line.seconds:.1f}",
        )
    total = sum((line.settled_usd for line in lines), start=Decimal(0))
    console = _console()
    console.print(table)
    console.print(f"total settled: ${total:.4f}", highlight=False)
    for stage in stages:
        console.print(
            f"{escape(stage.generator)}: {escape(stage.stage)} {stage.seconds:,.1f} s "
            f"for {stage.generations:,} generations",
            highlight=False,
        )


def cost_document(by: str, lines: Sequence[CostLine], stages: Sequence[StageTotal] = ()) -> str:
    """A cost report as JSON; amounts are strings, because JSON numbers are not exact."""
    rows = [
        {
            by: line.key,
            "settled_usd": usd_text(line.settled_usd),
            "reserved_usd": usd_text(line.reserved_usd),
            "overrun_usd": usd_text(line.overrun_usd),
            "generations": line.generations,
            "seconds": line.seconds,
        }
        for line in lines
    ]
    return json.dumps({"by": by, "lines": rows, "stages": [asdict(stage) for stage in stages]}, indent=1)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
