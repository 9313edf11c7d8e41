"""From a finished result to its bytes, by whichever way is left: upload, inline data, link, newer link.

What was paid for is not given up easily. Whatever goes wrong with an upload, there is the link. A link that
has expired is asked for again, then looked for in the archive; only when the provider has no other is the
result lost. Everything else that goes wrong (the network, a host that the options do not allow) leaves the
outcome open, because the file is still there.
"""

from __future__ import annotations

import asyncio
import logging

from trellis_pipeline.errors import (
    ModelFileError,
    OutcomeUnknown,
    ProviderRejected,
    ResultLost,
    TrellisError,
)
from trellis_pipeline.generation.runware.client import RunwareClient
from trellis_pipeline.generation.runware.download import (
    Downloads,
    LinkDead,
    LinkRefused,
    TransferFailed,
    check_glb,
)
from trellis_pipeline.generation.runware.options import RunwareOptions, UploadSlot
from trellis_pipeline.generation.runware.reply import Reply
from trellis_pipeline.generation.runware.results import ResultFile, files_of
from trellis_pipeline.generation.runware.transport import AnswerLost, NotSent
from trellis_pipeline.storage.store import BlobRef

log = logging.getLogger(__name__)

DAMAGED_TRIES = 3
"""How often a file is fetched that arrives whole and is no usable GLB."""

DEAD_TRIES = 3
"""How often a link may be dead, each time after asking for another."""


class Fetching:
    """Gets the files of finished results."""

    def __init__(self, client: RunwareClient, options: RunwareOptions) -> None:
        self._client = client
        self._options = options
        self._downloads = Downloads(options)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._downloads.aclose()

    async def fetch(
        self, task_uuid: str, file: ResultFile, slot: UploadSlot | None = None
    ) -> bytes | BlobRef:
        """The checked GLB of one result, or its name where it is in the store already.

        slot: where the provider was asked to upload it.

        Raises ResultLost where the provider has no usable file any more, OutcomeUnknown where it cannot be
        fetched now, and the errors about the account.
        """
        if slot is not None:
            uploaded = await self._uploaded(task_uuid, slot)
            if uploaded is not None:
                return uploaded
        if file.inline and not file.url:
            return _inline(task_uuid, file)
        return await self._linked(task_uuid, file)

    async def _linked(self, task_uuid: str, file: ResultFile) -> bytes:
        dead = damaged = 0
        url = file.url
        for attempt in range(1, self._options.attempts + 1):
            try:
                return await self._downloads.fetch(url)
            except LinkRefused as error:
                raise OutcomeUnknown(
                    f"task {task_uuid} is done and its file was not fetched: {error}. If it is trustworthy, "
                    "allow it (runware.allowed_hosts) and run again"
                ) from None
            except LinkDead as error:
                dead += 1
                fresh = await self._fresh_url(task_uuid, file)
                if fresh is None or dead >= DEAD_TRIES:
                    raise ResultLost(f"task {task_uuid} was done, and its file is gone: {error}") from None
                log.info("task %s: %s; asked for another link", task_uuid, error)
                url = fresh
                if dead == 1:
                    continue  # a newer link usually works at once
                failure: LinkDead | TransferFailed = error
            except TransferFailed as error:
                damaged += error.damaged
                if damaged >= DAMAGED_TRIES:
                    raise ResultLost(f"task {task_uuid} was done, and its file is bad: {error}") from None
                failure = error
            log.info("task %s: %s", task_uuid, failure)
            if attempt < self._options.attempts:
                await self._client.transport.pause(attempt)
        raise OutcomeUnknown(
            f"task {task_uuid} is done and its file could not be fetched now ({failure}); "
            "run again to fetch it"
        )

    async def _fresh_url(self, task_uuid: str, file: ResultFile) -> str | None:
        """Another link to the same file, or the same link anew; None where the provider names none."""
        for attempt in range(1, self._options.attempts + 1):
            try:
                found = self._url_in(await self._client.get_response(task_uuid), file)
                return found or self._url_in(await self._client.get_task_details(task_uuid), file)
            except (NotSent, AnswerLost) as error:
                if attempt < self._options.attempts:
                    await self._client.transport.pause(attempt, error)
            except ProviderRejected:
                return None
        raise OutcomeUnknown(f"task {task_uuid}: its link is dead and no other could be asked for; run again")

    def _url_in(self, reply: Reply, file: ResultFile) -> str | None:
        found = [one for item in reply.items for one in files_of(item, self._options.least_cost)]
        return next((one.url for one in found if one.uuid == file.uuid and one.url), None)

    async def _uploaded(self, task_uuid: str, slot: UploadSlot) -> BlobRef | None:
        """The file in the user's own storage; None where it does not come, or cannot be taken from there."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._options.upload_wait_seconds
        pause = 0.25
        while True:
            try:
                async with asyncio.timeout(self._options.download_seconds):
                    blob = await asyncio.to_thread(slot.take, self._options.max_model_bytes)
                if blob is not None:
                    return blob
            except ModelFileError as error:  # it may still be arriving
                log.info("task %s: the upload is no GLB yet: %s", task_uuid, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the file was paid for and has a link
                # Only our own errors are known to repeat no address.
                why = error if isinstance(error, TrellisError) else type(error).__name__
                log.warning(
                    "task %s: its upload cannot be taken (%s); fetching it by its link", task_uuid, why
                )
                return None
            left = deadline - clock()
            if left <= 0:
                log.warning("task %s: no upload came; fetching the file by its link", task_uuid)
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, 2.0)


def _inline(task_uuid: str, file: ResultFile) -> bytes:
    try:
        glb = file.inline_bytes()
        check_glb(glb)
    except (ValueError, TransferFailed) as error:
        raise ResultLost(f"task {task_uuid} was done, and the file in its answer is bad: {error}") from None
    return glb
