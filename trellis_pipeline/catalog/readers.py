"""One way in for every kind of catalog.

Where a catalog lies and how it is written is settled here; what its rows mean is settled in `rows`. A
catalog is refused as a whole only if nothing in it can be trusted: no such file, not the format it claims,
no SKU or image column. Everything smaller is the problem of a row.
"""

from __future__ import annotations

import difflib
import io
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from trellis_pipeline.catalog.columns import REQUIRED_COLUMNS, closest_column
from trellis_pipeline.catalog.delimited import open_delimited
from trellis_pipeline.catalog.listing import bucket_rows, check_bucket_url, folder_rows
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.catalog.rows import CheckedRows, RowProblem, UnknownColumn, check_rows
from trellis_pipeline.catalog.sku import printable
from trellis_pipeline.catalog.tables import json_rows, open_parquet
from trellis_pipeline.errors import CatalogError

DELIMITED = frozenset((".csv", ".tsv"))
PARQUET = frozenset((".parquet", ".pq"))
JSON_LINES = frozenset((".jsonl", ".ndjson"))
FORMATS = "CSV (.csv, .tsv), Parquet (.parquet), JSON Lines (.jsonl, .ndjson) or a folder of images"

_PLAIN_PATH = re.compile(r"[\w\-][\w\- .]*(?:/[\w\-][\w\- .]*)*")


@dataclass(frozen=True, slots=True)
class CatalogLoad:
    """A catalog as read. source: the absolute path or the URL it was read from.

    Each row is in `products` or in `problems`, exactly once, both in catalog order.
    """

    products: tuple[Product, ...]
    problems: tuple[RowProblem, ...]
    unknown_columns: tuple[UnknownColumn, ...]
    source: str


def load_catalog(
    source: str | Path,
    *,
    list_bucket: Callable[[str], Iterable[str]] | None = None,
    read_bytes: Callable[[str], bytes] | None = None,
) -> CatalogLoad:
    """Read a catalog: a CSV, Parquet or JSON Lines file, a folder of images, or either in a bucket.

    source: a path, a `file://` URL, or `s3://bucket/key`; the latter is a file if it ends like one, else a
    prefix of images. Relative image paths are resolved against the folder (or prefix) of the catalog file.
    list_bucket: object URLs below an `s3://` prefix. read_bytes: the content of an `s3://` object. Both are
    needed for `s3://` only; what they raise passes through.

    Raises CatalogError, with the way out, if the catalog cannot be read as a whole. An empty folder, or a
    file with a header only, is a catalog without products.
    """
    text = str(source)
    if text.startswith("s3://"):
        return _load_from_bucket(text, list_bucket, read_bytes)
    if text.startswith("file://"):
        text = unquote(text[len("file://") :])
    elif isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", text):
        raise CatalogError(
            f"catalog {printable(text)}: only s3:// and file:// URLs are read; download it first"
        )
    try:
        path = Path(text).expanduser().absolute()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise CatalogError(f"catalog {printable(text)} is not a usable path: {error}") from error
    if is_folder:
        return _result(check_rows(folder_rows(path), locate=str), str(path))
    if not is_file:
        raise CatalogError(f"catalog {printable(text, 300)} does not exist{_similar_file(path)}")
    try:
        with path.open("rb") as stream:
            rows = _read_file(
                stream, path.suffix.lower(), printable(path.name), _locate_in_folder(path.parent)
            )
    except OSError as error:
        raise CatalogError(f"catalog {path} cannot be read: {error.strerror or error}") from error
    return _result(rows, str(path))


def _load_from_bucket(
    url: str,
    list_bucket: Callable[[str], Iterable[str]] | None,
    read_bytes: Callable[[str], bytes] | None,
) -> CatalogLoad:
    check_bucket_url(url)
    extension = posixpath.splitext(url)[1].lower()
    if extension in DELIMITED | PARQUET | JSON_LINES:
        if read_bytes is None:
            raise CatalogError(f"catalog {url} is in a bucket, and no way to read buckets is configured")
        stream = io.BytesIO(read_bytes(url))
        return _result(_read_file(stream, extension, url, _locate_in_bucket(url)), url)
    if list_bucket is None:
        raise CatalogError(f"catalog {url} is in a bucket, and no way to list buckets is configured")
    return _result(check_rows(bucket_rows(url, list_bucket), locate=str), url)


def _result(rows: CheckedRows, source: str) -> CatalogLoad:
    return CatalogLoad(rows.products, rows.problems, rows.unknown_columns, source)


def _read_file(stream: IO[bytes], extension: str, name: str, locate: Callable[[str], str]) -> CheckedRows:
    """Rows of an open catalog file, checked while they are read, so that raw rows are never all in memory."""
    if extension in PARQUET:
        header, parquet_rows = open_parquet(stream, name)
        _require_columns(header, name)
        return check_rows(parquet_rows, locate=locate, columns=header, counted_in="row")
    if extension not in DELIMITED | JSON_LINES:
        hint = "save it as CSV UTF-8" if extension in (".xlsx", ".xls", ".ods") else f"use {FORMATS}"
        raise CatalogError(f"catalog {name} is of an unknown kind ({extension or 'no extension'}); {hint}")
    encoding = _encoding(stream)
    # newline="" for CSV keeps line ends inside quoted cells; JSON Lines are divided by \n alone.
    lines = io.TextIOWrapper(stream, encoding=encoding, newline="" if extension in DELIMITED else "\n")
    try:
        if extension in JSON_LINES:
            return check_rows(json_rows(lines), locate=locate)
        header, rows = open_delimited(lines, name)
        _require_columns(header, name)
        return check_rows(rows, locate=locate, columns=header)
    except UnicodeError as error:
        raise CatalogError(_encoding_message(stream, name, encoding)) from error
    finally:
        lines.detach()  # or it would close the stream, which is the caller's


def _encoding(stream: IO[bytes]) -> str:
    """UTF-8, or UTF-16 where a byte order mark says so (Excel's "Unicode Text")."""
    start = stream.read(2)
    stream.seek(0)
    return "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _encoding_message(stream: IO[bytes], name: str, encoding: str) -> str:
    if encoding == "utf-16":
        return f"catalog {name} begins like UTF-16 text, but is not; save it as CSV UTF-8"
    stream.seek(0)
    for number, line in enumerate(stream, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return (
                f"catalog {name} is not UTF-8 text (byte 0x{byte:02X} on line {number}); save it as CSV UTF-8"
            )
    return f"catalog {name} is not UTF-8 text; save it as CSV UTF-8"


def _require_columns(header: Sequence[str], name: str) -> None:
    for column in REQUIRED_COLUMNS:
        if column in header:
            continue
        close = next((other for other in header if other and closest_column(other) == column), None)
        shown = ", ".join(printable(other, 40) for other in header[:20])
        hint = f"rename {printable(close, 40)!r} to {column!r}" if close else f"it has {shown}"
        raise CatalogError(f"catalog {name} has no column {column!r}; {hint}")


def _similar_file(path: Path) -> str:
    try:
        names = [entry.name for _, entry in zip(range(2000), path.parent.iterdir(), strict=False)]
    except OSError:
        return ""
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {printable(matches[0])}?" if matches else ""


def _locate_in_folder(folder: Path) -> Callable[[str], str]:
    prefix = str(folder).rstrip("/") + "/"

    def locate(image: str) -> str:
        if _PLAIN_PATH.fullmatch(image):
            return prefix + image
        if "://" in image:
            return image
        # As a shell has it for the catalog's own path; `~name`, another user's home, stays a file's name.
        home = posixpath.expanduser(image) if image.startswith("~/") else image
        return posixpath.normpath(str(folder / home))

    return locate


def _locate_in_bucket(url: str) -> Callable[[str], str]:
    """Relative images lie beside the catalog object; no number of `..` leads out of its bucket."""
    parts = urlsplit(url)
    folder = posixpath.dirname(parts.path) or "/"

    def locate(image: str) -> str:
        if "://" in image:
            return image
        key = posixpath.normpath(posixpath.join(folder, image)).lstrip("/")
        return f"s3://{parts.netloc}/{key}"

    return locate
