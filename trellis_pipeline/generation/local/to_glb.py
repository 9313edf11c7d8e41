"""From decoded voxels to GLB bytes: what a worker process does while the device makes the next model.

It takes plain arrays, so that the worker needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trellis_pipeline.mesh.postprocess.options import PostprocessOptions
from trellis_pipeline.trellis2.voxel_model import VoxelModel


@dataclass(frozen=True, slots=True)
class FinishedGlb:
    """The file, and JSON-able facts about how it was made."""

    glb: bytes
    facts: Mapping[str, Any]


def voxels_to_glb(decoded: VoxelModel, options: PostprocessOptions) -> FinishedGlb:
    """Make the model. Deterministic, unless unwrapping runs out of time.

    Raises MeshError where the surface is empty, not finite or cannot be brought down to the triangles asked.
    """
    from trellis_pipeline.mesh.glb_write import write_glb
    from trellis_pipeline.mesh.postprocess.pipeline import postprocess
    from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes
    from trellis_pipeline.mesh.types import Mesh

    surface = Mesh(decoded.vertices, decoded.triangles)
    voxels = VoxelAttributes(
        coords=decoded.coords,
        values=decoded.attributes,
        voxel_size=1 / decoded.resolution,
        origin=(-0.5,) * 3,
    )
    made = postprocess(surface, voxels, options)
    report = made.report
    facts = {
        "resolution": decoded.resolution,
        "voxels": len(decoded.coords),
        "source_triangles": report.source_triangles,
        "closed": report.closed,
        "remeshed": report.remeshed,
        "alpha_mode": report.alpha_mode,
        "unwrap": report.unwrap,
        "steps_seconds": {step: round(seconds, 3) for step, seconds in report.seconds.items()},
    }
    return FinishedGlb(write_glb(made.mesh), facts)
