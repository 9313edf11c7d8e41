"""Purchases that nobody will ask for again are brought to their end, so that no money stays set aside.

A killed run leaves a purchase open, and the next run of that product goes on with it. But when the photo, the
settings or the catalog have changed meanwhile, nobody wants that request any more. Here the provider is asked
about each of them: what was made is kept and settled, since it is paid; what failed is released; and what the
provider still does not know long after it was handed in, it never had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from trellis_pipeline.errors import ProviderRejected, ResultLost, TaskFailed, TrellisError
from trellis_pipeline.generation.generator import GeneratedModel, RemoteGenerator
from trellis_pipeline.purchasing.generations import Choice, Order, crop_of, find_generation, order_of
from trellis_pipeline.purchasing.journal import Intent
from trellis_pipeline.purchasing.till import Till, is_remote, keep_and_settle, release, settle, settle_lost

# A task that was handed in longer ago than this and is unknown was never accepted. Tasks become visible
# within seconds; an hour leaves room for an outage of the provider's own lookup.
NEVER_ACCEPTED_AFTER = timedelta(hours=1)

_AT_ONCE = 16

End = Literal["kept", "failed", "lost", "never accepted", "still open", "in other hands"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one open purchase. reason: why it is still open, or how it failed."""

    intent: Intent
    end: End
    reason: str = ""


async def finish_leftovers(till: Till, *, now: datetime | None = None) -> Sequence[Ended]:
    """Bring every open purchase of this generator to its end, except those that somebody is at.

    Nothing is bought. What goes wrong with one of them is its reason, and stops none of the others.
    """
    intents = await asyncio.to_thread(till.journal.open_intents, till.generator.identity.name)
    room = asyncio.Semaphore(_AT_ONCE)

    async def finish(intent: Intent) -> Ended:
        async with room:
            return await _finish(till, intent, now or datetime.now(UTC))

    return await asyncio.gather(*(finish(intent) for intent in intents))


async def _finish(till: Till, intent: Intent, now: datetime) -> Ended:
    ours = await asyncio.to_thread(till.journal.take_over, intent)
    if ours is None:
        return Ended(intent, "in other hands")
    try:
        return await _end(till, ours, now)
    except TrellisError as error:
        return Ended(ours, "still open", str(error))
    finally:
        till.journal.let_go(ours)  # does nothing to one that was closed


async def _end(till: Till, intent: Intent, now: datetime) -> Ended:
    order = order_of(intent)
    found = await asyncio.to_thread(find_generation, till.store, order)
    if found is not None and found.task_uuid == intent.task_uuid:
        await asyncio.to_thread(settle, till, intent, found.bill, found.seconds)
        return Ended(intent, "kept")
    handed_in = intent.submitted_at
    if not is_remote(till.generator) or handed_in is None:
        await asyncio.to_thread(release, till, intent, "abandoned")
        return Ended(intent, "never accepted")
    if await till.generator.knows(intent.task_uuid):
        return await _collected(till, till.generator, intent, order, beside=found is not None)
    if now - handed_in < NEVER_ACCEPTED_AFTER:
        return Ended(intent, "still open", "the provider does not know it yet, or never will")
    await asyncio.to_thread(release, till, intent, "never accepted")
    return Ended(intent, "never accepted")


async def _collected(
    till: Till, generator: RemoteGenerator, intent: Intent, order: Order, *, beside: bool
) -> Ended:
    """Fetch what the provider made. beside: the request has another model already, which stays the one."""
    try:
        made = await generator.collect(intent.task_uuid, order.request)
    except (TaskFailed, ProviderRejected) as error:
        await asyncio.to_thread(release, till, intent, type(error).__name__)
        return Ended(intent, "failed", str(error))
    except ResultLost as error:
        await asyncio.to_thread(settle_lost, till, intent)
        return Ended(intent, "lost", str(error))

    choice = await asyncio.to_thread(_best, till, intent, made)
    await asyncio.to_thread(keep_and_settle, till, order, intent, made, choice, beside_the_first=beside)
    return Ended(intent, "kept")


def _best(till: Till, intent: Intent, made: Sequence[GeneratedModel]) -> Choice:
    """The choice that the line would have made, for it finds these and chooses no more.

    Where the crop is gone, it is made by what the files themselves tell.
    """
    from trellis_pipeline.quality.best import best, score

    if len(made) == 1:
        return Choice()
    crop = crop_of(till.store, intent)
    scores = [score(model.glb, crop) for model in made]
    return Choice(best(scores), tuple(scores))
