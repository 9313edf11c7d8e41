"""What the stages of one catalog work with: storage, ledger, generator, workers and limits, as plain values.

Opened once for a run by `line` from the Dagster resources, handed to every stage, closed at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

from assets.workers import WorkerPool
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from trellis_pipeline.catalog.product import Product
    from trellis_pipeline.costs.alerts import BudgetAlert
    from trellis_pipeline.imagery.fetch_web import Fetched
    from trellis_pipeline.imagery.make_crop import CropOptions
    from trellis_pipeline.purchasing.till import Till
    from trellis_pipeline.quality.profiles import Profile


@dataclass(frozen=True, slots=True)
class LineTools:
    """run_id: the run that money is booked on, and whose `run_usd` holds; may span several of Dagster's.

    fetch: a photo by location and last ETag; end_connections closes what it
    and the generator have opened, in the same event loop.

    request: the validated request for a product and its attempt. alerts: budgets that go to their end, put
    in by whichever thread spends.
    """

    catalog: str
    run_id: str
    store: ArtifactStore
    till: Till
    workers: WorkerPool
    fetch: Callable[[str, str], Awaitable[Fetched]]
    end_connections: Callable[[], Awaitable[None]]
    image_state: Callable[[str], str]
    request: Callable[[Product, int], GenerationRequest]
    crop_options: CropOptions
    profile: Profile
    preview_px: int
    hold: Literal["paid", "always", "never"] = "paid"
    alerts: SimpleQueue[BudgetAlert] = field(default_factory=SimpleQueue)

    @property
    def generator(self) -> Generator:
        """Who makes the models."""
        return self.till.generator
