"""UVs for a mesh: a good unwrapper first, a plain one that cannot fail behind it.

uvunwrap cuts few charts with little stretch, but it is young and a bad mesh may cost it minutes. So it runs
against a clock, its layout is rasterised to see whether charts overlap, and if anything is wrong the box
layout of box_layout.py takes over: more seams, same guarantees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.box_layout import box_layout
from trellis_pipeline.mesh.clean import check_mesh
from trellis_pipeline.mesh.types import Float32, Int32, Mesh

CHECK_PX = 1024  # an overlap that no texel of this raster shows is smaller than a texel of any of ours
# Fitting charts by their shape covers a hundredth more of the texture than packing their boxes. On large
# generated surfaces, which fall into thousands of charts, it takes most of a minute.
SHAPE_PACKED = 20_000  # triangles
OVERLAP_SHARE = 1e-4  # of the covered texels; more than that is a fault of the layout


@dataclass(frozen=True, slots=True)
class UnwrappedMesh:
    """A mesh split along its seams.

    positions: (V, 3) float32, metres. uvs: (V, 2) float32 in 0..1, top left first. triangles: (T, 3) int32,
    the input's triangles in the input's order. source_vertex: (V,) int32, the input vertex each came from.
    overlap_texels: texel centres that two triangles claim at 1024 px (or the texture's size, if smaller).
    method: which layout it is.
    """

    positions: Float32
    uvs: Float32
    triangles: Int32
    source_vertex: Int32
    overlap_texels: int
    method: Literal["uvunwrap", "box"]


def unwrap(
    mesh: Mesh, *, texture_px: int, padding_px: int, timeout_seconds: float | None = None
) -> UnwrappedMesh:
    """Lay the surface out on a square texture of `texture_px`, charts at least `padding_px` texels apart.

    mesh: welded, consistently wound, manifold for good charts. After `timeout_seconds`, or when uvunwrap
    refuses the mesh or its charts overlap, the box layout is used.

    Raises MeshError for malformed or empty meshes and for a texture too small for the charts.
    """
    check_mesh(mesh)
    if len(mesh.triangles) == 0:
        raise MeshError("nothing to unwrap: the mesh has no triangles")
    if texture_px < 8 or not 0 <= padding_px <= texture_px // 8:
        raise MeshError(f"padding of {padding_px} px on a texture of {texture_px} px; use at most an eighth")
    unwrapped = _unwrap_well(mesh, texture_px, padding_px, timeout_seconds)
    return unwrapped if unwrapped is not None else _unwrap_plainly(mesh, texture_px, padding_px)


def _unwrap_well(
    mesh: Mesh, texture_px: int, padding_px: int, timeout_seconds: float | None
) -> UnwrappedMesh | None:
    """uvunwrap's layout, or None if it is late, fails or is not sound."""
    import uvunwrap

    source = uvunwrap.Mesh(
        np.ascontiguousarray(mesh.vertices, dtype=np.float32),
        np.ascontiguousarray(mesh.triangles, dtype=np.uint32),
    )
    packing: Literal["shape", "fast"] = "shape" if len(mesh.triangles) <= SHAPE_PACKED else "fast"
    job = uvunwrap.start([source], page_size=texture_px, padding=padding_px, packing=packing)
    try:
        atlas = job.result(timeout_seconds)
    except (TimeoutError, uvunwrap.UnwrapError):
        job.cancel()
        return None
    if atlas.page_count != 1 or max(atlas.width, atlas.height) > texture_px:
        return None
    output = atlas.meshes[0]
    triangles = np.asarray(output.indices, dtype=np.int32).reshape(-1, 3)
    origin = np.asarray(output.xref, dtype=np.int32)
    # The page may be smaller than the texture; its UVs are relative to the page.
    page = np.array([atlas.width, atlas.height], dtype=np.float32) / np.float32(texture_px)
    uvs = np.asarray(output.uv, dtype=np.float32).reshape(-1, 2) * page
    if triangles.shape != mesh.triangles.shape or not np.array_equal(origin[triangles], mesh.triangles):
        return None
    if not np.isfinite(uvs).all() or uvs.min() < 0 or uvs.max() > 1:
        return None
    raster = rasterize_atlas(uvs, triangles, min(texture_px, CHECK_PX))
    if raster.overlap_texels > OVERLAP_SHARE * np.count_nonzero(raster.covered):
        return None
    positions = np.ascontiguousarray(mesh.vertices[origin], dtype=np.float32)
    return UnwrappedMesh(positions, uvs, triangles, origin, raster.overlap_texels, "uvunwrap")


def _unwrap_plainly(mesh: Mesh, texture_px: int, padding_px: int) -> UnwrappedMesh:
    """The box layout; corners of one chart that share an input vertex share an output vertex."""
    corner_uvs, chart = box_layout(mesh, texture_px, padding_px)
    key = np.repeat(chart, 3) * len(mesh.vertices) + mesh.triangles.reshape(-1)
    _, corner, inverse = np.unique(key, return_index=True, return_inverse=True)
    triangles = inverse.reshape(-1, 3).astype(np.int32)
    uvs = corner_uvs.reshape(-1, 2)[corner]
    origin = mesh.triangles.reshape(-1)[corner].astype(np.int32)
    raster = rasterize_atlas(uvs, triangles, min(texture_px, CHECK_PX))
    positions = np.ascontiguousarray(mesh.vertices[origin], dtype=np.float32)
    return UnwrappedMesh(positions, uvs, triangles, origin, raster.overlap_texels, "box")
