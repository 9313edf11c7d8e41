"""The durable queue, the results and the billing log.

The order of writes is the promise. A task is acknowledged after the commit that holds it; a result becomes
visible in the very commit that bills it, after its file is on the disk. A crash between two steps repeats the
work, never the bill: the row of a result is closed once, and only the transaction that closes it may bill it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Table, func, insert, select, tuple_, update

from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.records import (
    BilledResult,
    Json,
    NewTask,
    Result,
    Task,
    TaskKey,
    result_of,
    task_of,
)
from trellis_pipeline.service.tables import billing, deliveries, results, tasks

Outcome = Literal["accepted", "conflict", "no_credit", "no_room"]


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
            query = select(tasks.c.account, tasks.c.task_uuid)
            query = query.where(tuple_(tasks.c.account, tasks.c.task_uuid).in_([one.key for one in batch]))
            known = {TaskKey(*row) for row in connection.execute(query)}
            for task in batch:
                usd, count = task.quote * len(task.seeds), len(task.seeds)
                if task.key in known:
                    outcomes.append("conflict")
                elif credit_usd is not None and self.billed_usd + pending_usd + usd > credit_usd:
                    outcomes.append("no_credit")
                elif pending_count + count > max_queue:
                    outcomes.append("no_room")
                else:
                    _insert(connection, task)
                    known.add(task.key)
                    pending_usd, pending_count = pending_usd + usd, pending_count + count
                    outcomes.append("accepted")
        self.pending_usd, self.pending_count = pending_usd, pending_count
        return outcomes

    def note_rejection(self, account: str, rejections: Mapping[str, Json]) -> None:
        """Remember what later tasks of these UUIDs were told: `getTaskDetails` gives the last answer."""
        with self._disk.begin() as connection:
            for task_uuid, error in rejections.items():
                query = update(tasks).where(_is(tasks, TaskKey(account, task_uuid)))
                connection.execute(query.values(rejection=json.dumps(error)))

    def find(self, account: str, task_uuids: Iterable[str]) -> dict[str, Task]:
        """The tasks of these UUIDs that were ever accepted from this account, by UUID."""
        wanted = sorted(set(task_uuids))
        with self._disk.read() as connection:
            mine = (tasks.c.account == account) & tasks.c.task_uuid.in_(wanted)
            rows = connection.execute(select(tasks).where(mine)).all()
            mine = (results.c.account == account) & results.c.task_uuid.in_(wanted)
            found: dict[str, list[Result]] = {}
            for row in connection.execute(select(results).where(mine).order_by(results.c.number)):
                found.setdefault(row.task_uuid, []).append(result_of(row))
        return {row.task_uuid: task_of(row, found[row.task_uuid]) for row in rows}

    def get(self, key: TaskKey) -> Task:
        """An accepted task. Raises KeyError where there is none."""
        return self.find(key.account, [key.task_uuid])[key.task_uuid]

    def unfinished(self) -> list[tuple[TaskKey, int]]:
        """(task, number) of every result that is neither done nor failed, oldest first."""
        query = (
            select(results.c.account, results.c.task_uuid, results.c.number)
            .join(tasks)
            .where(results.c.state == "queued")
            .order_by(tasks.c.seq, results.c.number)
        )
        with self._disk.read() as connection:
            return [(TaskKey(row.account, row.task_uuid), row.number) for row in connection.execute(query)]

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
            quote = self._close_result(connection, task.key, number, closing, announce, now)
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

    def fail(self, task: TaskKey, number: int, error: Json, announce: Sequence[str]) -> bool:
        """Close a result as failed, which costs nothing; False if it was closed before."""
        now = time.time()
        closing = {"state": "failed", "error": json.dumps(error), "ended_at": now}
        with self._disk.begin() as connection:
            quote = self._close_result(connection, task, number, closing, announce, now)
        if quote is None:
            return False
        self.pending_usd -= quote
        self.pending_count -= 1
        return True

    def _close_result(
        self,
        connection: Connection,
        task: TaskKey,
        number: int,
        closing: Json,
        announce: Sequence[str],
        now: float,
    ) -> Decimal | None:
        query = (
            update(results)
            .where(_is(results, task), results.c.number == number, results.c.state == "queued")
            .values(closing)
            .returning(results.c.quote)
        )
        quote: Decimal | None = connection.execute(query).scalar()
        if quote is not None and announce:
            connection.execute(
                insert(deliveries),
                [
                    {"kind": kind, **task._asdict(), "number": number, "attempts": 0, "due_at": now}
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
        select(billing.c.task_uuid, billing.c.result_uuid, billing.c.cost, billing.c.account).order_by(
            billing.c.seq
        )
    )
    return [BilledResult(*row) for row in rows]


def read_accepted(connection: Connection) -> list[str]:
    """UUIDs of all tasks ever accepted, in their order."""
    return list(connection.execute(select(tasks.c.task_uuid).order_by(tasks.c.seq)).scalars())


def _is(table: Table, key: TaskKey) -> ColumnElement[bool]:
    return (table.c.account == key.account) & (table.c.task_uuid == key.task_uuid)


def _insert(connection: Connection, task: NewTask) -> None:
    row = {
        **task.key._asdict(),
        "payload": json.dumps(task.payload),
        "base_url": task.base_url,
        "accepted_at": time.time(),
    }
    connection.execute(insert(tasks), row)
    connection.execute(
        insert(results),
        [
            {
                **task.key._asdict(),
                "number": number,
                "result_uuid": result_uuid,
                "seed": str(seed),
                "state": "queued",
                "quote": task.quote,
            }
            for number, (seed, result_uuid) in enumerate(zip(task.seeds, task.result_uuids, strict=True))
        ],
    )
