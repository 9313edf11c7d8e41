"""Buying one generation: find it if it exists, otherwise reserve, generate, keep, settle, in that order.

The order is the guarantee. The reservation stands before the generator hears of the request, so a budget
cannot be overrun by many products at once; the bytes are kept before the reservation is settled, so a crash
in between leaves a model that is found next time. A free generator goes the same way with amounts of zero:
its seconds are booked like anybody's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.events import Reservation
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import BlobMissing, ConfigError, GenerationError, StorageError
from trellis_pipeline.generation.generator import GeneratedModel, Generator, InputImage
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.storage.store import ArtifactStore, BlobRef


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for what. request_key: see `generation.request.request_key`; attempt counts from 1."""

    catalog: str
    sku: str
    run_id: str
    request: GenerationRequest
    image: InputImage
    request_key: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Purchase:
    """A generation in hand. reused: it was there already; cost_usd is what it cost when it was made."""

    request_key: str
    glb: BlobRef
    seed: int
    cost_usd: Decimal
    seconds: float
    reused: bool
    provenance: Mapping[str, Any]


def find_generation(store: ArtifactStore, order: Order) -> Purchase | None:
    """The generation of this very request, if its certificate and its bytes are both in the store."""
    try:
        found = json.loads(store.read(_certificate_path(order)))
        purchase = Purchase(
            request_key=order.request_key,
            glb=BlobRef(**found["glb"]),
            seed=found["seed"],
            cost_usd=Decimal(found["cost_usd"]),
            seconds=found["seconds"],
            reused=True,
            provenance=found["provenance"],
        )
    except BlobMissing:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{store.location(_certificate_path(order))} is damaged ({error}); delete it to generate again"
        ) from None
    return purchase if store.has_blob(purchase.glb) else None


async def buy(
    order: Order, generator: Generator, ledger: Ledger, store: ArtifactStore, budgets: Budgets
) -> Purchase:
    """Return the generation for this order, made at most once per request key.

    Raises BudgetExceeded before anything is asked of the generator, GenerationError when it gave no model
    (the reservation is released, unless the error is `billable`: then it stays until the outcome is known).
    """
    found = await asyncio.to_thread(find_generation, store, order)
    if found is not None:
        return found
    if generator.paid and budgets == Budgets():
        raise ConfigError(
            f"generator {generator.identity.name} costs money and no budget is set; "
            "set one under [budget] in trellis.toml, for example total_usd = 5.00"
        )
    scope = _scope(order, generator)
    amount = await asyncio.to_thread(_reservation, ledger, scope, generator, order)
    reservation = await _reserve(ledger, amount, scope, budgets)
    try:
        made = (await generator.generate(order.request, order.image))[0]
    except GenerationError as error:
        if not error.billable:
            await asyncio.to_thread(ledger.release, reservation, type(error).__name__)
        raise
    except BaseException:
        # Stopped or broken on our side before an answer: nothing is known to have been bought only when
        # the generator is ours. A paid one keeps its reservation, which is what an unknown outcome means.
        if not generator.paid:
            ledger.release(reservation, "interrupted")
        raise

    def keep_and_settle() -> Purchase:
        purchase = _keep(store, order, generator, made)
        ledger.settle(
            reservation,
            purchase.cost_usd,
            source="provider_cost" if made.raw_cost_text else "price_list",
            raw_cost_text=made.raw_cost_text,
            seconds=made.seconds,
        )
        return purchase

    # In one thread call, because a thread is not interrupted: Ctrl-C may end the run between two awaits, and
    # a model that was kept but never settled would stay a reservation for good.
    return await asyncio.to_thread(keep_and_settle)


async def _reserve(ledger: Ledger, amount: Decimal, scope: SpendScope, budgets: Budgets) -> Reservation:
    """Set the money aside. Interrupted meanwhile, it is given back: nothing was asked for yet."""
    reserving = asyncio.ensure_future(asyncio.to_thread(ledger.reserve, amount, scope, budgets))
    try:
        return await asyncio.shield(reserving)
    except asyncio.CancelledError:
        ledger.release(await reserving, "interrupted")
        raise


def _scope(order: Order, generator: Generator) -> SpendScope:
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


def _reservation(ledger: Ledger, scope: SpendScope, generator: Generator, order: Order) -> Decimal:
    """What to set aside, from the price book and the history. Free generators reserve zero."""
    if not generator.paid:
        return Decimal(0)
    from trellis_pipeline.costs.estimates import reservation_estimate
    from trellis_pipeline.costs.price_book import load_price_book

    return reservation_estimate(
        ledger,
        load_price_book(),
        generator=scope.generator,
        model=scope.model,
        preset=scope.preset,
        resolution=order.request.settings.resolution,
        on=datetime.now(UTC).date(),
    ).reserve


def _keep(store: ArtifactStore, order: Order, generator: Generator, made: GeneratedModel) -> Purchase:
    """Store the bytes, then the certificate that makes them findable. The first certificate stands."""
    glb = store.put_blob(made.glb, ".glb")
    certificate = {
        "request_key": order.request_key,
        "request": order.request.wire(),
        "image_sha256": order.image.sha256,
        "generator": str(generator.identity),
        "glb": {"sha256": glb.sha256, "size": glb.size, "suffix": glb.suffix},
        "seed": made.seed,
        "cost_usd": str(made.cost_usd or 0),
        "seconds": round(made.seconds, 6),
        "provenance": dict(made.provenance),
    }
    data = json.dumps(certificate, indent=1, sort_keys=True).encode()
    if not store.create(_certificate_path(order), data):
        other = find_generation(store, order)
        if other is not None:
            # Two runs made the same model at once: both paid, and both use the one that was first.
            return replace(other, reused=False, cost_usd=made.cost_usd or Decimal(0))
        # The certificate outlived its bytes (a cleaned bucket): this generation replaces it.
        store.write(_certificate_path(order), data)
    return Purchase(
        request_key=order.request_key,
        glb=glb,
        seed=made.seed,
        cost_usd=made.cost_usd or Decimal(0),
        seconds=made.seconds,
        reused=False,
        provenance=cast("Mapping[str, Any]", made.provenance),
    )


def _certificate_path(order: Order) -> str:
    return f"generations/{order.request_key}.json"
