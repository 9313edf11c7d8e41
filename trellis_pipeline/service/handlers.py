"""What each task type does. Nothing here knows HTTP: a task comes in as JSON data, items and errors go out.

Each task of a request is answered by itself, so one that is wrong does not stop the others.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal

from trellis_pipeline.errors import FieldFault, RequestInvalid, SourceImageError
from trellis_pipeline.generation.wire import INFERENCE, InferenceTask
from trellis_pipeline.generation.wire_image import image_form, inline_image
from trellis_pipeline.imagery.fetch import fetch_image
from trellis_pipeline.imagery.fetch_limits import FetchLimits
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.deliveries import Deliveries
from trellis_pipeline.service.inference import Caller, Inference
from trellis_pipeline.service.messages import Reply, error, invalid
from trellis_pipeline.service.records import Json, NewTask
from trellis_pipeline.service.workers import Workers

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
ORGANIZATION = str(uuid.uuid5(uuid.NAMESPACE_DNS, "trellis-pipeline.invalid"))


class Handlers:
    """Answers to the tasks of one request at a time."""

    def __init__(self, backend: Backend, workers: Workers, deliveries: Deliveries) -> None:
        self._backend = backend
        self._inference = Inference(backend, workers, deliveries)
        self._types: dict[str, Callable[[Json, Caller, Reply], Awaitable[None]]] = {
            "ping": self._ping,
            "getTaskDetails": self._get_task_details,
            "imageUpload": self._image_upload,
            "mediaStorage": self._media_storage,
            "accountManagement": self._account_management,
        }

    @property
    def task_types(self) -> tuple[str, ...]:
        """Everything that `taskType` may be, authentication apart."""
        return (INFERENCE, "getResponse", *self._types)

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
                    new.append(await self._inference.prepare(task, caller))
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
            self._inference.quote(new, reply)
        elif new:
            await self._inference.accept(new, caller, reply)

    def _unknown_type(self, task_type: object) -> FieldFault:
        if task_type is None:
            return FieldFault("taskType", "is required", "missingParameter", self.task_types)
        return FieldFault("taskType", "is not one of this service's", "unsupportedTaskType", self.task_types)

    # -- looking at tasks ------------------------------------------------------------------------------------

    async def _poll(self, asked: list[Json], caller: Caller, reply: Reply) -> None:
        """All polls of a request with one look at the database. A UUID that we do not know gives no item."""
        wanted: list[str] = []
        for task in asked:
            try:
                wanted.append(_uuid_of(task))
            except RequestInvalid as problem:
                reply.refuse(*invalid(problem, task))
        found = await self._backend.read(self._backend.store.find, caller.account, wanted)
        for one in dict.fromkeys(wanted):
            if one in found:
                self._inference.show(found[one], caller, reply)
        reply.asked |= bool(wanted)

    async def _get_task_details(self, task: Json, caller: Caller, reply: Reply) -> None:
        """The original task and the last answer it got, which after a repeated submit is its rejection."""
        asked = _uuid_of(task)
        found = (await self._backend.read(self._backend.store.find, caller.account, [asked])).get(asked)
        if found is None:
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
            self._inference.show(found, caller, shown)
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
            if not await self._backend.write(self._backend.media.delete, name, caller.account):
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
        return await self._inference.keep(picture, caller.account, field)

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
