"""The draft generator behind the common protocol: a blockout from the silhouette, on the CPU, for nothing.

It needs no key, no GPU and no download, so the whole line can be tried, tested and demonstrated anywhere.
What it makes is a stand-in, and everything that shows it says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

from trellis_pipeline.generation.generator import (
    GeneratedModel,
    GeneratorIdentity,
    InputImage,
    Progress,
    no_progress,
)
from trellis_pipeline.generation.request import GenerationRequest

BUILD = "1"
"""Raised whenever the same crop and seed give another model."""


class DraftGenerator:
    """run_cpu: calls a top-level function with arguments in a worker; gives its `.value` and `.seconds`."""

    identity = GeneratorIdentity("draft", "silhouette-blockout", BUILD)
    paid = False
    builds_to_size = True
    at_once = None

    def __init__(self, run_cpu: Callable[..., Awaitable[Any]]) -> None:
        self._run_cpu = run_cpu

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        """One blockout, however many are asked for: all would be alike.

        `decimationTarget` and `textureSize` are upper limits; the samplers do not apply.

        Raises MeshError or GenerationError for a crop that has no usable silhouette.
        """
        from trellis_pipeline.generation.draft.build import build_draft
        from trellis_pipeline.generation.draft.model import DraftOptions

        width_m, height_m, depth_m = image.dimensions_m
        options = DraftOptions(
            max_triangles=request.settings.decimationTarget,
            texture_px=request.settings.textureSize,
            seed=request.seed,
            width_m=width_m,
            height_m=height_m,
            depth_m=depth_m,
        )
        built = await self._run_cpu(build_draft, image.png, options, {})
        made = built.value
        progress(1.0)
        model = GeneratedModel(
            glb=made.glb,
            seed=request.seed,
            cost_usd=Decimal(0),
            seconds=built.seconds,
            provenance={"draft": True, "method": made.method, "depth_ratio": round(made.depth_ratio, 4)},
        )
        return [model]
