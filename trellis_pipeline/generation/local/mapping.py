"""What a request means to the networks and to the steps after them.

The names and ranges of a request are the API's; what it leaves open keeps the value that the checkpoint's own
description states, or the one that the published application uses. The API's `resolution` chooses the way
through the networks that the application chooses for it: 1024 and 1536 are reached by cascade.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trellis_pipeline.generation.local.options import LocalOptions
from trellis_pipeline.generation.request import GenerationRequest, SamplerSettings
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions

if TYPE_CHECKING:
    from trellis_pipeline.trellis2.pipeline import GenerationSettings
    from trellis_pipeline.trellis2.sampler import SamplerSettings as Sampling

MODE_OF_RESOLUTION = {512: "512", 1024: "1024_cascade", 1536: "1536_cascade"}

_SEEDS = 2**63


def mode_of(request: GenerationRequest) -> str:
    """A key of `trellis2.modes.MODES`."""
    return MODE_OF_RESOLUTION[request.settings.resolution]


def seeds_of(request: GenerationRequest) -> tuple[int, ...]:
    """One for each result: the request's own, then the numbers after it, within 0 to 2^63 - 1."""
    return tuple((request.seed + number) % _SEEDS for number in range(request.numberResults))


def sampling_of(request: GenerationRequest, usual: GenerationSettings, max_tokens: int) -> GenerationSettings:
    """How to sample. usual: the checkpoint's own settings, for what the request leaves open."""
    settings = request.settings
    return replace(
        usual,
        structure=_sampling(settings.sparseStructure, usual.structure),
        shape=_sampling(settings.shapeSlat, usual.shape),
        material=_sampling(settings.texSlat, usual.material),
        max_tokens=max_tokens,
    )


def postprocess_of(request: GenerationRequest, options: LocalOptions) -> PostprocessOptions:
    """How to make a model out of the voxels. Real size comes later: the decoder's space knows none."""
    return PostprocessOptions(
        max_triangles=request.settings.decimationTarget,
        texture_px=request.settings.textureSize,
        remesh=request.settings.remesh,
        original_remesh=options.original_remesh and request.settings.remesh,
        normal_map=options.normal_map,
        occlusion_rays=options.occlusion_rays,
        threads=options.threads,
    )


def _sampling(asked: SamplerSettings, usual: Sampling) -> Sampling:
    return replace(
        usual,
        steps=usual.steps if asked.steps is None else asked.steps,
        guidance_strength=_or(asked.guidanceStrength, usual.guidance_strength),
        guidance_rescale=_or(asked.guidanceRescale, usual.guidance_rescale),
        rescale_t=_or(asked.rescaleT, usual.rescale_t),
    )


def _or(asked: float | None, usual: float) -> float:
    return usual if asked is None else asked
