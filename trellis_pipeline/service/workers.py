"""The workers: they take results from the durable queue, have them generated, and close each of them once.

The queue in memory is only an order of work; the truth is the row of each result. A worker that is cut off
anywhere leaves its row as it was, and the next start puts it into the queue again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

from trellis_pipeline.costs.money import checked
from trellis_pipeline.errors import (
    GenerationError,
    ProductError,
    ProviderRejected,
    SourceImageError,
    StorageUnavailable,
)
from trellis_pipeline.generation.generator import GeneratedModel, InputImage
from trellis_pipeline.generation.wire import parse_task
from trellis_pipeline.generation.wire_image import image_form
from trellis_pipeline.imagery.fetch import fetch_image
from trellis_pipeline.imagery.fetch_limits import FetchLimits
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.inputs import check_picture, to_crop
from trellis_pipeline.service.media import owners
from trellis_pipeline.service.messages import error
from trellis_pipeline.service.options import price_of
from trellis_pipeline.service.records import Json, Task, TaskKey

log = logging.getLogger("trellis_pipeline.service")

# After a full or missing disk: the work waits, the task is not lost.
STORAGE_RETRY_SECONDS = 5.0
# A task may name any time to live, and a link's date has twelve digits.
LONGEST_SECONDS = 100 * 365 * 24 * 3600
# Mattes are heavy on processor and memory; ready-made crops pass without one.
CROPS_AT_ONCE = 2


class Workers:
    """The queue in memory and the tasks of asyncio that empty it.

    on_delivery: called after a result with a webhook or an upload was closed.
    """

    def __init__(self, backend: Backend, on_delivery: Callable[[], None]) -> None:
        self._backend = backend
        self._on_delivery = on_delivery
        self._queue: asyncio.Queue[tuple[TaskKey, int, float]] = asyncio.Queue()
        self._running: list[asyncio.Task[None]] = []
        self._progress: dict[tuple[TaskKey, int], float] = {}
        self._ended: dict[TaskKey, asyncio.Event] = {}
        self._crops = asyncio.Semaphore(CROPS_AT_ONCE)

    async def start(self) -> None:
        """Take up what the last process left, then wait for more."""
        for task, number in await self._backend.read(self._backend.store.unfinished):
            self.add(task, number)
        self._running = [asyncio.create_task(self._work()) for _ in range(self._backend.options.concurrency)]

    async def stop(self) -> None:
        """Stop at once. What was under way is begun anew by the next start."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def add(self, task: TaskKey, number: int) -> None:
        """Queue one accepted result."""
        self._queue.put_nowait((task, number, time.monotonic()))
        self._backend.metrics.queued.set(self._queue.qsize())

    def progress(self, task: TaskKey, number: int) -> float:
        """The share done of one result, 0 to 1."""
        return self._progress.get((task, number), 0.0)

    async def ended(self, task: TaskKey, seconds: float) -> bool:
        """Wait until all results of a task are closed; False if they are not within `seconds`."""
        event = self._ended.setdefault(task, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                while True:
                    event.clear()  # before looking: it may end between the look and the wait
                    if (await self._find(task)).ended:
                        break
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._ended.pop(task, None)
        return True

    async def _find(self, task: TaskKey) -> Task:
        return await self._backend.read(self._backend.store.get, task)

    async def _work(self) -> None:
        metrics = self._backend.metrics
        while True:
            task, number, since = await self._queue.get()
            metrics.queued.set(self._queue.qsize())
            metrics.wait.observe(time.monotonic() - since)
            metrics.in_progress.inc()
            try:
                await self._make(task, number)
            except StorageUnavailable as problem:
                log.error("task %s waits: %s", task.task_uuid, problem)
                asyncio.get_running_loop().call_later(
                    STORAGE_RETRY_SECONDS, self._queue.put_nowait, (task, number, since)
                )
            except Exception:
                log.exception("task %s is left for the next start", task.task_uuid)
            finally:
                metrics.in_progress.dec()
                self._progress.pop((task, number), None)
                if task in self._ended:
                    self._ended[task].set()

    async def _make(self, key: TaskKey, number: int) -> None:
        task = await self._find(key)
        if task.results[number].state != "queued":
            return
        kinds = [
            kind for kind, name in (("upload", "uploadEndpoint"), ("webhook", "webhookURL"))
            if task.payload.get(name)
        ]  # fmt: skip
        try:
            model = await self._generate(task, number)
            cost = self._cost(task, number, model)
        except StorageUnavailable:
            raise
        except Exception as problem:  # noqa: BLE001 - a generator may raise anything; the queue goes on
            await self._fail(task, number, problem, [kind for kind in kinds if kind == "webhook"])
        else:
            await self._finish(task, number, model, cost, kinds)
        if kinds:
            self._on_delivery()

    async def _generate(self, task: Task, number: int) -> GeneratedModel:
        """One model. Raises whatever the picture or the generator deserve."""
        key = (task.key, number)
        wanted = parse_task(task.payload).request(task.results[number].seed)
        image = await self._image(task)
        await self._interfere(task, number)
        begin = time.monotonic()

        def progress(share: float) -> None:
            self._progress[key] = share

        models = await self._backend.generator.generate(
            wanted.model_copy(update={"numberResults": 1}), image, progress
        )
        self._backend.metrics.seconds.observe(time.monotonic() - begin)
        if not models:
            raise GenerationError("the generator made nothing")
        return models[0]

    async def _image(self, task: Task) -> InputImage:
        backend, options = self._backend, self._backend.options
        name = str(task.payload["inputs"]["image"])
        if image_form(name) == "url":
            limits = FetchLimits(
                max_bytes=options.max_image_bytes, allow_private_addresses=options.allow_private_addresses
            )
            picture = await fetch_image(name, limits)
            check_picture(picture, options, "inputs.image")
        else:
            found = await backend.read(backend.media.find, name, owners(task.account))
            if found is None:
                raise SourceImageError("the uploaded image was deleted before the task began")
            picture = await asyncio.to_thread(backend.media.path(found[0]).read_bytes)
        async with self._crops:
            return await asyncio.to_thread(to_crop, picture, options.max_pixels)

    async def _interfere(self, task: Task, number: int) -> None:
        faults, uuids = self._backend.faults, [task.task_uuid]
        slow = faults.strike("slow_generation", uuids)
        if slow:
            await asyncio.sleep(slow.seconds)
        if faults.lasts("task_fails", task.task_uuid):
            raise GenerationError("the model gave up")
        partly = faults.lasts("one_result_fails", task.task_uuid)
        if partly and int(partly.value or 0) == number:
            raise GenerationError("the model gave up on this one")

    def _cost(self, task: Task, number: int, model: GeneratedModel) -> Decimal | None:
        """What a result is billed at; None where neither a price nor the generator says, which costs 0."""
        wanted = parse_task(task.payload).request(task.results[number].seed)
        price = price_of(self._backend.options, wanted, model.seconds)
        if price is None and model.cost_usd is not None:
            return checked(model.cost_usd, "the generator's cost")
        return price

    async def _finish(
        self, task: Task, number: int, model: GeneratedModel, cost: Decimal | None, kinds: list[str]
    ) -> None:
        backend, result = self._backend, task.results[number]
        seconds = min(task.payload.get("ttl") or backend.options.result_seconds, LONGEST_SECONDS)

        async def keep() -> bool:
            path = backend.store.result_path(result.result_uuid)
            await asyncio.to_thread(backend.disk.write, path, model.glb)
            return await backend.write(
                backend.store.finish,
                task,
                number,
                seed=model.seed,
                cost=cost,
                file_bytes=len(model.glb),
                expires_at=time.time() + seconds,
                announce=kinds,
            )

        if await self._insist(task, keep):
            backend.metrics.billed.inc()
            backend.metrics.billed_usd.inc(float(cost or 0))

    async def _fail(self, task: Task, number: int, problem: Exception, kinds: list[str]) -> None:
        said = verdict(problem, task)
        if not isinstance(problem, ProductError):
            log.exception("task %s failed", task.task_uuid, exc_info=problem)
        backend = self._backend

        async def keep() -> bool:
            return await backend.write(backend.store.fail, task.key, number, said, kinds)

        if await self._insist(task, keep):
            backend.metrics.failed.labels(said["code"]).inc()

    async def _insist(self, task: Task, keep: Callable[[], Awaitable[bool]]) -> bool:
        """Write down an outcome, however long the disk is full: what was generated is not made again."""
        while True:
            try:
                return await keep()
            except StorageUnavailable as problem:
                log.error("the outcome of task %s waits: %s", task.task_uuid, problem)
                await asyncio.sleep(STORAGE_RETRY_SECONDS)


def verdict(problem: Exception, task: Task) -> Json:
    """A failed result's error. What is not one of our own errors is not told to clients."""
    if isinstance(problem, SourceImageError) and "://" in str(task.payload["inputs"]["image"]):
        code = "downloadFailed"
    elif isinstance(problem, ProviderRejected):
        code = "invalidInput"
    elif isinstance(problem, GenerationError):
        code = "inferenceError"
    elif isinstance(problem, ProductError):
        code = "invalidImage"
    else:
        return error("processingFailed", "the generation failed inside the service; its log has more")
    return error(code, str(problem)[:1000])
