"""TRELLIS.2 on this machine behind the common protocol.

The device works in a thread of its own, the steps after it in a worker process, so that the next model begins
while this one is unwrapped and baked. What the device's time costs is the user's own figure; it counts from
the moment when this model has the device, loading included, and also if nothing comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from trellis_pipeline.costs.money import NANO
from trellis_pipeline.errors import ConfigError, GenerationError, ProductError, Spent
from trellis_pipeline.generation.generator import (
    GeneratedModel,
    GeneratorIdentity,
    InputImage,
    Interrupted,
    Progress,
    no_progress,
)
from trellis_pipeline.generation.local.mapping import mode_of, postprocess_of, sampling_of, seeds_of
from trellis_pipeline.generation.local.options import LocalOptions
from trellis_pipeline.generation.local.to_glb import voxels_to_glb
from trellis_pipeline.generation.local.warm import Busy, Stopped, WarmModel, warm_model
from trellis_pipeline.generation.request import TRELLIS_2, GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

    from trellis_pipeline.trellis2.pipeline import Watch
    from trellis_pipeline.trellis2.repository import Repository
    from trellis_pipeline.trellis2.voxel_model import VoxelModel

BUILD = "2"
"""Raised whenever the same weights, photo and seed give another model."""

_SPARE_PX, _SPARE_SHARE = 4, 0.1  # around the object, both sides together: more is a margin

# Shares of the progress that the stages make up, roughly by their published times.
_STAGES = {
    "sparse structure": 0.15,
    "shape": 0.15,
    "fine shape": 0.25,
    "material": 0.2,
    "shape decoder": 0.05,
    "material decoder": 0.05,
}


class LocalGenerator:
    """Implements `generation.generator.Generator`. run_cpu: as in `DraftGenerator`."""

    builds_to_size = False
    at_once = 1

    def __init__(self, options: LocalOptions, run_cpu: Callable[..., Awaitable[Any]]) -> None:
        """Open the checkpoint; nothing is loaded yet. Raises what `warm_model` raises."""
        self._options = options
        self._run_cpu = run_cpu
        self._model = warm_model(options)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trellis2")
        self.identity = GeneratorIdentity("local", TRELLIS_2, _build(self._model, options))

    @property
    def paid(self) -> bool:
        """Whether the device's time has a price."""
        return self._options.usd_per_gpu_second > 0

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        """One model for each seed, one after the other. Models that failed are named in `provenance`.

        Raises GenerationError, MeshError or MatteError where none could be made, with what the attempts did
        cost as `spent`, and where this machine is too small or lacks the weights. What is no product's fault
        ends it at once, and carries `spent` too. Cancelled, it ends at its next step and raises Interrupted.
        """
        self._check(mode_of(request))
        seeds = seeds_of(request)
        made: list[_Made] = []
        failures: list[ProductError] = []
        spent = Busy()
        for number, seed in enumerate(seeds):
            busy = Busy()
            try:
                made.append(await self._one(request, image, seed, busy, _part(progress, number, len(seeds))))
            except ProductError as error:
                failures.append(error)
            except asyncio.CancelledError:
                spent += busy
                raise Interrupted(self._spent(spent)) from None
            except Exception as error:  # the weights, the device, a bug: its time is on the bill all the same
                spent += busy
                error.spent = self._spent(spent)  # type: ignore[attr-defined]
                raise
            spent += busy
        if not made:
            failures[0].spent = self._spent(spent)
            raise failures[0]
        failed = [str(error) for error in failures]
        wasted = spent.seconds - sum(one.busy.seconds for one in made)
        return [
            self._generated(one, wasted if one is made[0] else 0.0, spent.seconds, failed) for one in made
        ]

    async def aclose(self) -> None:
        """Let go of the thread. The model stays warm for the next who needs it in this process."""
        self._thread.shutdown(wait=False)

    def _check(self, mode: str) -> None:
        """Before anything is loaded. A product may ask for what this machine cannot do; the others go on."""
        from trellis_pipeline.trellis2.machine import check_mode

        try:
            check_mode(self._model.machine, mode)
            self._model.repository.require(mode)
        except ConfigError as error:
            raise GenerationError(str(error)) from None

    async def _one(
        self, request: GenerationRequest, image: InputImage, seed: int, busy: Busy, progress: Progress
    ) -> _Made:
        stop = threading.Event()
        square = await asyncio.to_thread(_square, image)

        def on_device() -> VoxelModel:
            return self._model.generate(
                square,
                mode=mode_of(request),
                seed=seed,
                settings=sampling_of(request, self._model.usual, self._options.max_tokens),
                watch=_watch(progress),
                stopped=stop.is_set,
                busy=busy,
            )

        work = asyncio.get_running_loop().run_in_executor(self._thread, on_device)
        try:
            voxels = await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()  # a thread is not interrupted; it ends at its next step
            while not work.done():  # cancelled once more it ends no sooner, and what it cost is not known yet
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            if not work.cancelled():
                work.exception()
            raise
        except Stopped:
            raise GenerationError("the generation was stopped") from None
        finished = await self._run_cpu(voxels_to_glb, voxels, postprocess_of(request, self._options))
        progress(1.0)
        return _Made(finished.value.glb, seed, busy, finished.seconds, finished.value.facts)

    def _generated(self, one: _Made, wasted: float, total: float, failed: Sequence[str]) -> GeneratedModel:
        """wasted: busy seconds of attempts that failed, for the model that bears them. total: of all."""
        machine = self._model.machine
        provenance: dict[str, object] = {
            "device": machine.name,
            "precision": {"flows": machine.flow_dtype, "decoders": machine.decoder_dtype},
            "memory_plan": self._model.plan,
            "glb_sha256": hashlib.sha256(one.glb).hexdigest(),
            **one.facts,
        }
        if failed:
            provenance |= {"results_failed": len(failed), "failures": list(failed)}
        stages = {
            **one.busy.stage_seconds,
            "generate": one.busy.generate_seconds + wasted,
            "post_process": one.cpu_seconds,
        }
        return GeneratedModel(
            glb=one.glb,
            seed=one.seed,
            cost_usd=self._price(one.busy.seconds + wasted),
            seconds=total,
            stage_seconds=stages,
            provenance=provenance,
        )

    def _spent(self, busy: Busy) -> Spent:
        return Spent(self._price(busy.seconds), busy.stage_seconds)

    def _price(self, busy_seconds: float) -> Decimal:
        exact = self._options.usd_per_gpu_second * Decimal(str(round(busy_seconds, 6)))
        return exact.quantize(NANO, rounding=ROUND_CEILING)


@dataclass(frozen=True, slots=True)
class _Made:
    glb: bytes
    seed: int
    busy: Busy
    cpu_seconds: float
    facts: Mapping[str, Any]


def _square(image: InputImage) -> Image.Image:
    """The crop on black. The line cut it by the model's own rule, which takes off a pixel; once is enough.

    A service's client may have left a margin, which the model does not know. Raises MatteError for nothing,
    SourceImageError for a client's file that is damaged.
    """
    from PIL import Image

    from trellis_pipeline.imagery.crop import crop_to_object, object_box, to_model_input
    from trellis_pipeline.imagery.decode import PILLOW_MAX_PIXELS, decode_image

    rgba = decode_image(image.png, max_pixels=PILLOW_MAX_PIXELS).rgba
    side = max(rgba.shape[:2])
    spare = side - object_box(rgba[..., 3]).side
    loose = spare > max(_SPARE_PX, _SPARE_SHARE * side)
    return Image.fromarray(to_model_input(crop_to_object(rgba) if loose else rgba))


def _part(progress: Progress, number: int, of: int) -> Progress:
    """The progress of one model as a part of all."""
    return lambda share: progress((number + share) / of)


def _watch(progress: Progress) -> Watch:
    """From steps of stages to a share that only grows. A mode without a stage jumps over it."""
    names = list(_STAGES)

    def watch(stage: str, done: int, of: int) -> None:
        before = sum(_STAGES[name] for name in names[: names.index(stage)])
        progress(before + _STAGES[stage] * done / of)

    return watch


def _build(model: WarmModel, options: LocalOptions) -> str:
    """Changes with everything but the request that shapes the result: the checkpoint, how it is computed."""
    repository = model.repository
    shaping = {
        "weights": _fingerprint(repository),
        "sampling": asdict(repository.settings),
        "scales": [asdict(repository.shape_normalization), asdict(repository.material_normalization)],
        "precision": [model.machine.flow_dtype, model.machine.decoder_dtype],
        "max_tokens": options.max_tokens,
        "model": [options.original_remesh, options.normal_map, options.occlusion_rays],
    }
    return f"{BUILD}-{hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]}"


def _fingerprint(repository: Repository) -> list[list[object]]:
    """What tells one checkpoint from another without reading gigabytes: arguments and headers.

    A safetensors file begins with a header that states every tensor; files that were trained anew under the
    same names differ in what follows, so a megabyte of that is taken as well.
    """
    prints: list[list[object]] = []
    for name in sorted(set(repository.networks) - set(repository.absent)):
        files = repository.networks[name]
        with files.weights.open("rb") as stream:
            start = hashlib.sha256(stream.read(1 << 20)).hexdigest()
        prints.append([name, dict(files.args), files.weights.stat().st_size, start])
    return prints
