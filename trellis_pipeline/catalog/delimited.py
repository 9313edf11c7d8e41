"""CSV to raw rows, with the line numbers that an editor shows.

Hand-kept files have stray quotes. Read naively, one unclosed quote swallows the rest of the catalog into a
single cell. Here such a row is reported by itself and reading goes on at the very next line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator

from trellis_pipeline.catalog.columns import COLUMNS, repeated_columns
from trellis_pipeline.catalog.rows import RawRow, RowProblem
from trellis_pipeline.catalog.sku import printable
from trellis_pipeline.errors import CatalogError

DELIMITERS = (",", ";", "\t")
MAX_ROW_LINES = 10_000
# Where this many lines had to be read again the quotes follow no rule: from there on a row is one line.
# Without a bound, a file in which every line closes a quote and opens one takes quadratic time.
MAX_LINES_READ_AGAIN = 1_000_000

_EXCEL_HINT = re.compile(r'"?sep=[,;\t]?"?', re.IGNORECASE)  # strip() takes a tab at the end
_UNCLOSED = "unexpected end of data"  # the csv module's words for it


class _Lines:
    """Physical lines for csv.reader, which remember those of the record in work to be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 0
        self._read_again = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        limit = MAX_ROW_LINES if self._read_again < MAX_LINES_READ_AGAIN else 1
        if len(self.taken) >= limit:
            raise csv.Error(_UNCLOSED)
        line = self._again.pop() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def rewind(self, kept: int) -> None:
        """Make those of the taken lines that follow the first `kept` the next to be read."""
        count = len(self.taken) - kept
        self._again.extend(reversed(self.taken[kept:]))
        self._read_again += count
        self.number -= count
        self.taken.clear()


def open_delimited(lines: Iterable[str], name: str) -> tuple[list[str], Iterator[RawRow | RowProblem]]:
    """The column names of a CSV file and its rows, read on demand.

    lines: physical lines with their line ends (`open(..., newline="")`), without a byte order mark.
    The delimiter is the one of `,` `;` and tab by which the header names most known columns; a first line
    `sep=;`, which Excel writes and hides, is passed over.
    Rows carry the line on which they begin. Rows without any text are skipped. Missing cells at the end of a
    row count as empty; more cells than columns make a problem, because one of them has shifted the others.

    Raises CatalogError if there is no header, if it cannot be read or if it names a known column twice.
    """
    feed = _Lines(lines)
    for first in feed:
        if first.strip() and not _EXCEL_HINT.fullmatch(first.strip()):
            break
        feed.taken.clear()
    else:
        raise CatalogError(f"{name} is empty; its first line must name the columns, for example: sku,image")
    delimiter = _sniff(first)
    feed.rewind(kept=0)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise CatalogError(f"{name}: the header cannot be read ({error}); check its quotes") from error
    twice = repeated_columns(header)
    if twice:
        raise CatalogError(f"{name}: the header names {', '.join(twice)} twice; remove or rename one of them")
    return header, _rows(feed, delimiter, header)


def _rows(feed: _Lines, delimiter: str, header: list[str]) -> Iterator[RawRow | RowProblem]:
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    sku_column = header.index("sku") if "sku" in header else None
    width = len(header)
    while True:
        feed.taken.clear()
        line = feed.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            feed.rewind(kept=1)
            yield RowProblem(line, "", _syntax_fault(error))
            continue
        if len(cells) > width:
            extra = cells[width:]
            if any(cell.strip() for cell in extra):
                sku = "" if sku_column is None else printable(cells[sku_column])
                shown = "tab" if delimiter == "\t" else delimiter
                reason = f"has {len(cells)} cells for {width} columns: quote cells that contain {shown!r}"
                yield RowProblem(line, sku, reason)
                continue
            del cells[width:]
        text = "".join(cells)
        if text and not text.isspace():
            yield line, dict(zip(header, cells, strict=False))


def _syntax_fault(error: csv.Error) -> str:
    """What the csv module found, in the words of somebody who looks at the file."""
    text = str(error)
    if _UNCLOSED in text:
        return "opens a quote that is never closed: close it, or double it if it stands for inches"
    if "field limit" in text:
        return "has a cell of more than 128 KiB, or opens a quote that is not closed"
    return "has a quote in the wrong place: enclose the cell in quotes and double those inside it"


def _sniff(header_line: str) -> str:
    def known(delimiter: str) -> int:
        return len({cell.strip().strip('"') for cell in header_line.split(delimiter)} & COLUMNS)

    return max(DELIMITERS, key=lambda delimiter: (known(delimiter), header_line.count(delimiter)))
