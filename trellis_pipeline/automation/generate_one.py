"""One photo to one model, without a catalog: to try a generator, a setting or a machine.

The same crop, generator and finish as on the line, so what comes out here is what the line would make. What
is left out is everything that needs a catalog: records, lineage, checks, and the ledger. So a generator that
sends bills is refused here; buying belongs on the line, where it is done once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assets.workers import WorkerPool
from resources.generator import generator_of
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Closable, InputImage, Progress, no_progress
from trellis_pipeline.imagery.fetch import read_file
from trellis_pipeline.imagery.make_crop import CropOptions, make_crop
from trellis_pipeline.purchasing.finish import finish_model
from trellis_pipeline.purchasing.till import is_remote

if TYPE_CHECKING:
    from trellis_pipeline.config import Settings
    from trellis_pipeline.generation.generator import GeneratedModel, Generator
    from trellis_pipeline.generation.request import GenerationRequest
    from trellis_pipeline.imagery.make_crop import CropResult
    from trellis_pipeline.purchasing.finish import Dimensions, FinishedModel


@dataclass(frozen=True, slots=True)
class OneModel:
    """The model, what it was made of, and by whom. generator: its identity as text."""

    model: FinishedModel
    made: GeneratedModel
    crop: CropResult
    request: GenerationRequest
    generator: str


def generate_one(
    settings: Settings,
    photo: Path,
    asked: Mapping[str, object],
    *,
    height_m: float | None = None,
    progress: Progress = no_progress,
) -> OneModel:
    """Make one model of a photo. asked: request settings by their wire paths. height_m: real height.

    Raises ConfigError where the generator cannot work or sends bills, ProductError where the photo or the
    generator gives no model.
    """
    resource = generator_of(settings)
    request = resource.request(asked)
    workers = WorkerPool(settings.run.workers)

    async def work() -> OneModel:
        generator = resource.open(workers.run)
        try:
            return await _made(generator, request, photo, settings, (None, height_m, None), workers, progress)
        finally:
            if isinstance(generator, Closable):
                with suppress(OSError):
                    await generator.aclose()

    try:
        return asyncio.run(work())
    finally:
        workers.close()


async def _made(
    generator: Generator,
    request: GenerationRequest,
    photo: Path,
    settings: Settings,
    dimensions: Dimensions,
    workers: WorkerPool,
    progress: Progress,
) -> OneModel:
    if is_remote(generator):
        raise ConfigError(
            f"generator {generator.identity.name} is paid for each model: use `trellis-pipeline run`, which "
            "keeps the books and buys nothing twice"
        )
    options = CropOptions(
        max_pixels=settings.imagery.max_pixels,
        matte=settings.imagery.matte,
        weights=settings.local.weights.expanduser(),
    )
    crop = (await workers.run(make_crop, read_file(photo, settings.imagery.max_bytes), options)).value
    image = InputImage(crop.png, hashlib.sha256(crop.png).hexdigest(), dimensions)
    (made, *_) = await generator.generate(request, image, progress)
    certificate = {
        **made.provenance,
        "generator": str(generator.identity),
        "request": request.wire(),
        "crop_sha256": image.sha256,
        "seed": made.seed,
    }
    size = None if generator.builds_to_size else dimensions
    model = (await workers.run(finish_model, made.glb, certificate, size)).value
    return OneModel(model, made, crop, request, str(generator.identity))
