"""The durable side of the service: a queue, results, the billing log, uploads and pending deliveries.

The order of writes is the promise. A task is acknowledged after the commit that holds it; a result becomes
visible in the very commit that bills it, after its file is on the disk. A crash between two steps repeats the
work, never the bill: the row of a result is closed once, and only the transaction that closes it may bill it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from trellis_pipeline.costs.database import connect, parse_url
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.errors import ConfigError, StorageUnavailable
from trellis_pipeline.service.tables import billing, deliveries, media, metadata, results, tasks

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


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call or an upload that is due. attempts: made so far."""

    seq: int
    kind: str
    task_uuid: str
    number: int
    attempts: int
    due_at: float


class ServiceStore:
    """Everything that a restart must find again. Thread-safe; one process at a time holds a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where another service holds the folder, StorageUnavailable for a bad one."""
        self.folder = folder
        try:
            # Tasks hold tokens and signed URLs, so the folder is for its owner only.
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("files", "media"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._lock = _hold(folder / "lock")
            self.secret = _secret(folder / "secret")
        except OSError as error:
            raise StorageUnavailable(
                f"the service's folder {folder} cannot be used: {error.strerror}"
            ) from error
        self._engine = connect(parse_url(f"sqlite:///{(folder / 'service.sqlite').absolute()}"))
        try:
            with self._begin() as connection:
                metadata.create_all(connection)
                self.billed_usd: Decimal = (
                    connection.execute(select(func.sum(billing.c.cost))).scalar() or ZERO
                )
                self.billed_count: int = connection.execute(select(func.count(billing.c.seq))).scalar_one()
                waiting = select(func.sum(results.c.quote), func.count()).where(results.c.state == "queued")
                pending, count = connection.execute(waiting).one()
                self.pending_usd: Decimal = pending or ZERO
                self.pending_count: int = count
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        self._engine.dispose()
        self._lock.close()

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
        with self._begin() as connection:
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
        with self._begin() as connection:
            for task_uuid, error in rejections.items():
                query = update(tasks).where(tasks.c.task_uuid == task_uuid, tasks.c.account == account)
                connection.execute(query.values(rejection=json.dumps(error)))

    def find(self, task_uuids: Iterable[str]) -> dict[str, Task]:
        """The tasks of these UUIDs that were ever accepted."""
        wanted = sorted(set(task_uuids))
        with self._read() as connection:
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
        with self._read() as connection:
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
        with self._begin() as connection:
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
        with self._begin() as connection:
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
        with self._read() as connection:
            return read_billing(connection)

    # -- files -----------------------------------------------------------------------------------------------

    def result_path(self, result_uuid: str) -> Path:
        """Where the GLB of a result lies."""
        return self.folder / "files" / f"{result_uuid}.glb"

    def media_path(self, sha256: str) -> Path:
        """Where uploaded bytes lie."""
        return self.folder / "media" / sha256

    def write(self, path: Path, data: bytes) -> None:
        """Write a file so that after a power cut it is either whole or not there."""
        try:
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            if hasattr(os, "O_DIRECTORY"):
                handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error

    def expire_files(self, now: float) -> int:
        """Delete files whose time is over; gives how many."""
        query = select(results.c.result_uuid).where(
            results.c.expires_at < now, results.c.file_bytes.is_not(None)
        )
        with self._read() as connection:
            old = list(connection.execute(query.limit(1000)).scalars())
        for result_uuid in old:
            self.result_path(result_uuid).unlink(missing_ok=True)
        if old:
            with self._begin() as connection:
                connection.execute(
                    update(results).where(results.c.result_uuid.in_(old)).values(file_bytes=None)
                )
        return len(old)

    # -- media -----------------------------------------------------------------------------------------------

    def add_media(self, media_uuid: str, account: str, data: bytes, mime: str) -> str:
        """Keep a picture; gives the name it has from now on.

        The same bytes of the same account keep the name they got first, and are kept for another month.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.media_path(sha256).exists():
            self.write(self.media_path(sha256), data)
        now = time.time()
        with self._begin() as connection:
            same = (media.c.account == account) & (media.c.sha256 == sha256)
            known = connection.execute(
                update(media).where(same).values(at=now).returning(media.c.media_uuid)
            ).scalars()
            for name in known:
                return str(name)
            row = {"media_uuid": media_uuid, "account": account, "sha256": sha256, "mime": mime, "at": now}
            connection.execute(insert(media), row)
        return media_uuid

    def expire_media(self, before: float) -> None:
        """Forget uploads that were last used before this time."""
        with self._read() as connection:
            query = select(media.c.media_uuid, media.c.account).where(media.c.at < before).limit(1000)
            old = connection.execute(query).all()
        for row in old:
            self.delete_media(row.media_uuid, row.account)

    def find_media(self, media_uuid: str, accounts: Sequence[str] = ()) -> tuple[str, str] | None:
        """(sha256, MIME type) of a picture, None if there is none of that name. accounts: none for any."""
        query = select(media.c.sha256, media.c.mime).where(media.c.media_uuid == media_uuid)
        if accounts:
            query = query.where(media.c.account.in_(accounts))
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.sha256, row.mime)

    def delete_media(self, media_uuid: str, account: str) -> bool:
        """Forget an upload; its bytes go with the last name they have."""
        with self._begin() as connection:
            query = delete(media).where(media.c.media_uuid == media_uuid, media.c.account == account)
            sha256 = connection.execute(query.returning(media.c.sha256)).scalar()
            if sha256 is None:
                return False
            others = connection.execute(select(func.count()).where(media.c.sha256 == sha256)).scalar_one()
        if others == 0:
            self.media_path(sha256).unlink(missing_ok=True)
        return True

    # -- deliveries ------------------------------------------------------------------------------------------

    def due_deliveries(self, now: float, most: int = 100) -> list[Delivery]:
        """Deliveries whose time has come, oldest first."""
        query = select(deliveries).where(deliveries.c.due_at <= now).order_by(deliveries.c.due_at).limit(most)
        with self._read() as connection:
            return [Delivery(**row._mapping) for row in connection.execute(query)]

    def next_delivery_at(self) -> float | None:
        """When the next delivery is due."""
        with self._read() as connection:
            return connection.execute(select(func.min(deliveries.c.due_at))).scalar()

    def count_deliveries(self) -> int:
        """How many deliveries are not yet made."""
        with self._read() as connection:
            return connection.execute(select(func.count(deliveries.c.seq))).scalar_one()

    def postpone(self, seq: int, attempts: int, due_at: float) -> None:
        """Try a delivery again later."""
        with self._begin() as connection:
            query = update(deliveries).where(deliveries.c.seq == seq)
            connection.execute(query.values(attempts=attempts, due_at=due_at))

    def end_delivery(self, seq: int) -> None:
        """A delivery arrived, or was given up."""
        with self._begin() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.seq == seq))

    def check(self) -> None:
        """Raises StorageUnavailable where the database cannot be written."""
        with self._begin() as connection:
            connection.execute(update(tasks).where(tasks.c.seq == -1).values(account=""))

    # -- transactions ----------------------------------------------------------------------------------------

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(self.folder, error) from None

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(read_only=True) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(self.folder, error) from None


def read_billing(connection: Connection) -> list[BilledResult]:
    """The billing log, read through any connection to the service's database."""
    rows = connection.execute(
        select(billing.c.task_uuid, billing.c.result_uuid, billing.c.cost).order_by(billing.c.seq)
    )
    return [BilledResult(row.task_uuid, row.result_uuid, row.cost) for row in rows]


def read_accepted(connection: Connection) -> list[str]:
    """UUIDs of all tasks ever accepted, in their order."""
    return list(connection.execute(select(tasks.c.task_uuid).order_by(tasks.c.seq)).scalars())


def open_database(folder: Path) -> Engine:
    """Another connection to a service's database, for looking at it from outside."""
    return connect(parse_url(f"sqlite:///{(folder / 'service.sqlite').absolute()}"))


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


def _unavailable(folder: Path, error: SQLAlchemyError) -> StorageUnavailable:
    reason = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0][:200]
    return StorageUnavailable(f"the service's database in {folder} cannot be used: {reason}")


def _hold(path: Path) -> BinaryIO:
    """Hold the folder for as long as the file is open; the system lets go of it when the process dies."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; there, two services in one folder are the user's affair
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"another service is using {path.parent}; stop it, or give this one a folder of its own"
        ) from None
    return file


def _secret(path: Path) -> bytes:
    """The key that signs links to files, made once for each folder, which is held by now."""
    if not path.exists():
        temporary = path.with_suffix(".part")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return path.read_bytes()
