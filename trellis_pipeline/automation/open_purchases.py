"""Purchases whose outcome is not known: listed, and brought to their end by asking the provider.

A run finishes the open purchases of its own products. This is for the others, see `purchasing.leftovers`, and
for questions of a doctor who was killed, see `purchasing.questions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from assets.workers import WorkerPool
from trellis_pipeline.config import Settings
from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Closable
from trellis_pipeline.generation.runware.seller import options_for
from trellis_pipeline.purchasing import questions
from trellis_pipeline.purchasing.journal import Intent, Journal
from trellis_pipeline.purchasing.leftovers import Ended, finish_leftovers
from trellis_pipeline.purchasing.questions import Question
from trellis_pipeline.purchasing.till import Till


def finish_open_purchases(settings: Settings) -> Sequence[Ended]:
    """Ask the configured generator about its open purchases; see `purchasing.leftovers.finish_leftovers`.

    Raises ConfigError where the open purchases are another generator's.
    """
    resources: dict[str, Any] = dict(build_definitions(settings).resources or {})
    with Ledger.open(settings.ledger_url) as ledger:
        waiting = {intent.generator for intent in Journal(ledger).open_intents()}
    if waiting and resources["generator"].seller not in waiting:
        raise ConfigError(
            f"the open purchases are from {', '.join(sorted(waiting))}; "
            f"name that generator: {options_for(min(waiting))}"
        )
    workers = WorkerPool(1)

    async def finish(ledger: Ledger) -> Sequence[Ended]:
        generator = resources["generator"].open(workers.run)
        till = Till(generator, Journal(ledger), resources["store"].open(), Budgets())
        try:
            return await finish_leftovers(till)
        finally:
            if isinstance(generator, Closable):
                with suppress(OSError):
                    await generator.aclose()

    try:
        with Ledger.open(settings.ledger_url) as ledger:
            return asyncio.run(finish(ledger))
    finally:
        workers.close()


def open_document(settings: Settings, *, finish: bool) -> dict[str, Any]:
    """What is open, as plain JSON-able data: what `costs open --json` prints.

    finish: bring it to its end, as far as that is possible. Raises what `finish_open_purchases` raises.
    """
    with Ledger.open(settings.ledger_url) as ledger:
        purchases = Journal(ledger).open_intents()
        asked = questions.open_questions(ledger)
        booked = {
            question.reservation.id
            for question in asked
            if finish and question.is_left and questions.close_left(ledger, question)
        }
    ended = finish_open_purchases(settings) if finish and purchases else ()
    ends = {one.intent.task_uuid: one for one in ended}
    return {
        "purchases": [_purchase(intent, ends.get(intent.task_uuid)) for intent in purchases],
        "questions": [_question(one, booked=one.reservation.id in booked) for one in asked],
    }


def _purchase(intent: Intent, ended: Ended | None) -> dict[str, Any]:
    return {
        "task_uuid": intent.task_uuid,
        "catalog": intent.catalog,
        "sku": intent.sku,
        "generator": intent.generator,
        "begun_at": intent.made_at.isoformat(),
        "handed_in_at": intent.submitted_at.isoformat() if intent.submitted_at else None,
        "end": ended.end if ended else None,
        "reason": ended.reason if ended else "",
    }


def _question(question: Question, *, booked: bool) -> dict[str, Any]:
    money = question.reservation
    return {
        "what": question.what,
        "catalog": money.scope.catalog,
        "sku": money.scope.sku,
        "generator": money.scope.generator,
        "begun_at": money.made_at.isoformat(),
        "set_aside_usd": usd_text(money.amount),
        "is_left": question.is_left,
        "end": "booked as bought" if booked else None,
    }
