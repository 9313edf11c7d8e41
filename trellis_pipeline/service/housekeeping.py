"""Deleting what has had its time: results after their time to live, uploads after a month without use."""

from __future__ import annotations

import asyncio
import logging
import time

from trellis_pipeline.errors import StorageUnavailable
from trellis_pipeline.service.backend import Backend

log = logging.getLogger("trellis_pipeline.service")

EVERY_SECONDS = 60.0
MEDIA_SECONDS = 30 * 24 * 3600.0


class Housekeeping:
    """Looks around once a minute."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first look is at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backend = self._backend
        while True:
            try:
                now = time.time()
                while await backend.write(backend.store.expire_files, now):
                    pass
                await backend.write(backend.media.expire, now - MEDIA_SECONDS)
            except (StorageUnavailable, OSError) as problem:
                log.error("old files stay: %s", problem)
            await asyncio.sleep(EVERY_SECONDS)
