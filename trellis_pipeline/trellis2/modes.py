"""The ways through the networks, by the names of the published application.

512             structure at 32, shape and material at 512
1024            structure at 64, shape and material at 1024
1024_cascade    structure at 32, shape at 512, its voxels as finer grid, shape again and material at 1024
1536_cascade    the same with a finer grid still, and the same networks
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """One way through the networks. resolution: fine voxels along an edge, the most that may come out.

    structure_edge: cells along an edge of the coarse grid. shape_flow: runs on it. refining_flow: runs again
    on a finer grid, None without cascade. photo_px: what the later flows see; the structure flow and a
    cascade's first flow see 512.
    """

    resolution: int
    structure_edge: int
    shape_flow: str
    refining_flow: str | None
    material_flow: str
    photo_px: int


MODES = {
    "512": Mode(512, 32, "shape_slat_flow_model_512", None, "tex_slat_flow_model_512", 512),
    "1024": Mode(1024, 64, "shape_slat_flow_model_1024", None, "tex_slat_flow_model_1024", 1024),
    "1024_cascade": Mode(
        1024, 32, "shape_slat_flow_model_512", "shape_slat_flow_model_1024", "tex_slat_flow_model_1024", 1024
    ),
    "1536_cascade": Mode(
        1536, 32, "shape_slat_flow_model_512", "shape_slat_flow_model_1024", "tex_slat_flow_model_1024", 1024
    ),
}
