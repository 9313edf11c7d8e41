"""Deliveries that are due: rows that the store writes with a result, and that stay until they arrived."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.records import TaskKey
from trellis_pipeline.service.tables import deliveries


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call or an upload that is due. attempts: made so far."""

    seq: int
    kind: str
    account: str
    task_uuid: str
    number: int
    attempts: int
    due_at: float

    @property
    def task(self) -> TaskKey:
        """Whose result it tells of."""
        return TaskKey(self.account, self.task_uuid)


class Outbox:
    """All deliveries not yet made."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def due(self, now: float, most: int = 100) -> list[Delivery]:
        """Deliveries whose time has come, oldest first."""
        query = select(deliveries).where(deliveries.c.due_at <= now).order_by(deliveries.c.due_at).limit(most)
        with self._disk.read() as connection:
            return [Delivery(**row._mapping) for row in connection.execute(query)]

    def next_at(self) -> float | None:
        """When the next delivery is due."""
        with self._disk.read() as connection:
            return connection.execute(select(func.min(deliveries.c.due_at))).scalar()

    def count(self) -> int:
        """How many deliveries are not yet made."""
        with self._disk.read() as connection:
            return connection.execute(select(func.count(deliveries.c.seq))).scalar_one()

    def postpone(self, seq: int, attempts: int, due_at: float) -> None:
        """Try a delivery again later."""
        with self._disk.begin() as connection:
            query = update(deliveries).where(deliveries.c.seq == seq)
            connection.execute(query.values(attempts=attempts, due_at=due_at))

    def end(self, seq: int) -> None:
        """A delivery arrived, or was given up."""
        with self._disk.begin() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.seq == seq))
