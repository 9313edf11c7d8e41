"""The detail that simplification takes away, kept as a texture of normals.

Every texel stores the original surface's normal as seen from the simplified one: its red along growing u,
its green along falling v (up in the image), its blue outwards, as glTF 2.0 §3.9.3 and viewers that derive
tangents from UVs have it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.atlas import AtlasRaster, fill_gutter, texel_values
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.postprocess.closest import ClosestPoints
from trellis_pipeline.mesh.types import Float32, Mesh, UInt8
from trellis_pipeline.mesh.unwrap import UnwrappedMesh

STEEPEST = 0.17  # cosine; a normal more than 80 degrees off comes from the far side of a thin wall
FLAT = (128, 128, 255)

Float64 = npt.NDArray[np.float64]


def bake_normals(
    raster: AtlasRaster, layout: UnwrappedMesh, normals: Float32, source: Mesh, closest: ClosestPoints
) -> UInt8:
    """(px, px, 3) uint8 tangent-space normals.

    normals: (V, 3) of `layout`, as they will be written. source: the original surface, wound outwards.
    closest: for every covered texel in order (bake.closest_to_texels).
    """
    tangents, handedness = vertex_tangents(layout, normals)
    given = np.hstack([normals, tangents, handedness[:, None]]).astype(np.float32)
    flat, frame = texel_values(raster, layout.triangles, given)
    normal = _unit(frame[:, :3].astype(np.float64))
    tangent = frame[:, 3:6].astype(np.float64)
    tangent = _unit(tangent - np.einsum("ij,ij->i", tangent, normal)[:, None] * normal)
    up = np.cross(normal, tangent) * np.where(frame[:, 6:] < 0, -1.0, 1.0)
    corner = vertex_normals(source)[source.triangles[closest.triangle]]
    wanted = _unit(np.einsum("nk,nkx->nx", closest.barycentrics, corner).astype(np.float64))
    local = np.stack([np.einsum("ij,ij->i", wanted, axis) for axis in (tangent, up, normal)], axis=1)
    local[local[:, 2] < STEEPEST] = (0, 0, 1)
    px = raster.triangle_id.shape[0]
    image = np.empty((px * px, 3), np.uint8)
    image[:] = FLAT
    image[flat] = np.rint(local * 127.5 + 127.5).astype(np.uint8)
    return np.asarray(fill_gutter(image.reshape(px, px, 3), raster.covered), np.uint8)


def vertex_tangents(layout: UnwrappedMesh, normals: Float32) -> tuple[Float64, Float64]:
    """Unit tangents (V, 3) along growing u, and +1 or -1 (V,): the side on which falling v lies.

    The second is the sign in bitangent = sign · normal × tangent.
    """
    corner = layout.positions.astype(np.float64)[layout.triangles]
    uv = layout.uvs.astype(np.float64)[layout.triangles]
    edge, step = corner[:, 1:] - corner[:, :1], uv[:, 1:] - uv[:, :1]
    area = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
    side = np.where(area < 0, -1.0, 1.0)[:, None]
    along_u = (edge[:, 0] * step[:, 1, 1:] - edge[:, 1] * step[:, 0, 1:]) * side
    along_v = (edge[:, 1] * step[:, 0, :1] - edge[:, 0] * step[:, 1, :1]) * side
    total_u, total_v = np.zeros((2, len(layout.positions), 3))
    for k in range(3):
        for axis in range(3):
            weights = (along_u[:, axis], along_v[:, axis])
            for total, weight in zip((total_u, total_v), weights, strict=True):
                total[:, axis] += np.bincount(
                    layout.triangles[:, k], weights=weight, minlength=len(layout.positions)
                )
    total_u -= np.einsum("ij,ij->i", total_u, normals)[:, None] * normals
    lost = np.linalg.norm(total_u, axis=1) < 1e-20
    total_u[lost] = np.cross(normals[lost], np.roll(normals[lost], 1, axis=1) + np.array([0.1, 0.2, 0.3]))
    tangents = _unit(total_u)
    up = np.cross(normals, tangents)
    return tangents, np.where(np.einsum("ij,ij->i", up, total_v) > 0, -1.0, 1.0)


def _unit(rows: Float64) -> Float64:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))
