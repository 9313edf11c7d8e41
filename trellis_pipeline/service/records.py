"""What the store keeps and gives: a task to be accepted, an accepted one, its results, a line of the bill.

A task's UUID is its client's choice, and two clients may choose the same: those of one catalog and one set of
settings do. So nothing here is known by its UUID alone, but by the account that sent it and the UUID.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

Json = dict[str, Any]


class TaskKey(NamedTuple):
    """What a task is known by inside the service."""

    account: str
    task_uuid: str


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be accepted. seeds, result_uuids: one for each result. quote: USD for one result."""

    task_uuid: str
    account: str
    payload: Json
    base_url: str
    seeds: tuple[int, ...]
    result_uuids: tuple[str, ...]
    quote: Decimal

    @property
    def key(self) -> TaskKey:
        """What it will be known by."""
        return TaskKey(self.account, self.task_uuid)


@dataclass(frozen=True, slots=True)
class Result:
    """One result of a task. state: `queued`, `done` or `failed`. has_file: False once it has expired."""

    number: int
    result_uuid: str
    seed: int
    state: str
    cost: Decimal | None
    error: Json | None
    expires_at: float | None
    has_file: bool


@dataclass(frozen=True, slots=True)
class Task:
    """An accepted task with all its results, in their order."""

    task_uuid: str
    account: str
    payload: Json
    base_url: str
    results: tuple[Result, ...]
    rejection: Json | None

    @property
    def key(self) -> TaskKey:
        """What it is known by."""
        return TaskKey(self.account, self.task_uuid)

    @property
    def ended(self) -> bool:
        """True when every result is done or failed."""
        return all(result.state != "queued" for result in self.results)


@dataclass(frozen=True, slots=True)
class BilledResult:
    """One line of the billing log."""

    task_uuid: str
    result_uuid: str
    cost: Decimal
    account: str


def task_of(row: Any, results: Sequence[Result]) -> Task:
    """A task from its row and its results."""
    return Task(
        row.task_uuid,
        row.account,
        json.loads(row.payload),
        row.base_url,
        tuple(results),
        json.loads(row.rejection) if row.rejection else None,
    )


def result_of(row: Any) -> Result:
    """A result from its row."""
    return Result(
        row.number,
        row.result_uuid,
        int(row.seed),
        row.state,
        row.cost,
        json.loads(row.error) if row.error else None,
        row.expires_at,
        row.file_bytes is not None,
    )
