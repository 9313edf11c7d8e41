"""The columns of a catalog: their names, and how a cell becomes a value.

Cells come as text (CSV), as JSON values or as Arrow values, and mean the same in all of them. Parsing is
strict on purpose: a number that is guessed wrong is a model in the wrong size, or money spent with the wrong
setting. Ranges of settings are checked where the request is built; here a cell only has to be a value.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, time
from functools import lru_cache
from types import MappingProxyType

from trellis_pipeline.catalog.product import Scalar
from trellis_pipeline.catalog.sku import printable

REQUIRED_COLUMNS = ("sku", "image")
TEXT_COLUMNS = ("title", "category")
LENGTH_COLUMNS = ("width_m", "height_m", "depth_m")

# Wire paths and types of the 3dInference request for microsoft:trellis-2@4b.
SETTING_TYPES: Mapping[str, type[int] | type[float] | type[bool]] = MappingProxyType(
    {
        "seed": int,
        "numberResults": int,
        "settings.resolution": int,
        "settings.decimationTarget": int,
        "settings.remesh": bool,
        "settings.textureSize": int,
        **{
            f"settings.{stage}.{name}": kind
            for stage in ("sparseStructure", "shapeSlat", "texSlat")
            for name, kind in (
                ("steps", int),
                ("guidanceStrength", float),
                ("guidanceRescale", float),
                ("rescaleT", float),
            )
        },
    }
)
COLUMNS = frozenset((*REQUIRED_COLUMNS, *TEXT_COLUMNS, *LENGTH_COLUMNS, *SETTING_TYPES))
# Names that may hold an object with columns inside, in JSON Lines and in Parquet structs.
GROUPS = frozenset(
    path.rsplit(".", depth)[0] for path in SETTING_TYPES for depth in range(1, path.count(".") + 1)
)

MIN_LENGTH_M = 0.0001
MAX_LENGTH_M = 100.0

_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@lru_cache(maxsize=1024)
def closest_column(name: str) -> str | None:
    """The column somebody who wrote `name` may have meant, or None if nothing is close."""

    def squeeze(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.casefold())

    targets = {squeeze(path.rsplit(".", 1)[-1]): path for path in SETTING_TYPES if path.count(".") < 2}
    targets |= {squeeze(path): path for path in COLUMNS}
    targets |= {column.removesuffix("_m"): column for column in LENGTH_COLUMNS}
    matches = difflib.get_close_matches(squeeze(name[:64]), sorted(targets), n=1, cutoff=0.7)
    return targets[matches[0]] if matches else None


def repeated_columns(header: Iterable[str]) -> list[str]:
    """The known columns that `header` names more than once, sorted."""
    return sorted(name for name, count in Counter(header).items() if count > 1 and name in COLUMNS)


def is_blank(value: object) -> bool:
    """True for a cell that says nothing: null, or text of white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def parse_text(value: object) -> str:
    """A cell of a text column, outer white space removed. Numbers become their digits, dates ISO 8601.

    Text that a spreadsheet would take for a formula (`=1+1`) stays the text it is. Raises ValueError for
    binary data, lists, objects, control characters and text that cannot be written as UTF-8.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError("is binary data, not UTF-8 text") from None
    if isinstance(value, str):
        if not value.isprintable():
            for character in value:
                category = unicodedata.category(character)
                if category == "Cs" or (category == "Cc" and character not in "\t\r\n"):
                    raise ValueError(f"contains U+{ord(character):04X}, which is not text")
        return value.strip()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is a {_kind(value)}, not text")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"is {value}, not text")
        # A whole number that passed through a float column, as pandas makes where cells are empty.
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if abs(value) >= 2**64:
        raise ValueError("is a number of more than 64 bits (write it as text)")
    return str(value)


def parse_length_m(value: object) -> float:
    """A dimension in metres, within MIN_LENGTH_M..MAX_LENGTH_M. Raises ValueError with the reason."""
    metres = _parse_float(value)
    if metres <= 0:
        raise ValueError(f"is {metres:g}, but a length must be more than 0 m")
    if not MIN_LENGTH_M <= metres <= MAX_LENGTH_M:
        raise ValueError(
            f"is {metres:g} m, but lengths are {MIN_LENGTH_M:g} to {MAX_LENGTH_M:g} m (0.45 for 45 cm)"
        )
    return metres


def parse_setting(path: str, value: object) -> Scalar:
    """The value of the setting at wire path `path` as its type in SETTING_TYPES, its range unchecked.

    Raises ValueError with the reason if the cell is not a value of that type, KeyError for an unknown path.
    """
    kind = SETTING_TYPES[path]
    if kind is bool:
        return _parse_bool(value)
    return _parse_int(value) if kind is int else _parse_float(value)


def _parse_float(value: object) -> float:
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            hint = f" (write {text.replace(',', '.')})" if _DECIMAL_COMMA.fullmatch(text) else ""
            raise ValueError(f"is {printable(text, 40)!r}, not a number{hint}")
        number = float(text)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is a {_kind(value)}, not a number")
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("is a number of more than 64 bits")
    else:
        number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"is {number}, not a number that can be used")
    return number


def _parse_int(value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        # Spreadsheets write 7.0 and 1E+06 for whole numbers.
        real = _parse_float(value)
        if not real.is_integer() or abs(real) > 2**53:
            raise ValueError(f"is {real:g}, not a whole number")
        number = int(real)
    if abs(number) >= 2**64:
        raise ValueError("is a number of more than 64 bits")
    return number


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    shown = repr(printable(value, 40)) if isinstance(value, str) else f"a {_kind(value)}"
    raise ValueError(f"is {shown}, not true or false")


def _kind(value: object) -> str:
    names = {dict: "JSON object", list: "list", bool: "true/false value", bytes: "piece of binary data"}
    return names.get(type(value), type(value).__name__)
