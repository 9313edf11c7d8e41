"""The till: generator, journal, store and budgets of a run, and what is booked for one intent.

Closing an intent and booking its money are one transaction, so that the journal and the ledger never tell two
stories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeGuard

from sqlalchemy import Connection

from trellis_pipeline.costs import stage_seconds
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.estimates import Estimate, reservation_estimate
from trellis_pipeline.costs.events import REPRODUCTION
from trellis_pipeline.costs.money import ZERO
from trellis_pipeline.costs.price_book import PriceBook, load_price_book
from trellis_pipeline.errors import LedgerError
from trellis_pipeline.generation.generator import GeneratedModel, Generator, RemoteGenerator
from trellis_pipeline.purchasing.bill import Bill, bill_for, bill_for_lost
from trellis_pipeline.purchasing.generations import Choice, Order, Purchase, keep
from trellis_pipeline.purchasing.journal import Intent, Journal, State, TakenOver
from trellis_pipeline.storage.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Till:
    """What buying needs, the same for all orders of a run.

    retries: further purchases after the provider accepted a task and failed it. webhooks_url: where the
    provider reaches our webhook endpoint; None where it is only polled. prices: None is the price book that
    comes with the package. expected_seconds: of one result by resolution, where time is what is paid for.
    """

    generator: Generator
    journal: Journal
    store: ArtifactStore
    budgets: Budgets
    retries: int = 1
    webhooks_url: str | None = None
    prices: PriceBook | None = None
    expected_seconds: Mapping[int, float] = field(default_factory=dict)


def scope_of(order: Order, generator: Generator) -> SpendScope:
    """Where this order counts in the books."""
    return SpendScope(
        catalog=order.catalog,
        sku=order.sku,
        run_id=order.run_id,
        generator=generator.identity.name,
        model=generator.identity.model,
        preset=order.request.preset,
        request_key=order.request_key,
        attempt=order.attempt,
    )


def estimate_for(order: Order, till: Till) -> Estimate:
    """What to set aside, from the price book and the history. Free generators need neither.

    Raises ConfigError where a paid generator has no price.
    """
    if not till.generator.paid:
        return Estimate(ZERO, ZERO, ZERO, "free", 0, "")
    request = order.request
    return reservation_estimate(
        till.journal.ledger,
        till.prices or load_price_book(),
        generator=till.generator.identity.name,
        model=till.generator.identity.model,
        preset=request.preset,
        resolution=request.settings.resolution,
        on=datetime.now(UTC).date(),
        results=request.numberResults,
        single_preset=request.model_copy(update={"numberResults": 1}).preset,
        steps=max(steps or 0 for steps in request.settings.steps),
        expected_seconds=till.expected_seconds.get(request.settings.resolution, 0.0),
    )


def reserved(till: Till, intent: Intent) -> Decimal:
    """USD that are set aside for an open intent, 0 for one that is closed."""
    reservation = till.journal.ledger.find(intent.task_uuid)
    return reservation.amount if reservation is not None else ZERO


def settle(till: Till, intent: Intent, bill: Bill, seconds: float, state: State = "done") -> None:
    """Book what it did cost and close the intent, in one transaction; nothing if somebody did so before."""
    journal = till.journal
    reservation = journal.ledger.find(intent.task_uuid)
    close = journal.closing(intent, state, bill.cause)

    def also(connection: Connection) -> None:
        close(connection)
        stage_seconds.record(connection, intent.task_uuid, bill.stage_seconds)

    try:
        if reservation is not None:
            journal.ledger.settle(
                reservation,
                bill.amount,
                source=bill.source,
                raw_cost_text=bill.raw_cost_text,
                seconds=seconds,
                cause=bill.cause,
                budgets=till.budgets,
                also=also,
            )
    except LedgerError:
        # We were thought dead and somebody went on in our place: the books have it, once.
        now = journal.find(intent.task_uuid)
        if now is None or now.state == "open":
            raise


def keep_and_settle(
    till: Till,
    order: Order,
    intent: Intent,
    made: Sequence[GeneratedModel],
    choice: Choice,
    *,
    beside_the_first: bool = False,
) -> Purchase:
    """What every purchase ends with: the bytes, the certificate, the books, in this order.

    beside_the_first: the request has a certificate already, which stays the one that is found.
    """
    bill = bill_for(made, reserved(till, intent), order.request.numberResults)
    if beside_the_first:
        bill = replace(bill, cause=REPRODUCTION)
    number = intent.number if beside_the_first else None
    identity = str(till.generator.identity)
    purchase = keep(till.store, order, identity, intent.task_uuid, made, choice, bill, number)
    settle(till, intent, purchase.bill, purchase.seconds)
    return purchase


def settle_lost(till: Till, intent: Intent) -> None:
    """Book results that were made and can no longer be fetched."""
    settle(till, intent, bill_for_lost(reserved(till, intent)), 0.0, "failed")


def release(till: Till, intent: Intent, cause: str) -> None:
    """Free the money and close the intent, in one transaction: nothing was bought.

    Does nothing where the intent is in other hands by now: they may have handed the task in.
    """
    journal = till.journal
    reservation = journal.ledger.find(intent.task_uuid)
    try:
        if reservation is not None:
            closing = journal.closing(intent, "failed", cause, if_ours=True)
            journal.ledger.release(reservation, cause, also=closing)
    except TakenOver:
        return
    except LedgerError:
        now = journal.find(intent.task_uuid)
        if now is None or now.state == "open":
            raise


def is_remote(generator: Generator) -> TypeGuard[RemoteGenerator]:
    """Whether its tasks live on at a provider when this process dies."""
    return hasattr(generator, "submit")
