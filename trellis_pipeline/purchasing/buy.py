"""Buying one generation: find it if it exists, otherwise reserve, ask, keep, settle, in that order.

The order is the guarantee. The reservation and the intent stand before the generator hears of the request,
so a budget cannot be overrun and nothing is forgotten; the bytes are kept before the reservation is settled,
so a crash in between leaves a model that is found next time, with its price. Everybody who wants the same
model comes through here: a first run, a second one beside it, one that goes on after a crash. They differ
only in what they find in the journal. A free generator goes the same way with amounts of zero.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.errors import ConfigError, OutcomeUnknown, ResultLost, TaskFailed, TrellisError
from trellis_pipeline.generation.generator import GeneratedModel
from trellis_pipeline.purchasing.bill import bill_for, bill_for_nothing
from trellis_pipeline.purchasing.errand import NothingBought, run_errand
from trellis_pipeline.purchasing.generations import (
    Choice,
    Order,
    Purchase,
    asked_for,
    find_generation,
    keep,
)
from trellis_pipeline.purchasing.journal import LEASE, AlreadyIntended, Intent, Journal, TakenOver
from trellis_pipeline.purchasing.till import (
    Till,
    estimate_for,
    is_remote,
    keep_and_settle,
    release,
    scope_of,
    settle,
    settle_lost,
)
from trellis_pipeline.purchasing.webhooks import new_token

Choose = Callable[[Sequence[bytes]], Awaitable[Choice]]

# Pauses between looks at what somebody else is buying, in seconds: short at first, for a free generator.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class _Begun:
    """An intent that is ours. webhook_url: only whoever wrote the intent knows it."""

    intent: Intent
    webhook_url: str | None = None


async def first_of(_glbs: Sequence[bytes]) -> Choice:
    """For callers that do not compare results."""
    return Choice()


async def buy(order: Order, till: Till, choose: Choose = first_of) -> Purchase:
    """Return the generation for this order, made and paid at most once per request key.

    choose: compares the results where the request asks for several.

    Raises BudgetExceeded before anything is asked of the generator; GenerationError when it gave no model.
    The reservation is then released, unless what became of the task is not known: that stays in the journal,
    with its reservation, until a later call finds out.
    """
    retries, pause = till.retries, _FIRST_PAUSE
    while True:
        intent = await asyncio.to_thread(till.journal.latest, order.request_key)
        found = await asyncio.to_thread(find_generation, till.store, order)
        if intent is not None and intent.state == "open":
            if found is not None and found.task_uuid != intent.task_uuid:
                return found  # what is open is a reproduction of it, and somebody else's affair
            ours = await asyncio.to_thread(till.journal.take_over, intent)
            if ours is None and found is None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if found is not None:
                if ours is not None:  # whoever bought it died between keeping and settling
                    await asyncio.to_thread(settle, till, ours, found.bill, found.seconds)
                return found
            begun = _Begun(ours) if ours is not None else None
        elif found is not None:
            return found
        else:
            again = await _fetched_again(order, till, intent, choose)
            if again is not None:
                return again
            begun = await _begin(order, till, after=intent)
        if begun is None:
            continue
        try:
            return await _carry_out(order, till, begun, choose)
        except (TaskFailed, TakenOver) as outcome:
            failed = isinstance(outcome, TaskFailed)
            if failed and retries <= 0:
                raise
            retries -= failed  # who was overtaken sees what the other did


async def buy_again(order: Order, till: Till) -> Purchase:
    """Buy a request that was bought before once more, on purpose, and keep it beside the first.

    One that was begun and interrupted is gone on with. Raises like `buy`, and OutcomeUnknown while another
    process is at it.
    """
    intent = await asyncio.to_thread(till.journal.latest, order.request_key)
    if intent is not None and intent.state == "open":
        ours = await asyncio.to_thread(till.journal.take_over, intent)
        begun = _Begun(ours) if ours is not None else None
    else:
        begun = await _begin(order, till, after=intent)
    try:
        if begun is not None:
            beside = intent is not None
            return await _carry_out(order, till, begun, first_of, beside_the_first=beside)
    except TakenOver:
        pass
    raise OutcomeUnknown(f"sku {order.sku}: another process is buying this model just now; try again later")


async def _fetched_again(order: Order, till: Till, intent: Intent | None, choose: Choose) -> Purchase | None:
    """A model that was paid before and is no longer in the store, if the provider still has it."""
    if intent is None or intent.state != "done" or not is_remote(till.generator):
        return None
    try:
        if not await till.generator.knows(intent.task_uuid):
            return None
        made = await till.generator.collect(intent.task_uuid, order.request)
    except (TaskFailed, ResultLost):
        return None
    choice = await choose([model.glb for model in made]) if len(made) > 1 else Choice()
    bill = bill_for(made, ZERO, order.request.numberResults)
    identity = str(till.generator.identity)
    purchase = await asyncio.to_thread(
        keep, till.store, order, identity, intent.task_uuid, made, choice, bill
    )
    return replace(purchase, reused=True)


async def _begin(order: Order, till: Till, after: Intent | None) -> _Begun | None:
    """Reserve and write the intent; None if somebody else was quicker."""
    generator = till.generator
    if generator.paid and not till.budgets.any:
        raise ConfigError(
            f"generator {generator.identity.name} costs money and no budget is set; "
            "set one under [budget] in trellis.toml, for example total_usd = 5.00, or give --budget"
        )
    token = new_token(till.webhooks_url) if till.webhooks_url and is_remote(generator) else None

    def begin() -> Intent:
        estimate = estimate_for(order, till)
        return till.journal.begin(
            estimate.reserve,
            scope_of(order, generator),
            till.budgets,
            after=after,
            asked=asked_for(order, str(generator.identity)),
            price_book_version=estimate.price_book_version,
            token_sha256=token.sha256 if token else "",
        )

    beginning = asyncio.ensure_future(asyncio.to_thread(begin))
    try:
        intent = await asyncio.shield(beginning)
    except AlreadyIntended:
        return None
    except asyncio.CancelledError:
        # A thread is not interrupted: what it wrote is undone, since nothing was asked for yet.
        with contextlib.suppress(AlreadyIntended):
            release(till, await beginning, "interrupted")
        raise
    return _Begun(intent, token.url(intent.task_uuid) if token else None)


async def _carry_out(
    order: Order, till: Till, begun: _Begun, choose: Choose, *, beside_the_first: bool = False
) -> Purchase:
    """From an intent that is ours to a purchase, or to a verdict that closes it."""
    intent = begun.intent
    try:
        async with _alive(till.journal, intent):
            made = await _make(order, till, begun)
            choice = await choose([model.glb for model in made]) if len(made) > 1 else Choice()
    except NothingBought as outcome:
        await asyncio.to_thread(release, till, intent, type(outcome.error).__name__)
        raise outcome.error from None
    except ResultLost:
        await asyncio.to_thread(settle_lost, till, intent)
        raise
    except BaseException as error:
        # No await from here on: Ctrl-C may have ended the event loop's patience already.
        if is_remote(till.generator) or getattr(error, "billable", False):
            till.journal.let_go(intent)
        elif (spent := bill_for_nothing(error)) is not None:
            settle(till, intent, spent, sum(spent.stage_seconds.values()), "failed")
        else:
            cause = type(error).__name__ if isinstance(error, TrellisError) else "interrupted"
            release(till, intent, cause)
        raise

    # In one thread call, because a thread is not interrupted: Ctrl-C may end the run between two awaits, and
    # a model that was kept but never settled would stay a reservation until somebody wants it again.
    return await asyncio.to_thread(
        keep_and_settle, till, order, intent, made, choice, beside_the_first=beside_the_first
    )


async def _make(order: Order, till: Till, begun: _Begun) -> Sequence[GeneratedModel]:
    if is_remote(till.generator):
        return await run_errand(
            till.generator, till.journal, begun.intent, order.request, order.image, begun.webhook_url
        )
    return await till.generator.generate(order.request, order.image)


@contextlib.asynccontextmanager
async def _alive(journal: Journal, intent: Intent) -> AsyncIterator[None]:
    """Keep the lease while the work goes on, however long that takes."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 4)
            await asyncio.to_thread(journal.renew, intent)

    renewing = asyncio.ensure_future(renew())
    try:
        yield
    finally:
        renewing.cancel()
