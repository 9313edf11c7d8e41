"""TRELLIS.2 at Runware behind the common protocol: hand in, wait, fetch.

The two rules that keep it from costing twice: a task is known by a UUID that the caller chose and wrote down,
and whatever is not certain is said to be unknown. Deciding what to do about the unknown is the caller's, who
has the journal; see `purchasing.errand`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType

from trellis_pipeline.errors import (
    OutcomeUnknown,
    ProviderRejected,
    ResultLost,
    TaskFailed,
    TrellisError,
)
from trellis_pipeline.generation.generator import (
    GeneratedModel,
    GeneratorIdentity,
    InputImage,
    MaySend,
    Progress,
    always,
    no_progress,
)
from trellis_pipeline.generation.request import TRELLIS_2, GenerationRequest
from trellis_pipeline.generation.runware.client import RunwareClient, Task
from trellis_pipeline.generation.runware.failures import Kind, clean_text, describe, kind_of
from trellis_pipeline.generation.runware.fetching import Fetching
from trellis_pipeline.generation.runware.options import RunwareOptions, UploadSlot
from trellis_pipeline.generation.runware.reply import ApiError, Reply
from trellis_pipeline.generation.runware.results import ResultFile
from trellis_pipeline.generation.runware.seller import seller_of
from trellis_pipeline.generation.runware.view import TaskView, merged
from trellis_pipeline.generation.runware.waiting import Waiting
from trellis_pipeline.generation.wire import Delivery, task_json
from trellis_pipeline.generation.wire_image import data_uri
from trellis_pipeline.storage.store import BlobRef

log = logging.getLogger(__name__)

BUILD = "1"
"""Raised by hand when the provider announces another build of the model; its answers name none."""

_Submit = Callable[[Task], Awaitable[Reply]]


def identity_at(base_url: str) -> GeneratorIdentity:
    """Who makes a model that is bought there. Raises ConfigError for a URL that is no endpoint."""
    return GeneratorIdentity(seller_of(base_url), TRELLIS_2, BUILD)


class RunwareGenerator:
    """Implements `generation.generator.RemoteGenerator`. Used from one event loop; `aclose` it at the end."""

    paid = True
    builds_to_size = False
    at_once = None

    def __init__(self, options: RunwareOptions) -> None:
        self.options = options
        self.identity = identity_at(options.base_url)
        self.client = RunwareClient(options)
        self._fetching = Fetching(self.client, options)
        # What a submit was answered beyond an acknowledgement, until it is collected.
        self._answers: dict[str, Reply] = {}
        self._began: dict[str, float] = {}
        # Tasks that were not taken because their UUID is in use: mostly ours, of an earlier submit.
        self._in_use: set[str] = set()
        self._waiting = Waiting(self.client, options)
        self._slots: dict[str, UploadSlot] = {}

    async def __aenter__(self) -> RunwareGenerator:
        """Nothing is opened before it is needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Tasks at the provider go on and can be collected later."""
        await self._fetching.aclose()
        await self.client.aclose()

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        """Buy once under a new UUID, without a journal: a crash in here forgets what was bought.

        Raises what `submit` and `collect` raise.
        """
        task_uuid = str(uuid.uuid4())
        for attempt in range(3):
            try:
                await self.submit(task_uuid, request, image, in_doubt=attempt > 0)
                break
            except OutcomeUnknown:
                await asyncio.sleep(self.options.settle_seconds)
                if await self.knows(task_uuid):
                    break
                if attempt == 2:
                    raise
        return await self.collect(task_uuid, request, progress)

    async def submit(
        self, task_uuid: str, request: GenerationRequest, image: InputImage, webhook_url: str | None = None,
        *, may_send: MaySend = always, in_doubt: bool = False,
    ) -> None:  # fmt: skip
        """Hand the task in; returns when the provider has it, also if it had it before.

        may_send, in_doubt, and what is raised: see `RemoteGenerator.submit`.
        """
        delivery = Delivery(
            method=self.options.delivery,
            webhook_url=webhook_url,
            upload_endpoint=self._upload_endpoint(task_uuid, request),
            ttl_seconds=self.options.ttl_seconds,
        )
        self._began.setdefault(task_uuid, time.monotonic())
        try:
            submit = partial(self.client.submit, may_send=may_send, in_doubt=in_doubt)
            await self._hand_in_somehow(task_uuid, request, image, delivery, submit)
        except OutcomeUnknown:
            raise
        except TrellisError:
            self._forget(task_uuid)
            raise

    async def knows(self, task_uuid: str) -> bool:
        """Whether the provider has, or had, this task. False may also mean: not visible yet.

        Raises OutcomeUnknown where it cannot be asked, and the errors about the account.
        """
        return await self._waiting.knows(task_uuid)

    async def collect(
        self,
        task_uuid: str,
        request: GenerationRequest,
        progress: Progress = no_progress,
        hurry: Callable[[], bool] = lambda: False,
    ) -> Sequence[GeneratedModel]:
        """Wait until the task is done and fetch its files. Can be called again at any time.

        hurry: asked between polls; True means that the provider has called back, so that the next poll comes
        at once. Of several results those that worked are returned; `provenance` names the others.

        Raises TaskFailed or ProviderRejected as the task's verdict, ResultLost where its files are gone,
        OutcomeUnknown where it is still not done at the deadline or its files cannot be fetched now.
        """
        began, came = self._began.get(task_uuid), time.monotonic()
        view = await self._waiting.until_done(
            task_uuid, request, progress, hurry, began=began, answer=self._answers.get(task_uuid),
            in_use=task_uuid in self._in_use,
        )  # fmt: skip
        seconds = time.monotonic() - (came if began is None else began)
        if not view.files:
            self._forget(task_uuid)
            raise self._verdict(view)
        slot = self._slots.get(task_uuid)
        fetched = await asyncio.gather(
            *(self._fetching.fetch(task_uuid, file, slot) for file in view.ordered), return_exceptions=True
        )
        for outcome in fetched:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ResultLost):
                raise outcome
        gone = [
            file.billed
            for file, outcome in zip(view.ordered, fetched, strict=True)
            if isinstance(outcome, ResultLost)
        ]
        models = [
            self._model(view, request, file, glb, seconds, gone)
            for file, glb in zip(view.ordered, fetched, strict=True)
            if isinstance(glb, bytes | BlobRef)
        ]
        lost = [outcome for outcome in fetched if isinstance(outcome, ResultLost)]
        if not models:
            raise lost[0]
        if lost:
            log.warning("task %s: %d of %d files are lost: %s", task_uuid, len(lost), len(fetched), lost[0])
        self._forget(task_uuid)
        progress(1.0)
        return models

    async def _hand_in_somehow(
        self, task_uuid: str, request: GenerationRequest, image: InputImage, delivery: Delivery,
        submit: _Submit,
    ) -> None:  # fmt: skip
        """With the picture's name where it is uploaded once, with a link to it, or with it."""
        if self.options.image_input == "upload":
            name = await self.client.upload(image.png, image.sha256)
            try:
                await self._hand_in(task_uuid, request, name, delivery, submit)
                return
            except ProviderRejected:
                # The upload may be gone. Should the request itself be wrong, the next answer says so again.
                self.client.forget_upload(image.sha256)
        picture = data_uri(image.png)
        if self.options.image_input == "url" and self.options.picture_url is not None:
            # A link is a permission that ends: made for this submit, and kept nowhere.
            picture = await asyncio.to_thread(self.options.picture_url, image.sha256)
        await self._hand_in(task_uuid, request, picture, delivery, submit)

    async def _hand_in(
        self, task_uuid: str, request: GenerationRequest, image: str, delivery: Delivery, submit: _Submit
    ) -> None:
        answer = await submit(task_json(request, task_uuid, image, delivery))
        if merged(TaskView(task_uuid), answer, self.options.least_cost).done:
            self._answers[task_uuid] = answer
        if not answer.items and any(kind_of(error) is Kind.CONFLICT for error in answer.errors):
            self._in_use.add(task_uuid)

    def _upload_endpoint(self, task_uuid: str, request: GenerationRequest) -> str | None:
        if self.options.upload_slot is None or request.numberResults > 1:
            return None
        try:
            slot = self._slots.get(task_uuid) or self.options.upload_slot(task_uuid)
        except Exception as error:  # noqa: BLE001 - a place in the user's storage is a wish, no condition
            log.warning(
                "task %s: no place for an upload (%s); it has a link", task_uuid, type(error).__name__
            )
            return None
        self._slots[task_uuid] = slot
        return slot.put_url

    def _verdict(self, view: TaskView) -> Exception:
        """The exception for a task of which every result failed."""
        errors = view.verdicts
        kinds = {kind_of(error) for error in errors}
        words = "; ".join(dict.fromkeys(self._words(error) for error in errors))
        if Kind.EXPIRED in kinds:
            return ResultLost(f"task {view.task_uuid} was done, and its files are gone ({words})")
        if kinds == {Kind.REJECTED}:
            return ProviderRejected(f"Runware refused task {view.task_uuid} ({words})")
        return TaskFailed(f"task {view.task_uuid} failed at Runware ({words}); trying again is a new task")

    def _words(self, error: ApiError) -> str:
        return clean_text(describe(error), (self.options.api_key.reveal(),))

    def _model(
        self,
        view: TaskView,
        request: GenerationRequest,
        file: ResultFile,
        glb: bytes | BlobRef,
        seconds: float,
        gone: list[dict[str, str]],
    ) -> GeneratedModel:
        provenance: dict[str, object] = {
            "task_uuid": view.task_uuid,
            "result_uuid": file.uuid,
            "glb_sha256": glb.sha256 if isinstance(glb, BlobRef) else hashlib.sha256(glb).hexdigest(),
            "seed_stated": file.seed is not None,
            "results_wanted": view.wanted,
            "results_made": len(view.files),
        }
        if view.verdicts:
            provenance["results_failed"] = max(0, view.wanted - len(view.files))
            provenance["failures"] = [self._words(error) for error in view.verdicts]
        if gone:
            provenance["results_lost"] = gone
        if view.surplus:
            provenance["results_surplus"] = [one.billed for one in view.surplus]
        return GeneratedModel(
            glb=b"" if isinstance(glb, BlobRef) else glb,
            stored=glb if isinstance(glb, BlobRef) else None,
            seed=request.seed if file.seed is None else file.seed,
            cost_usd=file.cost_usd,
            seconds=seconds,
            raw_cost_text=file.cost_text,
            result_id=file.uuid,
            provenance=provenance,
        )

    def _forget(self, task_uuid: str) -> None:
        for known in (self._answers, self._began, self._slots):
            known.pop(task_uuid, None)
        self._in_use.discard(task_uuid)
