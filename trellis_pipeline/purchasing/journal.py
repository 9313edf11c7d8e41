"""The journal of intents: what was asked of a generator, or is about to be, written down before it is asked.

A process can die between any two instructions, and two can want the same model at once. So before a generator
hears of a request, one transaction sets the money aside and writes the intent, and only whoever wrote it, or
took it over from somebody who is gone, may act on it. Somebody who was merely stopped for a while and was
thought to be gone finds that out at the next step (`TakenOver`) and leaves it to the other. What is open here
is looked for at the provider before anything is bought again.

An intent is `open` until its outcome is known, then `done` or `failed`; it is closed in the transaction that
settles or releases its reservation. A further purchase of the same request is a further intent, with the next
number, and can only follow one that is closed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ColumnElement, Connection, insert, select, update

from trellis_pipeline.costs import switch
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.purchasing.processes import is_gone, this_process

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["open", "done", "failed"]

# Long enough for a process that is stopped for a while, short enough to wait for after a machine was lost.
LEASE = timedelta(seconds=120)

_turns = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Intent:
    """One purchase, made or to be made. Its reservation has the same id as its task.

    number: counts the purchases of one request from 1. asked: see `generations.asked_for`. owner: who is at
    it, "" for nobody. submitted_at: when it was last handed to the provider, None if it never was.
    called_back_at: when a webhook last told of it.
    """

    task_uuid: str
    request_key: str
    number: int
    catalog: str
    sku: str
    run_id: str
    generator: str
    asked: str
    state: State
    owner: str
    lease_until: datetime
    made_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    called_back_at: datetime | None
    cause: str


class AlreadyIntended(Exception):
    """Somebody else has written an intent for this request meanwhile; read it, and decide anew."""


class TakenOver(Exception):
    """The intent is in other hands by now, or was ended by them."""


class Journal:
    """The intents of one ledger database.

    Every method may raise StorageUnavailable where the database cannot be used.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def latest(self, request_key: str) -> Intent | None:
        """The last intent of a request, None before the first."""
        with self.ledger.reading() as connection:
            return _latest(connection, request_key)

    def find(self, uuid: str) -> Intent | None:
        """The intent behind a task UUID."""
        with self.ledger.reading() as connection:
            row = connection.execute(select(intents).where(intents.c.task_uuid == uuid)).mappings()
            return _intent(row.one_or_none())

    def open_intents(self, generator: str | None = None) -> tuple[Intent, ...]:
        """Everything whose outcome is not known, oldest first."""
        query = select(intents).where(intents.c.state == "open").order_by(intents.c.made_at)
        if generator is not None:
            query = query.where(intents.c.generator == generator)
        with self.ledger.reading() as connection:
            return tuple(_known(row) for row in connection.execute(query).mappings())

    def begin(
        self,
        amount: Decimal,
        scope: SpendScope,
        budgets: Budgets,
        *,
        after: Intent | None,
        asked: str = "{}",
        price_book_version: str = "",
        token_sha256: str = "",
    ) -> Intent:
        """Reserve `amount` USD and write the intent, both or neither. It is the caller's then.

        after: the last intent of this request as the caller saw it (closed), None if there was none. asked:
        JSON text of what is asked for.

        Raises AlreadyIntended if that is no longer the last one, BudgetExceeded as `Ledger.reserve` does.
        """
        number = 1 if after is None else after.number + 1
        uuid = task_uuid(scope.request_key, number)
        now = _now()

        def write(connection: Connection) -> None:
            last = _latest(connection, scope.request_key)
            if (last and last.number) != (after and after.number) or (last and last.state == "open"):
                raise AlreadyIntended
            connection.execute(
                insert(intents),
                {
                    "task_uuid": uuid,
                    "request_key": scope.request_key,
                    "number": number,
                    "catalog": scope.catalog,
                    "sku": scope.sku,
                    "run_id": scope.run_id,
                    "generator": scope.generator,
                    "asked": asked,
                    "state": "open",
                    "owner": _new_owner(),
                    "lease_until": now + LEASE,
                    "made_at": now,
                    "token_sha256": token_sha256,
                    "cause": "",
                },
            )

        self.ledger.reserve(
            amount, scope, budgets, reservation_id=uuid, price_book_version=price_book_version, also=write
        )
        found = self.find(uuid)
        assert found is not None
        return found

    def take_over(self, intent: Intent) -> Intent | None:
        """Become the owner of an open intent that nobody is at; None if somebody is, or was quicker.

        Act on what is returned, not on what was given: being its owner is part of it.
        """
        now = _now()
        if intent.owner and intent.lease_until > now and not is_gone(_process(intent.owner)):
            return None
        with self.ledger.writing() as connection:
            taken = connection.execute(
                update(intents)
                .where(
                    intents.c.task_uuid == intent.task_uuid,
                    intents.c.state == "open",
                    intents.c.owner == intent.owner,
                    intents.c.lease_until == intent.lease_until,
                )
                .values(owner=_new_owner(), lease_until=now + LEASE)
            ).rowcount
        return self.find(intent.task_uuid) if taken == 1 else None

    def renew(self, intent: Intent) -> None:
        """Say that the owner is still at it."""
        self._change(intent, lease_until=_now() + LEASE)

    def let_go(self, intent: Intent) -> None:
        """Leave an intent open for whoever comes next, at once."""
        self._change(intent, owner="", lease_until=_now())

    def submitting(self, intent: Intent) -> None:
        """Write down that the provider is about to be told.

        Raises TakenOver, and SpendingPaused while the kill switch is on; neither writes anything.
        """
        with self.ledger.writing() as connection:
            if not _changed(connection, intent, submitted_at=_now()):
                raise TakenOver
            switch.check(connection, f"{intent.catalog}/{intent.sku}")

    def may_submit(self, intent: Intent) -> None:
        """Ask again, where time has passed since `submitting`. Raises SpendingPaused."""
        with self.ledger.reading() as connection:
            switch.check(connection, f"{intent.catalog}/{intent.sku}")

    def closing(self, intent: Intent, state: State, cause: str = "", *, if_ours: bool = False) -> Any:
        """What closes the intent; give it to `Ledger.settle` or `release` as `also`.

        if_ours: raise TakenOver, and so undo the whole transaction, where somebody else is at it.
        """

        def close(connection: Connection) -> None:
            row = _as_ours(intent) if if_ours else (intents.c.task_uuid == intent.task_uuid,)
            values = {"state": state, "owner": "", "ended_at": _now(), "cause": cause[:1000]}
            changed = connection.execute(update(intents).where(*row).values(**values)).rowcount
            if if_ours and not changed:
                raise TakenOver

        return close

    def _change(self, intent: Intent, **values: object) -> bool:
        """Change a row that is still ours; one that was taken over meanwhile is left alone."""
        with self.ledger.writing() as connection:
            return _changed(connection, intent, **values)


def _changed(connection: Connection, intent: Intent, **values: object) -> bool:
    return connection.execute(update(intents).where(*_as_ours(intent)).values(**values)).rowcount == 1


def _as_ours(intent: Intent) -> tuple[ColumnElement[bool], ...]:
    """The intent's row, as long as it is open and nobody else has become its owner."""
    same = intents.c.task_uuid == intent.task_uuid, intents.c.owner == intent.owner
    return *same, intents.c.state == "open"


def _latest(connection: Connection, request_key: str) -> Intent | None:
    query = (
        select(intents).where(intents.c.request_key == request_key).order_by(intents.c.number.desc()).limit(1)
    )
    return _intent(connection.execute(query).mappings().one_or_none())


def _intent(row: Mapping[Any, Any] | None) -> Intent | None:
    return None if row is None else _known(row)


def _known(row: Mapping[Any, Any]) -> Intent:
    return Intent(**{name: row[name] for name in Intent.__dataclass_fields__})


def _new_owner() -> str:
    """A name for one turn at one intent: two products of one process may want the same model."""
    return f"{this_process()}:{next(_turns)}"


def _process(owner: str) -> str:
    return owner.rpartition(":")[0]


def _now() -> datetime:
    return datetime.now(UTC)
