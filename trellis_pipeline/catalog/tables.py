"""JSON Lines and Parquet to raw rows: the formats whose cells have types of their own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from trellis_pipeline.catalog.columns import COLUMNS, GROUPS, repeated_columns
from trellis_pipeline.catalog.rows import RawRow, RowProblem
from trellis_pipeline.catalog.sku import printable
from trellis_pipeline.errors import CatalogError

PARQUET_BATCH_ROWS = 16_384


class _GivenTwiceError(ValueError):
    """A JSON object has one name twice; which value is meant cannot be known."""


def json_rows(lines: Iterable[str]) -> Iterator[RawRow | RowProblem]:
    """The rows of a JSON Lines file: one object a line, blank lines skipped, rows numbered by line.

    A line that is not a JSON object is the problem of that row. NaN and Infinity are no JSON, but are let
    through here, so that the cell is named that holds them.
    """
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r\n")
        if not text:
            continue
        try:
            value = decode(text)
        except json.JSONDecodeError as error:
            yield RowProblem(number, "", f"is not JSON: {error.msg} at column {error.colno}")
        except _GivenTwiceError as error:
            yield RowProblem(number, "", f"gives {str(error)!r} twice")
        except RecursionError:
            yield RowProblem(number, "", "is nested too deeply")
        except ValueError:
            # The one other refusal of the json module: Python does not read integers of over 4,300 digits.
            yield RowProblem(number, "", "holds a number that is too long")
        else:
            if isinstance(value, dict):
                yield number, value
            else:
                yield RowProblem(number, "", 'is JSON, but not an object like {"sku": …, "image": …}')


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _GivenTwiceError(printable(counts.most_common(1)[0][0]))
    return result


def open_parquet(source: Path | IO[bytes], name: str) -> tuple[list[str], Iterator[RawRow]]:
    """The column names of a Parquet file and its rows, read in batches. Rows are numbered from 1.

    Only known columns are decoded, so an unknown column with embedded images costs nothing.
    Raises CatalogError, also while rows are read, if the file is damaged or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        header = list(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CatalogError(f"{name} is not a readable Parquet file: {_first_line(error)}") from error
    twice = repeated_columns(header)
    if twice:
        raise CatalogError(f"{name} has the column {', '.join(twice)} twice; remove or rename one of them")
    return header, _parquet_rows(file, [column for column in header if column in COLUMNS | GROUPS], name)


def _parquet_rows(file: Any, wanted: list[str], name: str) -> Iterator[RawRow]:
    import pyarrow as pa

    row = 0
    try:
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=wanted):
            names = batch.schema.names
            for cells in zip(*(_cells(column) for column in batch.columns), strict=True):
                row += 1
                yield row, dict(zip(names, cells, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{name} is damaged after row {row}: {_first_line(error)}") from error


def _cells(column: Any) -> list[object]:
    """A column as Python values; text that is not UTF-8 as its bytes, other unreadable values as None."""
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_cell(scalar) for scalar in column]
    # Databases export whole numbers and lengths as decimals.
    return [_number(value) if isinstance(value, Decimal) else value for value in values]


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _cell(scalar: Any) -> object:
    try:
        value: object = scalar.as_py()
    except (ValueError, OverflowError):
        value = scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    return value


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0], 200)
