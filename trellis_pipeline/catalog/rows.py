"""Rows to products: every row of a catalog ends as exactly one product or one problem.

A catalog of a hundred thousand rows always has bad ones. They are collected with their line and their reason
and shown at once, while the good rows go on; nobody should have to fix a file one error at a time.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from trellis_pipeline.catalog import columns as col
from trellis_pipeline.catalog.product import Product, Scalar
from trellis_pipeline.catalog.sku import printable, sku_fault, twin_key

MAX_IMAGE_CHARACTERS = 8192
MAX_UNKNOWN_COLUMNS = 100

_URL_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_IMAGE_SCHEMES = frozenset(("https", "http", "s3", "file"))
_NO_SETTINGS: Mapping[str, Scalar] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that gave no product.

    row: as in `Product.row`. sku: as written, escaped where unprintable, cut to 80 characters; "" if there is
    none. reason: a sentence for the person who keeps the catalog; several faults are joined with "; ".
    """

    row: int
    sku: str
    reason: str


def row_name(row: int, sku: str) -> str:
    """How messages name a row that gave no product, `row 7 (CHAIR)`; without a number it is a file."""
    return (f"row {row}" if row else "file") + (f" ({sku})" if sku else "")


@dataclass(frozen=True, slots=True)
class UnknownColumn:
    """A column that was ignored. did_you_mean: the known column with the closest name, if one is close."""

    name: str
    did_you_mean: str | None = None


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """What `check_rows` found, products and problems each in the order of the rows."""

    products: tuple[Product, ...]
    problems: tuple[RowProblem, ...]
    unknown_columns: tuple[UnknownColumn, ...]


RawRow = tuple[int, Mapping[str, object]]
# Who has a SKU: the SKU as that row writes it, and the row number, or the image where rows have no number.
Owners = dict[str, tuple[str, int | str]]


def check_rows(
    rows: Iterable[RawRow | RowProblem],
    *,
    locate: Callable[[str], str],
    columns: Iterable[str] = (),
    counted_in: str = "line",
) -> CheckedRows:
    """Turn raw rows into products and problems. Never raises for what a row contains.

    rows: (row number, column -> cell) in catalog order, or the problem of a row that could not even be split
    into cells. Cells are text, or the values of JSON and Arrow; nested objects count as dotted columns.
    locate: makes an absolute path or URL of an image as the row gives it.
    columns: names known before the first row (a header), so that unknown ones are reported without any row.
    counted_in: what a row number counts, for messages.

    The first row with a SKU owns it, also if that row is bad otherwise: which of two rows was meant is the
    user's to say, and must not depend on which of them happens to be flawed today.
    """
    products: list[Product] = []
    problems: list[RowProblem] = []
    owners: Owners = {}
    unknown: dict[str, None] = {}
    for name in columns:
        _note_unknown(name, unknown)
    categories: dict[str, str] = {}
    for item in rows:
        if isinstance(item, RowProblem):
            problems.append(item)
            continue
        row, cells = item
        values, faults = _parse_cells(cells, unknown)
        sku, image = values.pop("sku", ""), values.pop("image", "")
        if sku:
            fault = sku_fault(sku) or _owner_fault(sku, row, image, owners, counted_in)
            if fault:
                faults["sku"] = fault
        if image:
            fault = _image_fault(image)
            if fault:
                faults["image"] = fault
        if faults:
            reasons = [f"{name} {faults[name]}" for name in sorted(faults, key=_reading_order)]
            problems.append(RowProblem(row, printable(sku), "; ".join(reasons)))
            continue
        category = values.pop("category", "")
        products.append(
            Product(
                sku=sku,
                image=locate(image),
                title=values.pop("title", ""),
                # A catalog has few categories and many rows: keep each text once.
                category=categories.setdefault(category, category),
                width_m=values.pop("width_m", None),
                height_m=values.pop("height_m", None),
                depth_m=values.pop("depth_m", None),
                # The copy is as small as it can be; `values` has grown for cells that are gone by now.
                settings=MappingProxyType(dict(values)) if values else _NO_SETTINGS,
                row=row,
            )
        )
    return CheckedRows(
        tuple(products),
        tuple(problems),
        tuple(UnknownColumn(printable(name), col.closest_column(name)) for name in unknown),
    )


def _parse_cells(
    cells: Mapping[str, object], unknown: dict[str, None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the known columns that say something, and what is wrong with the others, by column."""
    faults: dict[str, str] = {}
    values: dict[str, Any] = {}
    if dict in map(type, cells.values()):
        cells = _flatten(cells, faults)
    for column, cell in cells.items():
        if cell is None or cell == "":
            if column not in _PARSERS:
                _note_unknown(column, unknown)
            continue
        parse = _PARSERS.get(column)
        if parse is None:
            _note_unknown(column, unknown)
            continue
        try:
            value = parse(cell)
        except ValueError as error:
            # A cell of white space only says as little as an empty one; the check is here because it is rare.
            if not col.is_blank(cell):
                faults[column] = str(error)
            continue
        if value != "":
            values[column] = value
    for column in col.REQUIRED_COLUMNS:
        if column not in values and column not in faults:
            faults[column] = "is missing" + _misnamed(column, cells, unknown)
    return values, faults


def _parse_sku(cell: object) -> str:
    """The SKU as written, in NFC; its outer spaces are kept, so that `sku_fault` can name them."""
    if not isinstance(cell, str):
        return col.parse_text(cell)
    if cell.isascii():
        return "" if cell.isspace() else cell
    return "" if cell.isspace() else unicodedata.normalize("NFC", cell)


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "sku": _parse_sku,
    **dict.fromkeys(("image", *col.TEXT_COLUMNS), col.parse_text),
    **dict.fromkeys(col.LENGTH_COLUMNS, col.parse_length_m),
    **{path: partial(col.parse_setting, path) for path in col.SETTING_TYPES},
}
_COLUMN_ORDER = {column: place for place, column in enumerate(_PARSERS)}


def _reading_order(column: str) -> int:
    return _COLUMN_ORDER.get(column, len(_COLUMN_ORDER))


def _note_unknown(column: str, unknown: dict[str, None]) -> None:
    """Remember the first MAX_UNKNOWN_COLUMNS unknown names: in JSON Lines each row may bring new ones."""
    if column in _PARSERS or column in col.GROUPS or not column.strip():
        return
    if len(unknown) < MAX_UNKNOWN_COLUMNS:
        unknown[column] = None


def _owner_fault(sku: str, row: int, image: str, owners: Owners, counted_in: str) -> str | None:
    key = twin_key(sku)
    owner = owners.get(key)
    if owner is None:
        owners[key] = (sku, row or image)
        return None
    owner_sku, where = owner
    place = f"{counted_in} {where}" if isinstance(where, int) else printable(where)
    if owner_sku == sku:
        mine = "" if row else f" ({printable(image)})"  # files have no number, and share their SKU
        return f"is a duplicate: {place} has it already{mine}"
    return f"differs only by case from {owner_sku!r} ({place}), and some disks would mix them up"


def _misnamed(column: str, cells: Mapping[str, object], unknown: Mapping[str, None]) -> str:
    """A hint where another column may be meant. Only JSON Lines can lack a column in one row alone."""
    if column in cells:
        return ""
    # Only names in `unknown`, which is bounded: comparing is slow, and each row may bring new names.
    close = next((name for name in cells if name in unknown and col.closest_column(name) == column), None)
    return "" if close is None else f" (rename {printable(close, 40)!r} to {column!r} if that is what it is)"


def _image_fault(image: str) -> str | None:
    if len(image) > MAX_IMAGE_CHARACTERS:
        return f"is {len(image)} characters long, over the limit of {MAX_IMAGE_CHARACTERS}"
    if not image.isprintable() and any(unicodedata.category(c) == "Cc" for c in image):
        return "contains a line break or another control character"
    if image[:5].lower() == "data:":
        return "is a data URI, not a file, https:// or s3:// URL"
    scheme = _URL_SCHEME.match(image)
    if scheme and scheme[1].lower() not in _IMAGE_SCHEMES:
        return f"has the scheme {scheme[1]}://, which is none of file://, https:// and s3://"
    if scheme and "@" in re.split(r"[/?#]", image[scheme.end() :], maxsplit=1)[0]:
        return "has a user or a password in its URL, which are never sent; use a signed URL"
    return None


def _flatten(cells: Mapping[str, object], faults: dict[str, str]) -> dict[str, object]:
    """Nested objects as dotted columns, for the groups that columns have; other objects stay as they are."""
    flat: dict[str, object] = {}
    waiting = deque(cells.items())
    while waiting:
        column, cell = waiting.popleft()
        if column in col.GROUPS and isinstance(cell, dict):
            waiting.extend((f"{column}.{name}", inner) for name, inner in cell.items())
        elif column in flat and not col.is_blank(cell):
            faults[column] = "is given twice"
        else:
            flat[column] = cell
    return flat
