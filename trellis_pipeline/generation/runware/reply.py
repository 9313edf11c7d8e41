"""What an HTTP answer of the API says, whatever shape it came in.

Answers come as `{"data": [...], "errors": [...]}`, but also with one `error`, with `data` as an object, as an
HTML page of some proxy with status 200, or cut off. Reading never fails: an answer that cannot be read is one
that says nothing, and what that means depends on what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

Item = Mapping[str, Any]


class WireNumber(Decimal):
    """A number with a fraction as it stood in the JSON; `text` keeps it to the letter."""

    text: str

    def __new__(cls, text: str) -> WireNumber:
        """What is no finite decimal becomes NaN, which no check lets through."""
        try:
            number = super().__new__(cls, text)
        except InvalidOperation:
            number = super().__new__(cls, "NaN")
        number.text = text[:64]
        return number


@dataclass(frozen=True, slots=True)
class ApiError:
    """One error as the API states it. task_uuid is "" where it is addressed to no task.

    status: the HTTP status it came with. allowed: the API's list of allowed values, mostly empty.
    """

    code: str
    message: str
    task_uuid: str = ""
    task_type: str = ""
    parameters: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    status: int = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. readable: whether it was an envelope at all; if not, items and errors are empty."""

    status: int
    items: tuple[Item, ...] = ()
    errors: tuple[ApiError, ...] = ()
    readable: bool = True
    retry_after: float | None = None

    def of(self, task_uuid: str) -> Reply:
        """The part that is addressed to one task."""
        wanted = task_uuid.lower()
        return Reply(
            self.status,
            tuple(item for item in self.items if text_of(item, "taskUUID").lower() == wanted),
            tuple(error for error in self.errors if error.task_uuid.lower() == wanted),
            self.readable,
            self.retry_after,
        )

    @property
    def unaddressed(self) -> tuple[ApiError, ...]:
        """Errors about the request as a whole."""
        return tuple(error for error in self.errors if not error.task_uuid)


def parse_reply(status: int, body: bytes, retry_after: float | None = None) -> Reply:
    """Read an answer. Never raises; see `Reply.readable`."""
    try:
        data = json.loads(body, parse_float=WireNumber, parse_constant=WireNumber)
    except (ValueError, RecursionError):  # UnicodeDecodeError and huge integers are ValueErrors too
        return Reply(status, readable=False, retry_after=retry_after)
    return read_envelope(status, data, retry_after)


def read_envelope(status: int, data: object, retry_after: float | None = None) -> Reply:
    """Read an envelope that is JSON data already."""
    entries = data if isinstance(data, list) else [data]
    envelopes = [entry for entry in entries if isinstance(entry, dict)]
    known = [e for e in envelopes if e.keys() & {"data", "errors", "error"} or "taskType" in e]
    if not known:
        return Reply(status, readable=False, retry_after=retry_after)
    items: list[Item] = []
    errors: list[ApiError] = []
    for envelope in known:
        flat = "taskType" in envelope and "data" not in envelope
        items += [envelope] if flat else [i for i in _many(envelope.get("data")) if isinstance(i, dict)]
        if not flat:
            for stated in (*_many(envelope.get("errors")), *_many(envelope.get("error"))):
                errors += _error(stated, status, envelope)
    for item in items:
        if item.get("error") is not None or text_of(item, "status") == "error":
            stated = item.get("error")
            errors += _error(stated if stated is not None else dict(item), status, item)
    good = tuple(item for item in items if item.get("error") is None and text_of(item, "status") != "error")
    return Reply(status, good, tuple(errors), retry_after=retry_after)


def text_of(item: Mapping[str, Any], name: str) -> str:
    """A member that should be a string; "" where it is not."""
    value = item.get(name)
    return value if isinstance(value, str) else ""


def _many(value: object) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else (value,)


def _error(stated: object, status: int, around: Item) -> list[ApiError]:
    """`around` holds the task where the error itself does not say it."""
    if isinstance(stated, str):
        stated = {"message": stated}
    if not isinstance(stated, dict) or not stated:
        return []
    return [
        ApiError(
            code=(text_of(stated, "code") or text_of(stated, "errorId"))[:80],
            message=text_of(stated, "message")[:2000],
            task_uuid=text_of(stated, "taskUUID") or text_of(around, "taskUUID"),
            task_type=text_of(stated, "taskType") or text_of(around, "taskType"),
            parameters=_texts(stated.get("parameter")),
            allowed=_texts(stated.get("allowedValues")),
            status=status,
        )
    ]


def _texts(value: object) -> tuple[str, ...]:
    """A string, or a list of them (errors across fields name several parameters)."""
    return tuple(str(entry)[:80] for entry in _many(value) if isinstance(entry, str | int))[:20]
