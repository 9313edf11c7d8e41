"""The API as functions: hand tasks in, ask about them, upload a picture, look at the balance.

Knows tasks and answers, and nothing of waiting, files or models. Whether a lost answer may be asked for again
is decided in `transport`; what an answer means, in `failures`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any

from trellis_pipeline.errors import OutcomeUnknown, ProviderBusy, ProviderRejected
from trellis_pipeline.generation.generator import MaySend, always
from trellis_pipeline.generation.runware.batches import Gathering
from trellis_pipeline.generation.runware.failures import Kind, clean_text, describe, kind_of, refusal
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.generation.runware.reply import ApiError, Item, Reply, read_envelope, text_of
from trellis_pipeline.generation.runware.transport import (
    MOST_WAIT_SECONDS,
    AnswerLost,
    NotSent,
    Purpose,
    Transport,
)
from trellis_pipeline.generation.runware.uploads import Uploads
from trellis_pipeline.generation.wire_image import data_uri

Task = dict[str, Any]

MOST_DIGITS = 15
"""Of an amount of money, before or behind the point. No account holds more, and no sum of such overflows."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What the account holds. free: the part that was given, where the provider says so."""

    amount: Decimal
    free: Decimal = Decimal(0)
    currency: str = "USD"


class RunwareClient:
    """One account at one server. Used from one event loop; `aclose` it, or use it as a context manager."""

    def __init__(self, options: RunwareOptions) -> None:
        self.options = options
        self.transport = Transport(options)
        self._submits = Gathering(self._send_tasks, options.tasks_per_request, options.gather_seconds)
        self._polls = Gathering(self._send_polls, options.polls_per_request, options.gather_seconds)
        self._uploads = Uploads(self._upload)

    async def __aenter__(self) -> RunwareClient:
        """Nothing is opened before it is needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Tasks at the provider go on, and can be asked about later."""
        await self._submits.aclose()
        await self._polls.aclose()
        await self.transport.aclose()

    async def submit(self, task: Task, may_send: MaySend = always, *, in_doubt: bool = False) -> Reply:
        """Hand one task in (see `wire.task_json`); returns what the answer says of it.

        The task is at the provider afterwards, also where the provider had it before (`conflictTaskUUID`). In
        sync delivery the answer holds the files already, or the verdict. may_send: see `Transport.call`.
        in_doubt: an earlier submit may have been accepted, whose verdict a failure here need not be.

        Raises ProviderRejected, ProviderBusy, OutOfCredit and ProviderRefusesAccess where the provider
        certainly does not have the task, OutcomeUnknown where it may.
        """
        task_uuid = task["taskUUID"]
        try:
            mine = await self._handed_in(task, may_send)
        except NotSent as error:
            raise ProviderBusy(f"Runware took no task ({error}); run again later") from None
        except AnswerLost as error:
            raise OutcomeUnknown(
                f"task {task_uuid} was sent and its answer got lost ({error}); ask for it before buying again"
            ) from None
        for stated in () if mine.items else mine.errors:
            kind = kind_of(stated)
            if kind in (Kind.SERVER, Kind.UNKNOWN) or (in_doubt and kind is Kind.FAILED):
                raise OutcomeUnknown(f"task {task_uuid}: {self._words(stated)}; ask before buying again")
            if kind not in (Kind.FAILED, Kind.CONFLICT):
                raise refusal(kind, self._words(stated))
        if not mine.items and not mine.errors:
            raise OutcomeUnknown(
                f"task {task_uuid}: the answer does not speak of it; ask before buying again"
            )
        return mine

    async def get_response(self, task_uuid: str) -> Reply:
        """What the provider says of a task now. Questions of several coroutines travel together.

        Empty for a task that it does not know, or not yet. Not repeated: polling is repetition already.
        Raises NotSent, AnswerLost, and the errors about the account.
        """
        return (await self._polls.ask(task_uuid)).of(task_uuid)

    async def get_task_details(self, task_uuid: str) -> Reply:
        """The archived last answer to a task, empty where there is none.

        Its trap: after a task was sent twice, the last answer is the refusal of the second, not the result.
        So it is asked after `get_response`, and its refusals are no verdicts.
        Raises NotSent, AnswerLost, and the errors about the account.
        """
        try:
            reply = await self.transport.call(
                [{"taskType": "getTaskDetails", "taskUUID": task_uuid}], Purpose.READ
            )
        except ProviderRejected:  # an unaddressed "no such task"
            return Reply(404)
        for item in reply.of(task_uuid).items:
            if isinstance(item.get("response"), dict):
                return read_envelope(200, item["response"]).of(task_uuid)
        return Reply(reply.status)

    async def upload(self, png: bytes, sha256: str) -> str:
        """The UUID under which the provider has this picture; uploaded once for each content hash.

        Raises ProviderBusy or ProviderRejected, and the errors about the account.
        """
        return await self._uploads.uuid_of(png, sha256)

    def forget_upload(self, sha256: str) -> None:
        """Upload this picture again next time."""
        self._uploads.forget(sha256)

    async def balance(self) -> Balance:
        """What the account holds. Raises ProviderBusy, and the errors about the account."""
        item = await self._ask({"taskType": "accountManagement", "operation": "getDetails"})
        stated = item.get("balance")
        if isinstance(stated, dict):
            amount, free = _dollars(stated.get("amount")), _dollars(stated.get("freeBalance"))
            currency = text_of(stated, "currency") or "USD"
        else:
            amount, free, currency = _dollars(stated), None, "USD"  # as older servers say it
        if amount is None:
            raise ProviderBusy("Runware's account details hold no balance that is a number; ask again later")
        return Balance(amount, free or Decimal(0), currency)

    async def ping(self) -> float:
        """Seconds to the provider and back. Raises ProviderBusy, and the errors about the account."""
        began = time.monotonic()
        await self._ask({"taskType": "ping", "ping": True})
        return time.monotonic() - began

    async def dry_run(self, task: Task) -> Item:
        """Have a task checked and priced, not carried out. Gives the provider's item as it is.

        The header is documented, the answer is not. Raises ProviderRejected where the task is invalid,
        ProviderBusy, and the errors about the account.
        """
        reply = await self._read([task], {"X-Runware-Dry-Run": "1"})
        for stated in reply.errors:
            raise refusal(kind_of(stated), self._words(stated))
        mine = reply.of(task["taskUUID"]).items or reply.items
        return mine[0] if mine else {}

    async def _handed_in(self, task: Task, may_send: MaySend) -> Reply:
        """What was answered to one task, sent again as long as it alone of its request is turned away.

        A request that is turned away as a whole is repeated by the transport. Raises what that raises.
        """
        for attempt in range(1, self.options.attempts + 1):
            mine = (await self._submits.ask((task, may_send))).of(task["taskUUID"])
            busy = next((e for e in mine.errors if kind_of(e) is Kind.BUSY and not mine.items), None)
            if busy is None:
                break
            turned_away = NotSent(self._words(busy), mine.retry_after)
            if attempt == self.options.attempts or (mine.retry_after or 0) > MOST_WAIT_SECONDS:
                raise turned_away
            await self.transport.pause(attempt, turned_away)
        return mine

    async def _send_tasks(self, wanted: Sequence[tuple[Task, MaySend]]) -> Reply:
        async def may_send() -> None:
            for _, ask in wanted:
                await ask()

        tasks = [task for task, _ in wanted]
        sync = any(task.get("deliveryMethod") == "sync" for task in tasks)
        seconds = self.options.sync_seconds if sync else self.options.call_seconds
        return await self.transport.call(tasks, Purpose.SUBMIT, seconds=seconds, may_send=may_send)

    async def _send_polls(self, task_uuids: Sequence[str]) -> Reply:
        polls = [{"taskType": "getResponse", "taskUUID": one} for one in dict.fromkeys(task_uuids)]
        return await self.transport.call(polls, Purpose.READ, attempts=1)

    async def _upload(self, png: bytes) -> str:
        item = await self._ask(
            {"taskType": "mediaStorage", "operation": "upload", "media": data_uri(png)}, Purpose.UPLOAD
        )
        name = text_of(item, "mediaUUID") or text_of(item, "imageUUID")
        if not name:
            raise ProviderBusy("Runware took the picture and named no UUID for it; run again later")
        return name

    async def _ask(self, task: Task, purpose: Purpose = Purpose.READ) -> Item:
        """A free task that is answered at once with one item."""
        task = {"taskUUID": str(uuid.uuid4()), **task}
        reply = await self._read([task], {}, purpose)
        mine = reply.of(task["taskUUID"])
        for stated in mine.errors:
            raise refusal(kind_of(stated), self._words(stated))
        items = mine.items or tuple(i for i in reply.items if i.get("taskType") == task["taskType"])
        if not items:
            raise ProviderBusy(f"Runware answered {task['taskType']} with nothing; run again later")
        return items[0]

    async def _read(
        self, tasks: Sequence[Task], headers: dict[str, str], purpose: Purpose = Purpose.READ
    ) -> Reply:
        try:
            return await self.transport.call(tasks, purpose, headers=headers)
        except (NotSent, AnswerLost) as error:
            raise ProviderBusy(f"Runware did not answer {tasks[0]['taskType']} ({error})") from None

    def _words(self, error: ApiError) -> str:
        return clean_text(describe(error), (self.options.api_key.reveal(),))


def _dollars(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    return amount if amount.is_finite() and abs(amount.adjusted()) < MOST_DIGITS else None
