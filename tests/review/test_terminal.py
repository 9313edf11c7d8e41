"""What a person sees in the terminal, however narrow it is."""

import os
import pty
import re
import select
import subprocess
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from trellis_pipeline.review.terminal import print_run

SHOW = """
from decimal import Decimal
from types import SimpleNamespace as Plain
from trellis_pipeline.review.terminal import Progress, print_run

good = Plain(sku="A-[long]-SKU-THAT-GOES-ON-AND-ON-UNTIL-IT-HAS-SIXTY-SIX-CHARACTERS", status="generated",
    triangles=100000, max_texture_px=2048, file_bytes=5_000_000, seconds=3.2, cost_usd=Decimal("0.0256"),
    verdict="warn", error=None, failed_stage=None)
totals = {"generated": 1, "cached": 0, "held": 0, "failed": 0, "products": 1, "cost_usd": Decimal("0.0256"),
    "seconds": 3.2}
with Progress(enabled=True) as progress:
    progress.start(12)
    progress.event(Plain(status="generated", item=Plain(product=good)))
    progress._bar.refresh()
print_run(Plain(products=[good], stopped=None, ignored_columns=[], bad_rows=[], report="out/report.html",
    totals=totals), "add it under [[catalogs]]")
"""

NOTHING = dict.fromkeys(("generated", "cached", "held", "failed", "products", "seconds"), 0)


def in_a_terminal(columns: int) -> str:
    """What the program writes into a real terminal of that width, without colours."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", SHOW], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            written += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(120) == 0, written
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r", "\n")


def test_brackets_in_names_and_folders_are_shown_as_they_are(capsys):
    totals = NOTHING | {"cost_usd": Decimal(0)}
    summary = SimpleNamespace(products=[], stopped=None, ignored_columns=[], bad_rows=[], totals=totals,
        report="/data/out[final]/a[/b]/report.html")  # fmt: skip
    print_run(summary, "make ui")
    said = capsys.readouterr().out
    assert "/data/out[final]/a[/b]/report.html" in said
    assert "/data/out[final]/a[/b]/products/<sku>/model.glb" in said


@pytest.mark.parametrize("columns", [40, 80])
def test_a_long_sku_is_cut_and_what_was_decided_is_not(columns):
    lines = in_a_terminal(columns).splitlines()
    (row,) = [line for line in lines if line.startswith("A-[l") and "…" in line]
    assert all(word in row for word in ("generated", "0.0256", "warn"))
    assert ("100,000" in row) == (columns == 80)
    assert any("1/12" in line and "generated A-[" in line for line in lines)
    assert all(len(line) <= columns for line in lines)


def test_a_wide_terminal_shows_every_figure_and_the_whole_sku():
    lines = in_a_terminal(160).splitlines()
    (row,) = [line for line in lines if line.startswith("A-[long]") and "2,048" in line]
    assert "SIXTY-SIX-CHARACTERS" in row
    assert "5.00" in row
    assert any("[[catalogs]]" in line for line in lines)
