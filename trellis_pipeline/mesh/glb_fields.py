"""Typed access to the JSON of a file nobody vouched for.

A glTF document is a tree of optional members that refer to each other by index. In a hostile or broken
file each of them may be absent, of another type, negative or past the end of its array. Asking through
these functions turns every such surprise into a ModelFileError that says where it stands, so the code that
reads geometry can be written as if the file were well formed.
"""

from __future__ import annotations

import math
from typing import Any

from trellis_pipeline.errors import ModelFileError

Json = dict[str, Any]

_MAX_INTEGER = 2**53 - 1  # the largest integer that every JSON reader keeps exactly


def members(owner: Json, key: str, where: str) -> list[Any]:
    """The array `owner[key]`, or an empty one when it is absent."""
    value = owner.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ModelFileError(f"{where}.{key} must be an array, it is {kind_of(value)}")
    return value


def child(owner: Json, key: str, where: str) -> Json | None:
    """The object `owner[key]`, or None when it is absent."""
    value = owner.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}.{key} must be an object, it is {kind_of(value)}")
    return value


def integer(owner: Json, key: str, where: str, *, default: int | None = None) -> int:
    """The integer `owner[key]` in 0..2^53 - 1; `default` when it is absent and a default is given."""
    value = owner.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(f"{where}.{key} must be an integer, it is {kind_of(value)}")
    if not 0 <= value <= _MAX_INTEGER:
        raise ModelFileError(f"{where}.{key} is out of range")
    return value


def optional_integer(owner: Json, key: str, where: str) -> int | None:
    """The integer `owner[key]` in 0..2^53 - 1, or None when it is absent."""
    return None if owner.get(key) is None else integer(owner, key, where)


def numbers(owner: Json, key: str, count: int, where: str) -> list[float] | None:
    """`count` finite numbers from the array `owner[key]`, or None when it is absent."""
    value = owner.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count:
        raise ModelFileError(f"{where}.{key} must be an array of {count} numbers")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ModelFileError(f"{where}.{key} must hold numbers only, it holds {kind_of(number)}")
        if not -1e300 < number < 1e300:  # false for infinities; json never yields NaN here
            raise ModelFileError(f"{where}.{key} holds a number that is not finite")
    result = [float(number) for number in value]
    if not all(map(math.isfinite, result)):
        raise ModelFileError(f"{where}.{key} holds a number that is not finite")
    return result


def entry(document: Json, collection: str, index: object, where: str) -> Json:
    """The object `document[collection][index]`; `where` names who refers to it."""
    items = members(document, collection, "document")
    if isinstance(index, bool) or not isinstance(index, int):
        raise ModelFileError(f"{where} must be an index into {collection}, it is {kind_of(index)}")
    if not 0 <= index < len(items):
        raise ModelFileError(f"{where} points at {collection}[{index}]; the file has {len(items)}")
    item = items[index]
    if not isinstance(item, dict):
        raise ModelFileError(f"{collection}[{index}] must be an object, it is {kind_of(item)}")
    return item


def kind_of(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    return "a number"
