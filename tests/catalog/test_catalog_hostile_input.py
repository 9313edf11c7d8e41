"""Whatever stands in a catalog file, each row ends as one product or one problem."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trellis_pipeline.catalog.columns import COLUMNS
from trellis_pipeline.catalog.readers import CatalogLoad, load_catalog
from trellis_pipeline.catalog.sku import sku_fault, twin_key
from trellis_pipeline.catalog.snapshot import snapshot_from_parquet, snapshot_to_parquet, take_snapshot
from trellis_pipeline.errors import CatalogError

NASTY = st.sampled_from(
    [
        "", " ", "A", "a", "../../etc/passwd", "CON", "=1+1", "=cmd|' /C calc'!A0", "\0", "a\nb", "a\r\nb",
        '"', '""',
        "\u202e", "gr\u00fcn", "gru\u0308n", "1e999", "nan", "-1", "0.5", "7", "true", "x" * 200, "...",
        "🪑", "\ufeff",
        "https://x.example/a.png", "data:,", "\x85", "\u2028", ",", ";", "\t", "'", "\\",
    ]
)  # fmt: skip
CELL = NASTY | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | NASTY
    | st.text(st.characters(exclude_categories=[]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["shapeSlat", "steps", "x"]), inner)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([*sorted(COLUMNS), "settings", "settings.shapeSlat", "Seed", "", "\x1b[2J"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("catalogs")


def load(folder: Path, extension: str, data: bytes) -> CatalogLoad | None:
    """The catalog, after checking what must hold of any; None if it was refused as a whole."""
    path = folder / f"catalog{extension}"
    path.write_bytes(data)
    try:
        result = load_catalog(path)
    except CatalogError as error:
        str(error).encode()
        return None
    for product in result.products:
        assert sku_fault(product.sku) is None
        assert product.image
    assert len({twin_key(product.sku) for product in result.products}) == len(result.products)
    for problem in result.problems:
        assert problem.reason.isprintable()
        assert problem.sku.isprintable()
    for column in result.unknown_columns:
        assert column.name.isprintable()
    assert snapshot_from_parquet(snapshot_to_parquet(result.products)) == take_snapshot(result.products)
    return result


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe\xff\xfe")
def test_random_bytes_never_break_the_csv_reader(folder, data):
    load(folder, ".csv", data)
    load(folder, ".csv", b"sku,image,title\n" + data)
    load(folder, ".tsv", b"sku\timage\twidth_m\n" + data)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_break_the_json_lines_reader(folder, data):
    load(folder, ".jsonl", data)
    load(folder, ".parquet", data)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('A",;\n\r\t \\\x00ü'), max_size=120))
def test_every_line_of_a_file_full_of_stray_quotes_is_accounted_for(folder, text):
    result = load(folder, ".csv", b"sku,image\n" + text.encode())
    assert result is not None
    rows = [product.row for product in result.products] + [problem.row for problem in result.problems]
    assert len(set(rows)) == len(rows)
    assert all(2 <= row <= 2 + len(re.findall(r"\r\n|\r|\n", text)) for row in rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=8), st.sampled_from(",;\t"))
def test_every_csv_row_ends_as_one_product_or_one_problem_on_its_line(folder, rows, delimiter):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["sku", "image", "title"])
    lines = []
    for row in rows:
        line = 1 + len(re.findall(r"\r\n|\r|\n", buffer.getvalue()))
        writer.writerow(row)
        if "".join(row).strip():
            lines.append(line)
    result = load(folder, ".csv", buffer.getvalue().encode())
    assert result is not None
    found = [product.row for product in result.products] + [problem.row for problem in result.problems]
    assert sorted(found) == lines


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(NAMES, JSON_VALUE, max_size=6) | JSON_VALUE, max_size=6))
def test_every_json_line_ends_as_one_product_or_one_problem(folder, values):
    text = "\n".join(json.dumps(value) for value in values)
    result = load(folder, ".jsonl", text.encode())
    assert result is not None
    found = [product.row for product in result.products] + [problem.row for problem in result.problems]
    assert sorted(found) == list(range(1, len(values) + 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL, st.floats() | st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=6))
def test_every_parquet_row_ends_as_one_product_or_one_problem(folder, rows):
    sink = io.BytesIO()
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    types = (pa.string(), pa.string(), pa.float64(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.table(arrays, names=["sku", "image", "width_m", "seed"]), sink)
    result = load(folder, ".parquet", sink.getvalue())
    assert result is not None
    found = [product.row for product in result.products] + [problem.row for problem in result.problems]
    assert sorted(found) == list(range(1, len(rows) + 1))
