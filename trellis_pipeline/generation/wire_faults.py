"""What is wrong with a task, in the API's words: the field's path, an error code, and what is allowed.

pydantic finds the faults; its own texts may quote values, and values here may be signatures or photos.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trellis_pipeline.errors import FieldFault

OWN_RULE = "wire"
"""The type of a PydanticCustomError whose text is ours and can be shown as it is."""

_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "model_type": "an object",
}
_LIMITS = {
    "greater_than_equal": ("is less than", "ge"),
    "less_than_equal": ("is more than", "le"),
    "multiple_of": ("is not a multiple of", "multiple_of"),
}
_CODES = {"model": "invalidModel", "taskType": "unsupportedTaskType", "inputs.image": "invalidImage"}


class FaultFinder:
    """Translates pydantic's findings about one model. fields: every path of it, groups included."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._fields = _walk(model)
        self.fields = tuple(self._fields)

    def faults(self, findings: Sequence[Any]) -> list[FieldFault]:
        """One fault for each of pydantic's findings (`ValidationError.errors()`)."""
        return [self._fault(finding) for finding in findings]

    def _fault(self, finding: Any) -> FieldFault:
        path = ".".join(printable(part) for part in finding["loc"]) or "task"
        kind, code = finding["type"], _CODES.get(".".join(map(str, finding["loc"])), "invalidValue")
        message, allowed = "is not valid", self.allowed(path)
        if kind == "missing":
            message, code = "is required", "missingParameter"
        elif kind == "extra_forbidden":
            message, allowed = self._unknown(path)
            code = "unknownParameter"
        elif kind == OWN_RULE:
            message = finding["msg"]
        elif kind in _LIMITS:
            words, name = _LIMITS[kind]
            limit = finding["ctx"][name]
            whole = int(limit) if isinstance(limit, float) and limit.is_integer() else limit
            message = f"{quote(finding['input'])} {words} {whole}"
        elif kind == "string_unicode":
            message = "holds half a surrogate pair, which no text may"
        elif kind in _WANTED:
            message, code = f"must be {_WANTED[kind]}, not {kind_of(finding['input'])}", "invalidType"
        elif allowed:
            message = f"{quote(finding['input'])} is not allowed"
        return FieldFault(path, message, code, allowed)

    def allowed(self, path: str) -> tuple[str, ...]:
        """The allowed values of a field where they can be listed, or else its range; empty if neither."""
        annotation, limits = self._fields.get(path, (None, {}))
        for part in (annotation, *get_args(annotation)):
            if getattr(part, "__origin__", None) is Literal:
                return tuple(str(value) for value in get_args(part))
        if "multiple_of" in limits:
            return tuple(str(v) for v in range(limits["ge"], limits["le"] + 1, limits["multiple_of"]))
        if "ge" in limits and "le" in limits:
            return (f"{limits['ge']} to {limits['le']}",)
        return (f"{limits['ge']} or more",) if "ge" in limits else ()

    def _unknown(self, path: str) -> tuple[str, tuple[str, ...]]:
        group, _, leaf = path.rpartition(".")
        siblings = [known for known in self.fields if known.rpartition(".")[0] == group]
        # A right name at the wrong depth is as common as a misspelt one: look everywhere, siblings first.
        by_leaf = {known.rpartition(".")[2].lower(): known for known in (*reversed(self.fields), *siblings)}
        close = difflib.get_close_matches(leaf.lower(), by_leaf, n=1, cutoff=0.6)
        if close:
            return f"is not a parameter of this task; did you mean {by_leaf[close[0]]}?", ()
        return "is not a parameter of this task", tuple(name.rpartition(".")[2] for name in siblings)


def _walk(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[Any, dict[str, Any]]]:
    """Path -> annotation and limits, in the document's order."""
    fields: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, info in model.model_fields.items():
        constraints = list(info.metadata)
        for part in get_args(info.annotation):  # `Annotated[...] | None` keeps its limits inside
            for meta in getattr(part, "__metadata__", ()):
                constraints += meta.metadata if isinstance(meta, FieldInfo) else [meta]
        limits = {
            key: getattr(constraint, key)
            for constraint in constraints
            for key in ("ge", "le", "multiple_of")
            if hasattr(constraint, key)
        }
        fields[prefix + name] = (info.annotation, limits)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            fields |= _walk(info.annotation, f"{prefix}{name}.")
    return fields


def quote(value: object) -> str:
    """A value for a message: short and printable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 128:  # to print a huge one is an error of its own
        return "the number"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(printable(value[:60]))
    return kind_of(value)


def kind_of(value: object) -> str:
    """JSON's word for the kind of a value."""
    kinds: tuple[tuple[Any, str], ...] = (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a string"),
        (Mapping, "an object"),
        ((list, tuple), "an array"),
    )
    return (
        "null" if value is None else next((word for kind, word in kinds if isinstance(value, kind)), "this")
    )


def printable(part: object) -> str:
    """At most 80 characters that any terminal and any JSON writer takes."""
    text = part if isinstance(part, str) else str(part)
    return "".join(c if c.isprintable() else "�" for c in text[:80])
