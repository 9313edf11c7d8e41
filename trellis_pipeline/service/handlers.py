"""What each task type does. Nothing here knows HTTP: a task comes in as JSON data, items and errors go out.

3dInference tasks of one request are accepted together, in one transaction, and only then acknowledged.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.errors import FieldFault, RequestInvalid, SourceImageError
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.generation.wire import InferenceTask, parse_task
from trellis_pipeline.generation.wire_image import image_form, inline_image
from trellis_pipeline.imagery.fetch import FetchLimits, fetch_image
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.deliveries import Deliveries
from trellis_pipeline.service.inputs import check_picture
from trellis_pipeline.service.messages import (
    INFERENCE,
    Json,
    Reply,
    acknowledgement,
    error,
    failure,
    invalid,
    processing,
    success,
)
from trellis_pipeline.service.options import price_of
from trellis_pipeline.service.store import NewTask, Outcome, Task
from trellis_pipeline.service.workers import Workers

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
BUSY_SECONDS = 5
ORGANIZATION = str(uuid.uuid5(uuid.NAMESPACE_DNS, "trellis-pipeline.invalid"))
SEEDS = 2**63
"""Seeds are below this. A random one is below 2^32, as the API document says."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and how they reach us. dry_run: they only want to know what would happen."""

    account: str
    base_url: str
    dry_run: bool = False


class Handlers:
    """Answers to the tasks of one request at a time."""

    def __init__(self, backend: Backend, workers: Workers, deliveries: Deliveries) -> None:
        self._backend = backend
        self._workers = workers
        self._deliveries = deliveries
        self._types: dict[str, Callable[[Json, Caller, Reply], Awaitable[None]]] = {
            "ping": self._ping,
            "getResponse": self._get_response,
            "getTaskDetails": self._get_task_details,
            "imageUpload": self._image_upload,
            "mediaStorage": self._media_storage,
            "accountManagement": self._account_management,
        }

    @property
    def task_types(self) -> tuple[str, ...]:
        """Everything that `taskType` may be, authentication apart."""
        return (INFERENCE, *self._types)

    async def answer(self, asked: list[Json], caller: Caller, reply: Reply) -> None:
        """Carry out the tasks of a request, each by itself: one that is wrong does not stop the others."""
        new: list[tuple[InferenceTask, NewTask]] = []
        polled: list[Json] = []
        for task in asked:
            task_type = task.get("taskType")
            known = isinstance(task_type, str) and task_type in self.task_types
            self._backend.metrics.requests.labels(task_type if known else "unknown").inc()
            try:
                if task_type == INFERENCE:
                    new.append(await self._prepare(task, caller))
                elif task_type == "getResponse":
                    polled.append(task)
                elif known:
                    await self._types[str(task_type)](task, caller, reply)
                else:
                    raise RequestInvalid([self._unknown_type(task_type)])
            except RequestInvalid as problem:
                reply.refuse(*invalid(problem, task))
        if polled:
            await self._poll(polled, caller, reply)
        if new and caller.dry_run:
            self._quote(new, reply)
        elif new:
            await self._accept(new, caller, reply)

    def _unknown_type(self, task_type: object) -> FieldFault:
        if task_type is None:
            return FieldFault("taskType", "is required", "missingParameter", self.task_types)
        return FieldFault("taskType", "is not one of this service's", "unsupportedTaskType", self.task_types)

    # -- 3dInference -----------------------------------------------------------------------------------------

    async def _prepare(self, task: Json, caller: Caller) -> tuple[InferenceTask, NewTask]:
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
            result_uuids=tuple(task_uuid(wanted.taskUUID, number) for number in range(count)),
            quote=price_of(self._backend.options, wanted.request(first), None) or ZERO,
        )

    async def _image_name(self, image: str, caller: Caller) -> str:
        """A name for the picture: its URL, or the UUID under which it is kept."""
        form = image_form(image)
        store = self._backend.store
        if form == "uuid":
            owners = [caller.account, inline_owner(caller.account)]
            if await self._backend.read(store.find_media, image, owners) is None:
                raise RequestInvalid([FieldFault("inputs.image", "no upload has this UUID", "mediaNotFound")])
            return image
        if form == "url":
            return image
        if caller.dry_run:
            check_picture(inline_image(image), self._backend.options, "inputs.image")
            return image
        return await self._keep(inline_image(image), inline_owner(caller.account), "inputs.image")

    async def _keep(self, picture: bytes, account: str, path: str) -> str:
        """Keep a picture under a UUID, the one it has if it was sent before. Raises RequestInvalid."""
        store = self._backend.store
        mime = check_picture(picture, self._backend.options, path)
        return await self._backend.write(store.add_media, str(uuid.uuid4()), account, picture, mime)

    def _quote(self, new: list[tuple[InferenceTask, NewTask]], reply: Reply) -> None:
        for wanted, task in new:
            item: Json = {**acknowledgement(task.task_uuid), "dryRun": True}
            if self._backend.options.price is not None:
                item["cost"] = task.quote * wanted.numberResults
            reply.data.append(item)

    async def _accept(self, new: list[tuple[InferenceTask, NewTask]], caller: Caller, reply: Reply) -> None:
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
        waiting: list[str] = []
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
                self._workers.add(task.task_uuid, number)
            if wanted.deliveryMethod == "sync" and not wanted.webhookURL:
                waiting.append(task.task_uuid)
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

    async def _wait(self, task_uuids: list[str], caller: Caller, reply: Reply) -> None:
        """Hold the request open until its sync tasks have ended.

        A task that takes too long is not failed: the error names no task, as its outcome is still open.
        """
        seconds = self._backend.options.sync_seconds
        in_time = await asyncio.gather(*(self._workers.ended(one, seconds) for one in task_uuids))
        found = await self._backend.read(self._backend.store.find, task_uuids)
        for one, ended in zip(task_uuids, in_time, strict=True):
            if ended:
                self._show(found[one], caller, reply, status=False)
            else:
                message = f"a sync task is not done after {seconds:g} s; it goes on, poll it with getResponse"
                reply.refuse(error("providerGatewayTimeout", message, task_type=INFERENCE))

    # -- looking at tasks ------------------------------------------------------------------------------------

    async def _get_response(self, task: Json, caller: Caller, reply: Reply) -> None:
        await self._poll([task], caller, reply)

    async def _poll(self, asked: list[Json], caller: Caller, reply: Reply) -> None:
        """All polls of a request with one look at the database. A UUID that we do not know gives no item."""
        wanted: list[str] = []
        for task in asked:
            try:
                wanted.append(_uuid_of(task))
            except RequestInvalid as problem:
                reply.refuse(*invalid(problem, task))
        found = await self._backend.read(self._backend.store.find, wanted)
        known = [found[one] for one in dict.fromkeys(wanted) if one in found]
        for one in known:
            if one.account == caller.account:
                self._show(one, caller, reply)
        reply.asked |= bool(wanted)

    def _show(self, task: Task, caller: Caller, reply: Reply, *, status: bool = True) -> None:
        """All results of a task as they stand: finished ones come with every poll."""
        for result in task.results:
            if result.state == "queued":
                share = self._workers.progress(task.task_uuid, result.number)
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

    async def _get_task_details(self, task: Json, caller: Caller, reply: Reply) -> None:
        """The original task and the last answer it got, which after a repeated submit is its rejection."""
        asked = _uuid_of(task)
        found = (await self._backend.read(self._backend.store.find, [asked])).get(asked)
        if found is None or found.account != caller.account:
            message = "no task of this account has this taskUUID"
            reply.refuse(
                error("taskNotFound", message, task_type="getTaskDetails", task_uuid=asked,
                      parameter="taskUUID")
            )  # fmt: skip
            return
        response: Json
        if found.rejection:
            response = {"errors": [found.rejection]}
        else:
            shown = Reply()
            self._show(found, caller, shown)
            response = {"data": shown.data} | ({"errors": shown.verdicts} if shown.verdicts else {})
        reply.data.append(
            {
                "taskType": "getTaskDetails",
                "taskUUID": asked,
                "request": [found.payload],
                "response": response,
            }
        )

    # -- the rest --------------------------------------------------------------------------------------------

    async def _ping(self, task: Json, _caller: Caller, reply: Reply) -> None:
        reply.data.append({"taskType": "ping", **_echo(task), "pong": True})

    async def _image_upload(self, task: Json, caller: Caller, reply: Reply) -> None:
        media_uuid = await self._store_media(task, "image", caller)
        reply.data.append(
            {
                "taskType": "imageUpload",
                **_echo(task),
                "imageUUID": media_uuid,
                "imageURL": self._media_url(media_uuid, caller),
            }
        )

    async def _media_storage(self, task: Json, caller: Caller, reply: Reply) -> None:
        operation = task.get("operation")
        item: Json = {"taskType": "mediaStorage", **_echo(task), "operation": operation}
        if operation == "upload":
            item["mediaUUID"] = await self._store_media(task, "media", caller)
            item["mediaURL"] = self._media_url(item["mediaUUID"], caller)
        elif operation == "delete":
            item["mediaUUID"] = name = _text(task, "media")
            if not await self._backend.write(self._backend.store.delete_media, name, caller.account):
                raise RequestInvalid([FieldFault("media", "no upload has this UUID", "mediaNotFound")])
        else:
            raise RequestInvalid([_operation_fault(operation, ("upload", "delete"))])
        reply.data.append(item)

    async def _store_media(self, task: Json, field: str, caller: Caller) -> str:
        """Keep what a task uploads: by URL, data URI or base64."""
        text = _text(task, field)
        try:
            if image_form(text) == "uuid":
                raise RequestInvalid(
                    [FieldFault(field, "is a UUID; send the picture itself", "invalidImage")]
                )
            if image_form(text) == "url":
                options = self._backend.options
                limits = FetchLimits(
                    max_bytes=options.max_image_bytes, allow_private_addresses=options.allow_private_addresses
                )
                picture = await fetch_image(text, limits)
            else:
                picture = inline_image(text)
        except SourceImageError as problem:
            raise RequestInvalid([FieldFault(field, str(problem), "downloadFailed")]) from None
        except RequestInvalid as problem:
            faults = [FieldFault(field, fault.message, fault.code) for fault in problem.faults]
            raise RequestInvalid(faults) from None
        return await self._keep(picture, caller.account, field)

    def _media_url(self, media_uuid: str, caller: Caller) -> str:
        return self._backend.media_url(media_uuid, caller.base_url)

    async def _account_management(self, task: Json, _caller: Caller, reply: Reply) -> None:
        if task.get("operation") != "getDetails":
            raise RequestInvalid([_operation_fault(task.get("operation"), ("getDetails",))])
        backend = self._backend
        reply.data.append(
            {
                "taskType": "accountManagement",
                **_echo(task),
                "operation": "getDetails",
                "organizationName": "trellis-pipeline",
                "organizationUUID": ORGANIZATION,
                "balance": {"amount": backend.balance, "freeBalance": Decimal(0), "currency": "USD"},
                "team": [],
                "apiKeys": [],
                "usage": {
                    "total": {"credits": backend.store.billed_usd, "requests": backend.store.billed_count}
                },
            }
        )


def inline_owner(account: str) -> str:
    """Who owns pictures that came inside tasks: deleting an upload must not take them from their task."""
    return f"{account}/inline"


def _echo(task: Json) -> Json:
    """The task's UUID, if it has one."""
    given = task.get("taskUUID")
    return {"taskUUID": given[:100]} if isinstance(given, str) else {}


def _text(task: Json, field: str) -> str:
    value = task.get(field)
    if value is None:
        raise RequestInvalid([FieldFault(field, "is required", "missingParameter")])
    if not isinstance(value, str):
        raise RequestInvalid([FieldFault(field, "must be a string", "invalidType")])
    return value


def _uuid_of(task: Json) -> str:
    text = _text(task, "taskUUID")
    if not UUID.fullmatch(text):
        raise RequestInvalid([FieldFault("taskUUID", "must be a UUID", "invalidValue")])
    return text


def _operation_fault(operation: object, allowed: tuple[str, ...]) -> FieldFault:
    if operation is None:
        return FieldFault("operation", "is required", "missingParameter", allowed)
    return FieldFault("operation", "is not one of this task's", "invalidValue", allowed)
