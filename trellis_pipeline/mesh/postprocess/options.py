"""What one may choose about the way from voxels to a model, and what is told about it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.postprocess.bake import AlphaMode, ImageFormat
from trellis_pipeline.mesh.types import TexturedMesh


@dataclass(frozen=True, slots=True)
class PostprocessOptions:
    """How to make the model.

    max_triangles: never exceeded. texture_px: side of the square textures. remesh: replace the surface by a
    closed skin around it (narrow_band); without it the decoded surface itself is repaired and simplified.
    remesh_band_cells: distance of the skin in voxels. remesh_project: how far the skin is drawn back to the
    surface, 0..1. max_hole_perimeter, min_part_area: smaller holes are closed, smaller parts dropped; in
    units of the decoder's space, in which an object is about 1 high. drop_inner: remove the walls that nobody
    can see, inside a closed object and behind a remeshed skin; they are kept anyway if the material is
    see-through. original_remesh: what TRELLIS.2's own exporter does with its application's settings, a
    double-walled skin one voxel outside the surface; overrides the remesh settings and drop_inner.

    normal_map: bake the original surface's normals. occlusion_rays: bake how much ambient light reaches each
    place, found with so many rays a vertex (32 is enough); 0 leaves it out, as generated colours often hold
    some shading already. image_format: JPEG textures with alpha are PNG.
    height_m, width_m, depth_m: real size, see transform.scale_to_dimensions. on_floor: origin at the bottom
    centre instead of the middle of the decoder's space. unwrap_timeout_seconds: then the plain box layout.
    threads: for the steps that can use several.
    """

    max_triangles: int = 500_000
    texture_px: int = 2048
    remesh: bool = True
    remesh_band_cells: float = 1.0
    remesh_project: float = 0.9
    original_remesh: bool = False
    max_hole_perimeter: float = 0.03
    min_part_area: float = 1e-5
    drop_inner: bool = True
    normal_map: bool = False
    occlusion_rays: int = 0
    image_format: ImageFormat = "jpeg"
    image_quality: int = 92
    height_m: float | None = None
    width_m: float | None = None
    depth_m: float | None = None
    on_floor: bool = True
    unwrap_timeout_seconds: float | None = 120.0
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise MeshError for values that cannot work."""
        if self.max_triangles < 4:
            raise MeshError(f"a closed surface needs 4 triangles; max_triangles is {self.max_triangles}")
        if not 16 <= self.texture_px <= 8192:
            raise MeshError(f"texture_px is {self.texture_px}; possible are 16 to 8192")
        if not 0 <= self.remesh_project <= 1 or not 0 < self.remesh_band_cells <= 8:
            raise MeshError(
                f"remesh_project is {self.remesh_project} and remesh_band_cells {self.remesh_band_cells}; "
                "possible are 0 to 1 and more than 0 up to 8"
            )
        if not 0 <= self.occlusion_rays <= 1024:
            raise MeshError(f"occlusion_rays is {self.occlusion_rays}; possible are 0 to 1024")
        if self.threads < 1:
            raise MeshError(f"threads is {self.threads}; at least one has to work")


@dataclass(frozen=True, slots=True)
class PostprocessReport:
    """What was done. seconds: of each step by name, in order.

    source_triangles: as decoded. surface_triangles: after repair or remeshing. triangles, vertices: of the
    model. closed: every edge has two faces. unwrap: which layout; overlap_texels as in UnwrappedMesh.
    atlas_coverage: share of the texture that the charts cover.
    """

    source_triangles: int
    surface_triangles: int
    triangles: int
    vertices: int
    closed: bool
    remeshed: bool
    alpha_mode: AlphaMode
    unwrap: Literal["uvunwrap", "box"]
    overlap_texels: int
    atlas_coverage: float
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Postprocessed:
    """The model, ready for glb_write.write_glb, and how it came about."""

    mesh: TexturedMesh
    report: PostprocessReport
