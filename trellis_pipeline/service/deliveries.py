"""Deliveries: webhook calls and uploads, tried until they arrive or have been tried often enough.

They are rows written with the result, so a restart forgets none; the price is that one may arrive twice,
which receivers have to expect of any webhook. Back-off: 250 ms, doubling to 8 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from trellis_pipeline.errors import ProviderBusy, StorageUnavailable
from trellis_pipeline.generation.wire import INFERENCE
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.messages import encode, failure, success
from trellis_pipeline.service.outbound import send
from trellis_pipeline.service.outbox import Delivery
from trellis_pipeline.service.records import Json, Task

log = logging.getLogger("trellis_pipeline.service")

FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
# A webhook's receiver has this long for everything; a file may be large and the line thin.
WEBHOOK_SECONDS, UPLOAD_SECONDS = 10.0, 600.0
AT_ONCE = 16


def wait_before(attempt: int) -> float:
    """Seconds to wait before attempt number `attempt`, from 2 on."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 2))


class Deliveries:
    """One task of asyncio that looks at the clock, and short ones that each make one attempt."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._wake = asyncio.Event()
        self._busy: set[int] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._late: set[int] = set()
        self._main: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Begin, with what the last process left."""
        self._client = httpx.AsyncClient(trust_env=False)
        self._main = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop at once; what is not confirmed is tried again by the next start."""
        running = [task for task in (self._main, *self._attempts) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def wake(self) -> None:
        """There is a new delivery."""
        self._wake.set()

    def early(self, task_uuid: str, url: str) -> None:
        """Injected fault: a call that says success comes before there is anything."""
        if self._backend.faults.strike("webhook_early", [task_uuid]):
            self._spawn(self._post(url, _lie(task_uuid)))

    async def _watch(self) -> None:
        outbox = self._backend.outbox
        while True:
            self._wake.clear()
            # What arrives while we read is still in the list, and must not be sent once more.
            under_way = set(self._busy)
            try:
                due = await self._backend.read(outbox.due, time.time())
                for delivery in due:
                    if delivery.seq not in under_way and len(self._busy) < AT_ONCE:
                        self._busy.add(delivery.seq)
                        self._spawn(self._attempt(delivery))
                following = await self._backend.read(outbox.next_at)
            except StorageUnavailable as problem:
                log.error("deliveries wait: %s", problem)
                following = time.time() + 5
            # Those that are due and under way wake us when they end.
            pause = None if following is None else max(0.05, following - time.time())
            if pause is not None and self._busy and following is not None and following <= time.time():
                pause = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        backend, outbox = self._backend, self._backend.outbox
        attempt = delivery.attempts + 1
        try:
            task = await backend.read(backend.store.get, delivery.task)
            late = self._lateness(delivery, task)
            if late:
                await backend.write(outbox.postpone, delivery.seq, delivery.attempts, time.time() + late)
                return
            try:
                await (self._call if delivery.kind == "webhook" else self._upload)(task, delivery.number)
            except ProviderBusy as problem:
                if attempt < backend.options.delivery_attempts:
                    due = time.time() + wait_before(attempt + 1)
                    await backend.write(outbox.postpone, delivery.seq, attempt, due)
                    backend.metrics.deliveries.labels(delivery.kind, "retried").inc()
                    return
                log.warning("%s of task %s given up: %s", delivery.kind, delivery.task_uuid, problem)
                backend.metrics.deliveries.labels(delivery.kind, "given up").inc()
            else:
                backend.metrics.deliveries.labels(delivery.kind, "delivered").inc()
            await backend.write(outbox.end, delivery.seq)
            self._late.discard(delivery.seq)
        except StorageUnavailable as problem:
            log.error("a delivery of task %s waits: %s", delivery.task_uuid, problem)
            await asyncio.sleep(1)
        finally:
            self._busy.discard(delivery.seq)
            self._wake.set()

    def _lateness(self, delivery: Delivery, task: Task) -> float:
        if delivery.kind != "upload" or delivery.seq in self._late:
            return 0.0
        self._late.add(delivery.seq)
        fault = self._backend.faults.strike("upload_late", [task.task_uuid])
        return fault.seconds if fault else 0.0

    async def _call(self, task: Task, number: int) -> None:
        faults, uuids = self._backend.faults, [task.task_uuid]
        if faults.strike("webhook_never", uuids):
            return
        url = str(task.payload["webhookURL"])
        forged = faults.strike("webhook_forged", uuids)
        if forged:
            target = urlunsplit(urlsplit(url)._replace(query="")) if forged.value == "token" else url
            with contextlib.suppress(ProviderBusy):
                await self._post(target, _lie(task.task_uuid))
        for _ in range(2 if faults.strike("webhook_duplicate", uuids) else 1):
            await self._post(url, self._body(task, number))

    def _body(self, task: Task, number: int) -> Json:
        """A flat task object, as the provider sends it."""
        result = task.results[number]
        if result.state == "done":
            return success(task, result, self._backend.url(task, result))
        return failure(task, result) | {"status": "error"}

    async def _post(self, url: str, body: Json) -> None:
        await self._send("POST", url, encode(body), "application/json", WEBHOOK_SECONDS)

    async def _upload(self, task: Task, number: int) -> None:
        if self._backend.faults.strike("upload_never", [task.task_uuid]):
            return
        path = self._backend.store.result_path(task.results[number].result_uuid)
        try:
            glb = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return  # its time to live is over
        await self._send("PUT", str(task.payload["uploadEndpoint"]), glb, "model/gltf-binary", UPLOAD_SECONDS)

    async def _send(self, method: str, url: str, body: bytes, kind: str, seconds: float) -> None:
        assert self._client is not None
        await send(
            self._client,
            method,
            url,
            body,
            kind,
            allow_private=self._backend.options.allow_private_addresses,
            timeout_seconds=seconds,
        )


def _lie(task_uuid: str) -> Json:
    """What a forger would send: success, and a file of his own."""
    file = str(uuid.uuid4())
    return {
        "taskType": INFERENCE,
        "taskUUID": task_uuid,
        "status": "success",
        "cost": 0.0,
        "outputs": {"files": [{"uuid": file, "url": f"https://attacker.invalid/{file}.glb"}]},
    }
