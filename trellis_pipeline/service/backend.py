"""What all parts of a running service share: its store, its generator, its figures, the way to the disk.

SQLite takes one writer at a time, so all writes go through one thread and never wait for each other's lock;
reads have a thread of their own and do not wait for the disk to confirm a write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import ParamSpec, TypeVar

from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.faults import FaultEngine
from trellis_pipeline.service.links import link, sign
from trellis_pipeline.service.media import MediaStore
from trellis_pipeline.service.metrics import Metrics
from trellis_pipeline.service.options import ServiceOptions
from trellis_pipeline.service.outbox import Outbox
from trellis_pipeline.service.records import Result, Task
from trellis_pipeline.service.store import TaskStore

P = ParamSpec("P")
T = TypeVar("T")

UNLIMITED_USD = Decimal(1_000_000)
"""What the balance counts down from where no credit is set, for clients that look at it."""

MEDIA_LINK_SECONDS = 24 * 3600


class Backend:
    """Opened when the server starts, closed when it ends."""

    def __init__(self, options: ServiceOptions, generator: Generator, faults: FaultEngine) -> None:
        self.options = options
        self.generator = generator
        self.faults = faults
        self.disk = Disk(options.folder)
        try:
            self.store = TaskStore(self.disk)
        except BaseException:
            self.disk.close()
            raise
        self.media = MediaStore(self.disk)
        self.outbox = Outbox(self.disk)
        self.metrics = Metrics(self.store.billed_count, self.store.billed_usd)
        self._writer = ThreadPoolExecutor(1, "service-writer")
        self._reader = ThreadPoolExecutor(1, "service-reader")

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that writes to the disk. Once begun it is done, also if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, lambda: function(*args, **kwargs))

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that reads from the database."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, lambda: function(*args, **kwargs))

    @property
    def balance(self) -> Decimal:
        """USD left."""
        credit = self.options.credit_usd
        return (UNLIMITED_USD if credit is None else credit) - self.store.billed_usd

    def url(self, task: Task, result: Result, base_url: str = "") -> str:
        """A link to a result's file. base_url: how this client reaches us; else how the task's sender did."""
        base = self.options.public_url.rstrip("/") or base_url or task.base_url
        return link(self.disk.secret, base, f"{result.result_uuid}.glb", result.expires_at or 0)

    def media_url(self, media_uuid: str, base_url: str) -> str:
        """A link to an upload, good for a day."""
        base = self.options.public_url.rstrip("/") or base_url
        expires = int(time.time()) + MEDIA_LINK_SECONDS
        signature = sign(self.disk.secret, f"media/{media_uuid}", expires)
        return f"{base}/media/{media_uuid}?expires={expires}&signature={signature}"

    def close(self) -> None:
        """Wait for what is being written, then give the folder back."""
        self._writer.shutdown()
        self._reader.shutdown()
        self.disk.close()
