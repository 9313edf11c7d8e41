"""A `3dInference` task as it goes over the wire, for whoever sends one and for whoever takes one.

The result-shaping part is `GenerationRequest`; what is added here is how the picture comes in, how the answer
goes out, and the name under which both sides know the task. The client builds tasks with `task_json`, a
server takes them apart with `parse_task`; one is the inverse of the other, so the two cannot drift.

Secrets travel in these fields: upload endpoints and webhook addresses are presigned, pictures are the
user's. No fault ever quotes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from trellis_pipeline.errors import FieldFault, RequestInvalid
from trellis_pipeline.generation.request import GenerationRequest, GenerationSettings
from trellis_pipeline.generation.wire_faults import OWN_RULE, FaultFinder, kind_of
from trellis_pipeline.generation.wire_image import image_form, is_http_url

UUID_4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
"""The canonical spelling (RFC 9562 §4), the only one the API document shows."""


def _uuid_4(value: str) -> str:
    if not UUID_4.fullmatch(value):
        raise PydanticCustomError(
            OWN_RULE, "must be a UUID v4, for example 0b6f6f0e-2a51-4c3b-9f0e-5d1f8f3b7a11"
        )
    return value


def _http_url(value: str) -> str:
    if not is_http_url(value):
        raise PydanticCustomError(OWN_RULE, "must be an absolute http or https URL")
    return value


def _image(value: str) -> str:
    try:
        image_form(value)
    except RequestInvalid as error:
        raise PydanticCustomError(OWN_RULE, "{why}", {"why": error.faults[0].message}) from None
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]

INFERENCE = "3dInference"
"""The task type of what makes a model; the only one that is billed."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class TaskInputs(BaseModel):
    """What the model looks at. image: see `image_form`."""

    model_config = _FROZEN

    image: Annotated[str, AfterValidator(_image)] = Field(repr=False)


class InferenceTask(BaseModel):
    """One task, every field of the API document's request table with its default.

    seed: None leaves the choice to the server. ttl: seconds for which result URLs stay valid.
    """

    model_config = _FROZEN

    taskType: Literal["3dInference"]  # noqa: N815 - the wire's names, here and below
    taskUUID: Annotated[str, AfterValidator(_uuid_4)]  # noqa: N815
    model: Literal["microsoft:trellis-2@4b"]
    inputs: TaskInputs
    outputType: Literal["URL"] = "URL"  # noqa: N815
    outputFormat: Literal["GLB"] = "GLB"  # noqa: N815
    webhookURL: HttpUrl | None = Field(default=None, repr=False)  # noqa: N815
    deliveryMethod: Literal["sync", "async"] = "async"  # noqa: N815
    uploadEndpoint: HttpUrl | None = Field(default=None, repr=False)  # noqa: N815
    ttl: Annotated[int, Field(ge=60)] | None = None
    includeCost: bool = False  # noqa: N815
    numberResults: Annotated[int, Field(ge=1, le=4)] = 1  # noqa: N815
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    settings: GenerationSettings = GenerationSettings()

    def request(self, seed: int) -> GenerationRequest:
        """The result-shaping part with this seed, which the caller draws where the task names none."""
        return GenerationRequest(
            model=self.model, seed=seed, numberResults=self.numberResults, settings=self.settings
        )


_FINDER = FaultFinder(InferenceTask)
FIELDS = _FINDER.fields
"""Every path of a task, groups included: `taskType`, `settings`, `settings.texSlat.steps`, ..."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the answer shall come back. It does not shape the model, so it is no part of a request's key.

    method: `async` answers at once and is polled; `sync` holds the connection open until the model is done.
    ttl_seconds: how long result URLs live, 60 or more; None leaves the provider's default. upload_endpoint:
    a presigned URL to PUT the file to.
    """

    method: Literal["sync", "async"] = "async"
    webhook_url: str | None = None
    upload_endpoint: str | None = None
    ttl_seconds: int | None = None

    def __repr__(self) -> str:
        """Without the addresses, which carry signatures and tokens."""
        return f"Delivery(method={self.method!r}, ttl_seconds={self.ttl_seconds})"


def task_json(
    request: GenerationRequest, task_uuid: str, image: str, delivery: Delivery = Delivery()
) -> dict[str, Any]:
    """The task as a client sends it: the request, the picture, the delivery, and the cost always asked for.

    image: in one of the forms of `image_form`. Raises RequestInvalid for anything that the API document
    does not take, and for several results with one upload endpoint: each would overwrite the one before.
    """
    data: dict[str, Any] = {
        "taskType": INFERENCE,
        "taskUUID": task_uuid,
        "deliveryMethod": delivery.method,
        "outputType": "URL",
        "outputFormat": "GLB",
        "includeCost": True,
        "inputs": {"image": image},
        **request.wire(),
    }
    optional = {
        "webhookURL": delivery.webhook_url,
        "uploadEndpoint": delivery.upload_endpoint,
        "ttl": delivery.ttl_seconds,
    }
    data |= {name: value for name, value in optional.items() if value is not None}
    if request.numberResults > 1 and delivery.upload_endpoint is not None:
        message = (
            f"{request.numberResults} results cannot share one uploadEndpoint; ask for 1, or leave it out"
        )
        raise RequestInvalid([FieldFault("numberResults", message, "incompatibleParameters", ("1",))])
    parse_task(data)
    return data


def parse_task(data: object) -> InferenceTask:
    """Take a task apart that arrived as JSON data. Types are strict: "7" is no number, 1 is not true.

    Raises RequestInvalid with one fault per wrong field, whatever `data` is.
    """
    if not isinstance(data, Mapping):
        raise RequestInvalid([FieldFault("task", f"must be an object, not {kind_of(data)}", "invalidTask")])
    try:
        return InferenceTask.model_validate(data, strict=True)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
    raise RequestInvalid(_FINDER.faults(found))
