"""One task at a provider, from intent to models, whatever was already done for it and by whom.

A provider may have a task although no answer ever said so. So a task that might have been handed in is looked
for first, and handed in again only under the same UUID, which the provider does not do twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from trellis_pipeline.errors import (
    OutcomeUnknown,
    OutOfCredit,
    ProviderBusy,
    ProviderRefusesAccess,
    ProviderRejected,
    SpendingPaused,
    TaskFailed,
    TrellisError,
)
from trellis_pipeline.generation.generator import GeneratedModel, InputImage, RemoteGenerator
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.purchasing.journal import Intent, Journal

# A task may be accepted some time before the provider finds it by its UUID. Clients of the provider wait one
# second before they send a task again; this is longer, because being wrong here costs money.
VISIBLE_AFTER_SECONDS = 3.0
_HAND_INS = 3
# A submit that ends so has certainly handed nothing in.
_NOT_TAKEN = (ProviderRejected, ProviderBusy, OutOfCredit, ProviderRefusesAccess, SpendingPaused)


class NothingBought(Exception):
    """The provider certainly does no work for this task, and asks no money for it."""

    def __init__(self, error: TrellisError) -> None:
        super().__init__(str(error))
        self.error = error


async def run_errand(
    generator: RemoteGenerator,
    journal: Journal,
    intent: Intent,
    request: GenerationRequest,
    image: InputImage,
    webhook_url: str | None = None,
) -> Sequence[GeneratedModel]:
    """Hand the task in if the provider does not have it, wait for it, fetch its models.

    Raises NothingBought, or ResultLost, or anything else where the outcome stays unknown.
    """
    before = intent.submitted_at
    if before is None or not await _is_known(generator, intent.task_uuid, before):
        in_doubt = before is not None
        await _hand_in(generator, journal, intent, request, image, webhook_url, in_doubt=in_doubt)
    try:
        news = _news(journal, intent) if webhook_url else _no_news
        return await generator.collect(intent.task_uuid, request, hurry=news)
    except (TaskFailed, ProviderRejected) as verdict:
        raise NothingBought(verdict) from None


async def _hand_in(
    generator: RemoteGenerator,
    journal: Journal,
    intent: Intent,
    request: GenerationRequest,
    image: InputImage,
    webhook_url: str | None,
    *,
    in_doubt: bool,
) -> None:
    """in_doubt: the provider may have accepted the task before, although it does not know it now."""
    uuid = intent.task_uuid

    async def may_send() -> None:
        await asyncio.to_thread(journal.may_submit, intent)

    for attempt in range(1, _HAND_INS + 1):
        try:
            await asyncio.to_thread(journal.submitting, intent)
            return await generator.submit(
                uuid, request, image, webhook_url, may_send=may_send, in_doubt=in_doubt
            )
        except OutcomeUnknown:
            in_doubt = True
            if await _is_known(generator, uuid, datetime.now(UTC)):
                return None
            if attempt == _HAND_INS:
                raise
        except _NOT_TAKEN as error:
            if not in_doubt:
                raise NothingBought(error) from None
            # This time it was not taken, but an earlier time it may have been.
            if not isinstance(error, ProviderRejected):
                raise
            if await _is_known(generator, uuid, datetime.now(UTC)):
                return None
            raise OutcomeUnknown(
                f"task {uuid} was refused, but an earlier submit of it may have been accepted ({error}); "
                "run again later, or an hour from now `trellis-pipeline costs open --finish`"
            ) from None
    raise AssertionError("unreachable")


async def _is_known(generator: RemoteGenerator, uuid: str, submitted_at: datetime) -> bool:
    """Ask the provider; where it says no too early to be believed, ask once more."""
    if await generator.knows(uuid):
        return True
    age = (datetime.now(UTC) - submitted_at).total_seconds()
    if not 0 <= age < VISIBLE_AFTER_SECONDS:
        return False
    await asyncio.sleep(VISIBLE_AFTER_SECONDS - age)
    return await generator.knows(uuid)


def _news(journal: Journal, intent: Intent) -> Callable[[], bool]:
    """Tells once for each call of the webhook that there is something to fetch."""
    seen = intent.called_back_at

    def news() -> bool:
        nonlocal seen
        now = journal.find(intent.task_uuid)
        if now is None or now.called_back_at == seen:
            return False
        seen = now.called_back_at
        return True

    return news


def _no_news() -> bool:
    """Nobody calls back, so nobody needs to look whether they have."""
    return False
