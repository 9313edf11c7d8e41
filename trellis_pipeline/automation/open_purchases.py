"""Purchases whose outcome is not known: listed, and brought to their end by asking the provider.

A run finishes the open purchases of its own products. This is for the others, see `purchasing.leftovers`.
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
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Closable
from trellis_pipeline.purchasing.journal import Intent, Journal
from trellis_pipeline.purchasing.leftovers import Ended, finish_leftovers
from trellis_pipeline.purchasing.till import Till


def open_purchases(settings: Settings) -> tuple[Intent, ...]:
    """Everything in the journal whose outcome is not known, oldest first."""
    with Ledger.open(settings.ledger_url) as ledger:
        return Journal(ledger).open_intents()


def finish_open_purchases(settings: Settings) -> Sequence[Ended]:
    """Ask the configured generator about its open purchases; see `purchasing.leftovers.finish_leftovers`.

    Raises ConfigError where the open purchases are another generator's.
    """
    waiting = {intent.generator for intent in open_purchases(settings)}
    if waiting and settings.generation.generator not in waiting:
        raise ConfigError(
            f"the open purchases are from {', '.join(sorted(waiting))}; "
            f"name that generator: --generator {sorted(waiting)[0]}"
        )
    resources: dict[str, Any] = dict(build_definitions(settings).resources or {})
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


def document(purchases: Sequence[Intent], ended: Sequence[Ended]) -> dict[str, Any]:
    """Both as plain JSON-able data: what `costs open --json` prints."""
    ends = {one.intent.task_uuid: one for one in ended}
    return {
        "purchases": [
            {
                "task_uuid": intent.task_uuid,
                "catalog": intent.catalog,
                "sku": intent.sku,
                "generator": intent.generator,
                "begun_at": intent.made_at.isoformat(),
                "handed_in_at": intent.submitted_at.isoformat() if intent.submitted_at else None,
                "end": ends[intent.task_uuid].end if intent.task_uuid in ends else None,
                "reason": ends[intent.task_uuid].reason if intent.task_uuid in ends else "",
            }
            for intent in purchases
        ]
    }
