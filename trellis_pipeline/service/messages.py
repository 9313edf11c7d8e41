"""What the service says: items, errors in the documented structure, and the HTTP status that goes with them.

Clients are told to decide by `code`; the status follows it. A task's own verdict travels with status 200: the
request that asked for it was fine. An empty `errors` is left out, because some clients take the bare presence
of the key for a failure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from trellis_pipeline.errors import RequestInvalid
from trellis_pipeline.generation.wire import INFERENCE
from trellis_pipeline.service.records import Json, Result, Task

DOCUMENTATION = "https://runware.ai/docs/models/microsoft-trellis-2"

# Every code that the service answers, as docs/reference/errors.md explains it. 200: only ever said about a
# task that was accepted before; 400: the client's mistake, which also holds for whatever is not listed.
STATUS = {
    "inferenceError": 200,
    "invalidInput": 200,
    "mediaExpired": 200,
    "processingFailed": 200,
    "arrayTooLarge": 400,
    "conflictTaskUUID": 400,
    "downloadFailed": 400,
    "incompatibleParameters": 400,
    "invalidImage": 400,
    "invalidJSON": 400,
    "invalidModel": 400,
    "invalidRequest": 400,
    "invalidType": 400,
    "invalidValue": 400,
    "missingParameter": 400,
    "unknownParameter": 400,
    "unsupportedTaskType": 400,
    "missingApiKey": 401,
    "invalidApiKey": 401,
    "insufficientCredits": 402,
    "taskNotFound": 404,
    "mediaNotFound": 404,
    "forbidden": 403,
    "requestTimeout": 408,
    "requestTooLarge": 413,
    "unsupportedMediaType": 415,
    "rateLimitExceeded": 429,
    "internalServerError": 500,
    "serviceUnavailable": 503,
    "providerGatewayTimeout": 504,
}


@dataclass(slots=True)
class Reply:
    """What one request will be answered.

    errors: about the request. verdicts: about tasks that were accepted earlier. asked: something was looked
    up, so that an empty answer is one too. retry_after: seconds.
    """

    data: list[Json] = field(default_factory=list)
    errors: list[Json] = field(default_factory=list)
    verdicts: list[Json] = field(default_factory=list)
    asked: bool = False
    retry_after: int | None = None

    def refuse(self, *errors: Json) -> None:
        """Add errors about the request itself."""
        self.errors.extend(errors)

    @property
    def status(self) -> int:
        """200 as soon as one task was fine or got its verdict, else that of the first error."""
        if self.errors and not (self.data or self.verdicts or self.asked):
            return STATUS.get(str(self.errors[0].get("code")), 400)
        return 200

    @property
    def body(self) -> bytes:
        """The envelope as JSON."""
        envelope: Json = {"data": self.data}
        if self.verdicts or self.errors:
            envelope["errors"] = self.verdicts + self.errors
        return encode(envelope)


def encode(value: Any) -> bytes:
    """JSON, ASCII only. Dollars (Decimal) become numbers: nine places and six digits fit a double."""
    return json.dumps(value, default=_number, separators=(",", ":"), allow_nan=False).encode("ascii")


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def error(
    code: str,
    message: str,
    *,
    task_type: object = None,
    task_uuid: object = None,
    parameter: str | Sequence[str] | None = None,
    allowed: Sequence[str] = (),
    documentation: str = "",
) -> Json:
    """One error object. What is not known is left out; values that are not strings are not echoed."""
    said: Json = {"code": code, "message": message}
    if parameter:
        said["parameter"] = parameter if isinstance(parameter, str) else list(parameter)
    if isinstance(task_type, str):
        said["taskType"] = task_type[:100]
    if isinstance(task_uuid, str):
        said["taskUUID"] = task_uuid[:100]
    if documentation:
        said["documentation"] = documentation
    if allowed:
        said["allowedValues"] = list(allowed)
    return said


def invalid(problem: RequestInvalid, task: Json) -> list[Json]:
    """One error for each field that is wrong."""
    return [
        error(
            fault.code,
            str(fault),
            task_type=task.get("taskType"),
            task_uuid=task.get("taskUUID"),
            parameter=fault.path,
            allowed=fault.allowed,
            documentation=f"{DOCUMENTATION}#request-{fault.path.lower().replace('.', '-')}"
            if task.get("taskType") == INFERENCE and fault.path.isascii()
            else "",
        )
        for fault in problem.faults
    ]


def acknowledgement(task_uuid: str) -> Json:
    """The answer to an accepted async task."""
    return {"taskType": INFERENCE, "taskUUID": task_uuid}


def success(task: Task, result: Result, url: str, *, status: bool = True) -> Json:
    """The item of a finished result, in both of the document's shapes.

    Its examples show `outputs.files`, its table of the response has `modelUUID` (required) and `modelURL`: a
    client may have been written from either. status: False in sync replies, which have none. Several results
    of one task are told apart by their file's UUID; `resultIndex` helps clients that look for it.
    """
    item: Json = {"taskType": INFERENCE, "taskUUID": task.task_uuid}
    if status:
        item["status"] = "success"
    if len(task.results) > 1:
        item["resultIndex"] = result.number
    item["seed"] = result.seed
    if task.payload.get("includeCost") and result.cost is not None:
        item["cost"] = result.cost
    item |= {"modelUUID": result.result_uuid, "modelURL": url}
    item["outputs"] = {"files": [{"uuid": result.result_uuid, "url": url}]}
    return item


def processing(task: Task, result: Result, share: float) -> Json:
    """The item of a result that is still being made. share: 0 to 1."""
    item: Json = {"taskType": INFERENCE, "taskUUID": task.task_uuid, "status": "processing"}
    if len(task.results) > 1:
        item["resultIndex"] = result.number
    item["progress"] = max(0, min(99, int(share * 100)))
    return item


def failure(task: Task, result: Result) -> Json:
    """The error of a failed result, addressed to its task."""
    said = result.error or {"code": "inferenceError", "message": "the generation failed"}
    item = error(said["code"], said["message"], task_type=INFERENCE, task_uuid=task.task_uuid)
    if len(task.results) > 1:
        item["resultIndex"] = result.number
    return item
