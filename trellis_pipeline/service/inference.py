"""The task this service is for: 3dInference, from the check of its fields to what is shown of its results.

Tasks of one request are accepted together, in one transaction, and only then acknowledged.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass

from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.errors import FieldFault, RequestInvalid
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.generation.wire import INFERENCE, InferenceTask, parse_task
from trellis_pipeline.generation.wire_image import image_form, inline_image
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.deliveries import Deliveries
from trellis_pipeline.service.inputs import check_picture
from trellis_pipeline.service.media import inline_owner, owners
from trellis_pipeline.service.messages import (
    Reply,
    acknowledgement,
    error,
    failure,
    processing,
    success,
)
from trellis_pipeline.service.options import price_of
from trellis_pipeline.service.records import Json, NewTask, Task, TaskKey
from trellis_pipeline.service.store import Outcome
from trellis_pipeline.service.workers import Workers

BUSY_SECONDS = 5
SEEDS = 2**63
"""Seeds are below this. A random one is below 2^32, as the API document says."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and how they reach us. dry_run: they only want to know what would happen."""

    account: str
    base_url: str
    dry_run: bool = False


class Inference:
    """Takes tasks in and shows how they stand."""

    def __init__(self, backend: Backend, workers: Workers, deliveries: Deliveries) -> None:
        self._backend = backend
        self._workers = workers
        self._deliveries = deliveries

    async def prepare(self, task: Json, caller: Caller) -> tuple[InferenceTask, NewTask]:
        """Check one task, keep its picture, and choose its seeds. Raises RequestInvalid."""
        wanted = parse_task(task)
        if wanted.uploadEndpoint and wanted.numberResults > 1:
            raise RequestInvalid(
                [FieldFault("uploadEndpoint", "takes one file, so numberResults must be 1",
                            "incompatibleParameters")]
            )  # fmt: skip
        payload = dict(task)
        image = await self._image_name(wanted.inputs.image, caller)
        payload["inputs"] = {**task["inputs"], "image": image}
        first = secrets.randbelow(2**32) if wanted.seed is None else wanted.seed
        count = wanted.numberResults
        return wanted, NewTask(
            task_uuid=wanted.taskUUID,
            account=caller.account,
            payload=payload,
            base_url=caller.base_url,
            seeds=tuple((first + number) % SEEDS for number in range(count)),
            # They name files, which two accounts with the same taskUUID must not share.
            result_uuids=tuple(
                task_uuid(f"{caller.account}/{wanted.taskUUID}", number) for number in range(count)
            ),
            quote=price_of(self._backend.options, wanted.request(first), None) or ZERO,
        )

    async def _image_name(self, image: str, caller: Caller) -> str:
        """A name for the picture: its URL, or the UUID under which it is kept."""
        form = image_form(image)
        if form == "uuid":
            if not await self._backend.write(self._backend.media.use, image, owners(caller.account)):
                raise RequestInvalid([FieldFault("inputs.image", "no upload has this UUID", "mediaNotFound")])
            return image
        if form == "url":
            return image
        if caller.dry_run:
            check_picture(inline_image(image), self._backend.options, "inputs.image")
            return image
        return await self.keep(inline_image(image), inline_owner(caller.account), "inputs.image")

    async def keep(self, picture: bytes, account: str, path: str) -> str:
        """Keep a picture under a UUID, the one it has if it was sent before. Raises RequestInvalid."""
        mime = check_picture(picture, self._backend.options, path)
        return await self._backend.write(self._backend.media.add, str(uuid.uuid4()), account, picture, mime)

    def quote(self, new: list[tuple[InferenceTask, NewTask]], reply: Reply) -> None:
        """What tasks would cost, where that is known before."""
        for wanted, task in new:
            item: Json = {**acknowledgement(task.task_uuid), "dryRun": True}
            if self._backend.options.price is not None:
                item["cost"] = task.quote * wanted.numberResults
            reply.data.append(item)

    async def accept(self, new: list[tuple[InferenceTask, NewTask]], caller: Caller, reply: Reply) -> None:
        """Take tasks in. What is acknowledged here is on the disk."""
        backend, options = self._backend, self._backend.options
        for wanted, task in new:
            if wanted.webhookURL:
                self._deliveries.early(task.task_uuid, wanted.webhookURL)
        outcomes = await backend.write(
            backend.store.accept,
            [task for _, task in new],
            credit_usd=options.credit_usd,
            max_queue=options.max_queue,
        )
        conflicts: dict[str, Json] = {}
        waiting: list[TaskKey] = []
        for (wanted, task), outcome in zip(new, outcomes, strict=True):
            if outcome != "accepted":
                refusal = self._refusal(task, outcome)
                reply.refuse(refusal)
                if outcome == "conflict":
                    conflicts[task.task_uuid] = refusal
                elif outcome == "no_room":
                    reply.retry_after = BUSY_SECONDS
                continue
            backend.metrics.accepted.inc()
            for number in range(len(task.seeds)):
                self._workers.add(task.key, number)
            if wanted.deliveryMethod == "sync" and not wanted.webhookURL:
                waiting.append(task.key)
            else:
                reply.data.append(acknowledgement(task.task_uuid))
        if conflicts:
            await backend.write(backend.store.note_rejection, caller.account, conflicts)
        if waiting:
            await self._wait(waiting, caller, reply)

    def _refusal(self, task: NewTask, outcome: Outcome) -> Json:
        """Why a task was not taken."""
        store = self._backend.store
        if outcome == "conflict":
            code, parameter = "conflictTaskUUID", "taskUUID"
            message = (
                "this taskUUID was used before; poll it with getResponse, or choose another for a new task"
            )
        elif outcome == "no_credit":
            code, parameter = "insufficientCredits", ""
            left = max(ZERO, self._backend.balance - store.pending_usd)
            message = f"the account has {left.normalize():f} USD left that is not set aside; add credit"
        else:
            code, parameter = "rateLimitExceeded", ""
            message = f"{store.pending_count} results are under way already; come back later"
        return error(code, message, parameter=parameter, task_type=INFERENCE, task_uuid=task.task_uuid)

    async def _wait(self, waiting: list[TaskKey], caller: Caller, reply: Reply) -> None:
        """Hold the request open until its sync tasks have ended.

        A task that takes too long is not failed: the error names no task, as its outcome is still open.
        """
        seconds = self._backend.options.sync_seconds
        in_time = await asyncio.gather(*(self._workers.ended(one, seconds) for one in waiting))
        for one, ended in zip(waiting, in_time, strict=True):
            if ended:
                task = await self._backend.read(self._backend.store.get, one)
                self.show(task, caller, reply, status=False)
            else:
                message = f"a sync task is not done after {seconds:g} s; it goes on, poll it with getResponse"
                reply.refuse(error("providerGatewayTimeout", message, task_type=INFERENCE))

    def show(self, task: Task, caller: Caller, reply: Reply, *, status: bool = True) -> None:
        """All results of a task as they stand: finished ones come with every poll."""
        for result in task.results:
            if result.state == "queued":
                share = self._workers.progress(task.key, result.number)
                reply.data.append(processing(task, result, share))
            elif result.state == "failed":
                reply.verdicts.append(failure(task, result))
            elif not result.has_file:
                gone = "the file's time to live is over, and it was deleted"
                reply.verdicts.append(
                    error("mediaExpired", gone, task_type=INFERENCE, task_uuid=task.task_uuid)
                )
            else:
                url = self._backend.url(task, result, caller.base_url)
                reply.data.append(success(task, result, url, status=status))
