"""What the doctor found, as a person reads it: one line for each check, sentences for each answer."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape

from trellis_pipeline.costs.money import format_usd

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}
_STYLES |= {"found": "green", "skipped": "yellow", "failed": "red"}


def print_checks(document: Mapping[str, Any]) -> None:
    """Print the offline checks. document: see docs/reference/json.md."""
    console = _console()
    width = max((len(check["name"]) for check in document["checks"]), default=0)
    for check in document["checks"]:
        way_out = f"\n{'':10}{'':{width}}  {check['way_out']}" if check["way_out"] else ""
        _line(console, check["status"], f"{check['name']:{width}}  {check['message']}{way_out}")
    counts = document["counts"]
    console.print(
        f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems", highlight=False
    )


def print_finding(finding: Mapping[str, Any]) -> None:
    """Print what became of one live question, as soon as it is known."""
    console = _console()
    _line(console, finding["status"], finding["step"])
    for text in finding["says"]:
        console.print(f"{'':10}{escape(text)}", highlight=False, soft_wrap=True)


def print_visit(document: Mapping[str, Any]) -> None:
    """Print the end of a live check."""
    console = _console()
    spent = format_usd(Decimal(document["spent_usd"]))
    text = f"\n{document['server']}: {spent} booked; kept at {document['saved_at']}"
    console.print(escape(text), highlight=False, soft_wrap=True)
    console.print("not asked, because one small purchase cannot tell:", highlight=False)
    for question in document["not_asked"]:
        console.print(f"  {escape(question)}", highlight=False, soft_wrap=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _line(console: Console, status: str, text: str) -> None:
    console.print(f"[{_STYLES[status]}]{status:8}[/]  {escape(text)}", highlight=False, soft_wrap=True)
