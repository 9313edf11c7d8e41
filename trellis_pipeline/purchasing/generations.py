"""What was bought, found again: one certificate for each request, beside the bytes it names.

The certificate is written once and first, before the books are settled: whoever finds it has the model, and
knows what it cost even if the process that bought it died in the next instant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.errors import BlobCorrupt, BlobMissing, ConfigError, LedgerError, StorageError
from trellis_pipeline.generation.generator import GeneratedModel, InputImage
from trellis_pipeline.generation.request import GenerationRequest, build_request
from trellis_pipeline.purchasing.bill import Bill
from trellis_pipeline.purchasing.journal import Intent
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

    @property
    def product(self) -> str:
        """The product, as `Purchase.bought_for` names it."""
        return f"{self.catalog}/{self.sku}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of several results is the best. index: of the chosen one. scores: for each, what was measured."""

    index: int = 0
    scores: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """One of the models that were bought together. cost_usd: None where the provider named no price."""

    glb: BlobRef
    seed: int
    result_id: str
    cost_usd: Decimal | None
    score: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Purchase:
    """A generation in hand: the chosen model, and what the whole of it cost when it was made.

    reused: it was there already. results: all that were bought with it, in the provider's order. bought_for:
    the catalog and product, as `catalog/sku`, that the books have it under; "" where nobody wrote it down.
    """

    request_key: str
    task_uuid: str
    glb: BlobRef
    seed: int
    bill: Bill
    seconds: float
    reused: bool
    provenance: Mapping[str, Any]
    results: tuple[Result, ...] = ()
    bought_for: str = ""

    @property
    def cost_usd(self) -> Decimal:
        """What all results together did cost."""
        return self.bill.amount


def asked_for(order: Order, generator: str) -> str:
    """What is written into the journal, as JSON: enough to fetch and keep the models without the line."""
    asked = {
        "request": order.request.wire(),
        "image_sha256": order.image.sha256,
        "image_bytes": len(order.image.png),
        "generator": generator,
        "attempt": order.attempt,
    }
    return json.dumps(asked, sort_keys=True)


def order_of(intent: Intent) -> Order:
    """The order that an intent was for, without the picture. Raises LedgerError where it cannot be read."""
    try:
        asked = json.loads(intent.asked)
        request = build_request(asked["request"])
        image = InputImage(b"", asked["image_sha256"])
        attempt = int(asked["attempt"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise LedgerError(f"the journal's entry {intent.task_uuid} cannot be read ({error})") from None
    return Order(intent.catalog, intent.sku, intent.run_id, request, image, intent.request_key, attempt)


def crop_of(store: ArtifactStore, intent: Intent) -> bytes | None:
    """The picture that an intent was for, None where the store does not have it (any more)."""
    asked = json.loads(intent.asked)
    try:
        return store.get_blob(BlobRef(asked["image_sha256"], asked.get("image_bytes", 0), ".png"))
    except (BlobMissing, BlobCorrupt):
        return None


def find_generation(store: ArtifactStore, order: Order, number: int | None = None) -> Purchase | None:
    """The generation of this very request, if its certificate and its bytes are both in the store.

    number: of the purchase, for one that was bought again on purpose.

    Raises StorageError where the certificate is there but cannot be read.
    """
    path = certificate_path(order.request_key, number)
    try:
        purchase = _purchase(json.loads(store.read(path)))
    except BlobMissing:
        return None
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise StorageError(
            f"{store.location(path)} is damaged ({error}); delete it to generate again"
        ) from None
    return purchase if store.has_blob(purchase.glb) else None


def keep(
    store: ArtifactStore,
    order: Order,
    generator: str,
    task_uuid: str,
    made: Sequence[GeneratedModel],
    choice: Choice,
    bill: Bill,
    number: int | None = None,
) -> Purchase:
    """Store the bytes, then the certificate that makes them findable. The first certificate stands.

    generator: its identity as text. made: at least one model. number: of the purchase, where its certificate
    is to stand beside the first one instead of being it.
    """
    blobs = [model.stored or store.put_blob(model.glb, ".glb") for model in made]
    chosen = made[choice.index]
    scores = choice.scores or ({},) * len(made)
    purchase = Purchase(
        request_key=order.request_key,
        task_uuid=task_uuid,
        glb=blobs[choice.index],
        seed=chosen.seed,
        bill=bill,
        seconds=max(model.seconds for model in made),
        reused=False,
        provenance=dict(chosen.provenance),
        results=tuple(
            Result(blob, model.seed, model.result_id, model.cost_usd, dict(score))
            for blob, model, score in zip(blobs, made, scores, strict=True)
        ),
        bought_for=order.product,
    )
    data = json.dumps(_certificate(order, generator, purchase), indent=1, sort_keys=True).encode()
    path = certificate_path(order.request_key, number)
    if not store.create(path, data):
        other = find_generation(store, order) if number is None else None
        if other is not None:
            # Somebody took this purchase over while we were thought dead: both have the same one.
            return replace(other, reused=False)
        # The certificate outlived its bytes (a cleaned bucket): this generation replaces it.
        store.write(path, data)
    return purchase


def certificate_path(request_key: str, number: int | None = None) -> str:
    """Where the certificate of a request stands in the store; number: of a reproduction."""
    return f"generations/{request_key}.json" if number is None else f"generations/{request_key}.{number}.json"


def _certificate(order: Order, generator: str, purchase: Purchase) -> dict[str, Any]:
    return {
        "request_key": order.request_key,
        "task_uuid": purchase.task_uuid,
        "bought_for": purchase.bought_for,
        "request": order.request.wire(),
        "image_sha256": order.image.sha256,
        "generator": generator,
        "glb": _blob(purchase.glb),
        "seed": purchase.seed,
        "cost_usd": usd_text(purchase.bill.amount),
        "cost_source": purchase.bill.source,
        "raw_cost_text": purchase.bill.raw_cost_text,
        "stage_seconds": {name: round(spent, 6) for name, spent in purchase.bill.stage_seconds.items()},
        "seconds": round(purchase.seconds, 6),
        "provenance": dict(purchase.provenance),
        "results": [
            {
                "glb": _blob(result.glb),
                "seed": result.seed,
                "result_id": result.result_id,
                "cost_usd": None if result.cost_usd is None else usd_text(result.cost_usd),
                "score": dict(result.score),
            }
            for result in purchase.results
        ],
    }


def _purchase(found: Mapping[str, Any]) -> Purchase:
    return Purchase(
        request_key=found["request_key"],
        task_uuid=found.get("task_uuid", ""),
        glb=BlobRef(**found["glb"]),
        seed=found["seed"],
        bill=Bill(
            Decimal(found["cost_usd"]),
            found.get("cost_source", "price_list"),
            found.get("raw_cost_text", ""),
            stage_seconds=found.get("stage_seconds", {}),
        ),
        seconds=found["seconds"],
        reused=True,
        provenance=found["provenance"],
        results=tuple(
            Result(
                BlobRef(**result["glb"]),
                result["seed"],
                result["result_id"],
                None if result["cost_usd"] is None else Decimal(result["cost_usd"]),
                result["score"],
            )
            for result in found.get("results", ())
        ),
        bought_for=found.get("bought_for", ""),
    )


def _blob(blob: BlobRef) -> dict[str, Any]:
    return {"sha256": blob.sha256, "size": blob.size, "suffix": blob.suffix}
