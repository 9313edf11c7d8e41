"""The durable queue, the results and the billing log.

The order of writes is the promise. A task is acknowledged after the commit that holds it; a result becomes
visible in the very commit that bills it, after its file is on the disk. A crash between two steps repeats the
work, never the bill: the row of a result is closed once, and only the transaction that closes it may bill it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.tables import billing, deliveries, results, tasks

Json = dict[str, Any]
Outcome = Literal["accepted", "conflict", "no_credit", "no_room"]


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
    def ended(self) -> bool:
        """True when every result is done or failed."""
        return all(result.state != "queued" for result in self.results)


@dataclass(frozen=True, slots=True)
class BilledResult:
    """One line of the billing log."""

    task_uuid: str
    result_uuid: str
    cost: Decimal


class TaskStore:
    """The queue, the results and the billing log.

    What writes is called from one thread only: the sums below are kept beside the database.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        with disk.read() as connection:
            self.billed_usd: Decimal = connection.execute(select(func.sum(billing.c.cost))).scalar() or ZERO
            self.billed_count: int = connection.execute(select(func.count(billing.c.seq))).scalar_one()
            waiting = select(func.sum(results.c.quote), func.count()).where(results.c.state == "queued")
            pending, count = connection.execute(waiting).one()
            self.pending_usd: Decimal = pending or ZERO
            self.pending_count: int = count

    # -- tasks -----------------------------------------------------------------------------------------------

    def accept(
        self, batch: Sequence[NewTask], *, credit_usd: Decimal | None, max_queue: int
    ) -> list[Outcome]:
        """Take tasks in, in one transaction; gives what became of each. Only `accepted` ones are kept.

        credit_usd: what all accounts may ever spend, None for no limit; what is under way counts with its
        quote. max_queue: results that may be under way.
        """
        outcomes: list[Outcome] = []
        pending_usd, pending_count = self.pending_usd, self.pending_count
        with self._disk.begin() as connection:
            query = select(tasks.c.task_uuid).where(tasks.c.task_uuid.in_([one.task_uuid for one in batch]))
            known = set(connection.execute(query).scalars())
            for task in batch:
                usd, count = task.quote * len(task.seeds), len(task.seeds)
                if task.task_uuid in known:
                    outcomes.append("conflict")
                elif credit_usd is not None and self.billed_usd + pending_usd + usd > credit_usd:
                    outcomes.append("no_credit")
                elif pending_count + count > max_queue:
                    outcomes.append("no_room")
                else:
                    _insert(connection, task)
                    known.add(task.task_uuid)
                    pending_usd, pending_count = pending_usd + usd, pending_count + count
                    outcomes.append("accepted")
        self.pending_usd, self.pending_count = pending_usd, pending_count
        return outcomes

    def note_rejection(self, account: str, rejections: Mapping[str, Json]) -> None:
        """Remember what later tasks of these UUIDs were told: `getTaskDetails` gives the last answer."""
        with self._disk.begin() as connection:
            for task_uuid, error in rejections.items():
                query = update(tasks).where(tasks.c.task_uuid == task_uuid, tasks.c.account == account)
                connection.execute(query.values(rejection=json.dumps(error)))

    def find(self, task_uuids: Iterable[str]) -> dict[str, Task]:
        """The tasks of these UUIDs that were ever accepted."""
        wanted = sorted(set(task_uuids))
        with self._disk.read() as connection:
            rows = connection.execute(select(tasks).where(tasks.c.task_uuid.in_(wanted))).all()
            query = select(results).where(results.c.task_uuid.in_(wanted)).order_by(results.c.number)
            found: dict[str, list[Result]] = {}
            for row in connection.execute(query):
                found.setdefault(row.task_uuid, []).append(_result(row))
        return {
            row.task_uuid: Task(
                row.task_uuid,
                row.account,
                json.loads(row.payload),
                row.base_url,
                tuple(found[row.task_uuid]),
                json.loads(row.rejection) if row.rejection else None,
            )
            for row in rows
        }

    def unfinished(self) -> list[tuple[str, int]]:
        """(task UUID, number) of every result that is neither done nor failed, oldest first."""
        query = (
            select(results.c.task_uuid, results.c.number)
            .join(tasks)
            .where(results.c.state == "queued")
            .order_by(tasks.c.seq, results.c.number)
        )
        with self._disk.read() as connection:
            return [(row.task_uuid, row.number) for row in connection.execute(query)]

    def finish(
        self,
        task: Task,
        number: int,
        *,
        seed: int,
        cost: Decimal | None,
        file_bytes: int,
        expires_at: float,
        announce: Sequence[str],
    ) -> bool:
        """Close a result as done and bill it; False if it was closed before, and then nothing is billed.

        announce: kinds of delivery to make of it.
        """
        now = time.time()
        closing = {
            "state": "done",
            "seed": str(seed),
            "cost": cost,
            "ended_at": now,
            "expires_at": expires_at,
            "file_bytes": file_bytes,
        }
        with self._disk.begin() as connection:
            quote = self._close_result(connection, task.task_uuid, number, closing, announce, now)
            if quote is None:
                return False
            connection.execute(
                insert(billing),
                {
                    "at": now,
                    "account": task.account,
                    "task_uuid": task.task_uuid,
                    "result_uuid": task.results[number].result_uuid,
                    "cost": cost or ZERO,
                },
            )
        self.pending_usd -= quote
        self.pending_count -= 1
        self.billed_usd += cost or ZERO
        self.billed_count += 1
        return True

    def fail(self, task_uuid: str, number: int, error: Json, announce: Sequence[str]) -> bool:
        """Close a result as failed, which costs nothing; False if it was closed before."""
        now = time.time()
        closing = {"state": "failed", "error": json.dumps(error), "ended_at": now}
        with self._disk.begin() as connection:
            quote = self._close_result(connection, task_uuid, number, closing, announce, now)
        if quote is None:
            return False
        self.pending_usd -= quote
        self.pending_count -= 1
        return True

    def _close_result(
        self,
        connection: Connection,
        task_uuid: str,
        number: int,
        closing: Json,
        announce: Sequence[str],
        now: float,
    ) -> Decimal | None:
        query = (
            update(results)
            .where(results.c.task_uuid == task_uuid, results.c.number == number, results.c.state == "queued")
            .values(closing)
            .returning(results.c.quote)
        )
        quote: Decimal | None = connection.execute(query).scalar()
        if quote is not None and announce:
            connection.execute(
                insert(deliveries),
                [
                    {"kind": kind, "task_uuid": task_uuid, "number": number, "attempts": 0, "due_at": now}
                    for kind in announce
                ],
            )
        return quote

    # -- money -----------------------------------------------------------------------------------------------

    def billing(self) -> list[BilledResult]:
        """The whole billing log, in its order."""
        with self._disk.read() as connection:
            return read_billing(connection)

    # -- files -----------------------------------------------------------------------------------------------

    def result_path(self, result_uuid: str) -> Path:
        """Where the GLB of a result lies."""
        return self._disk.folder / "files" / f"{result_uuid}.glb"

    def expire_files(self, now: float) -> int:
        """Delete files whose time is over; gives how many."""
        query = select(results.c.result_uuid).where(
            results.c.expires_at < now, results.c.file_bytes.is_not(None)
        )
        with self._disk.read() as connection:
            old = list(connection.execute(query.limit(1000)).scalars())
        for result_uuid in old:
            self.result_path(result_uuid).unlink(missing_ok=True)
        if old:
            with self._disk.begin() as connection:
                connection.execute(
                    update(results).where(results.c.result_uuid.in_(old)).values(file_bytes=None)
                )
        return len(old)


def read_billing(connection: Connection) -> list[BilledResult]:
    """The billing log, read through any connection to the service's database."""
    rows = connection.execute(
        select(billing.c.task_uuid, billing.c.result_uuid, billing.c.cost).order_by(billing.c.seq)
    )
    return [BilledResult(row.task_uuid, row.result_uuid, row.cost) for row in rows]


def read_accepted(connection: Connection) -> list[str]:
    """UUIDs of all tasks ever accepted, in their order."""
    return list(connection.execute(select(tasks.c.task_uuid).order_by(tasks.c.seq)).scalars())


def _insert(connection: Connection, task: NewTask) -> None:
    row = {
        "task_uuid": task.task_uuid,
        "account": task.account,
        "payload": json.dumps(task.payload),
        "base_url": task.base_url,
        "accepted_at": time.time(),
    }
    connection.execute(insert(tasks), row)
    connection.execute(
        insert(results),
        [
            {
                "task_uuid": task.task_uuid,
                "number": number,
                "result_uuid": result_uuid,
                "seed": str(seed),
                "state": "queued",
                "quote": task.quote,
            }
            for number, (seed, result_uuid) in enumerate(zip(task.seeds, task.result_uuids, strict=True))
        ],
    )


def _result(row: Any) -> Result:
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
