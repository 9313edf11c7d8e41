"""Pictures to hold a finished model against: its voxels drawn as they are, and where its seams run."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.encode import encode_png
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.postprocess.pipeline import y_up
from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes
from trellis_pipeline.mesh.types import Material, Mesh, TexturedMesh


def nearest_voxel(voxels: VoxelAttributes, points: np.ndarray) -> np.ndarray:
    """(N, 6) values of the voxels whose middles are nearest to points of the decoder's space."""
    middles = (voxels.coords + 0.5) * voxels.voxel_size + np.asarray(voxels.origin)
    return voxels.values[cKDTree(middles).query(points)[1]]


def voxels_as_they_are(surface: Mesh, voxels: VoxelAttributes) -> bytes:
    """A GLB of the whole surface, not simplified, not unwrapped: each face has its nearest voxel's material.

    surface: manifold, wound outwards, in the decoder's space; its normals are smooth.
    """
    corners = surface.vertices.astype(np.float64)[surface.triangles]
    values = np.clip(nearest_voxel(voxels, corners.mean(axis=1)), 0, 1)
    side = int(np.ceil(np.sqrt(len(values))))
    texel = np.zeros((side * side, 6), np.uint8)
    texel[: len(values)] = np.rint(values * 255)
    image = texel.reshape(side, side, 6)
    face = np.arange(len(values))
    uv = np.stack([(face % side + 0.5) / side, (face // side + 0.5) / side], axis=1)
    rough_metal = np.dstack([np.full((side, side), 255, np.uint8), image[..., 4], image[..., 3]])
    material = Material(
        base_color=encode_png(np.ascontiguousarray(image[..., :3]), compression=1),
        metallic_roughness=encode_png(np.ascontiguousarray(rough_metal), compression=1),
        metallic=1.0,
    )
    flat = surface.triangles.reshape(-1)
    return write_glb(
        TexturedMesh(
            y_up(surface.vertices[flat]),
            y_up(vertex_normals(surface)[flat]),
            np.repeat(uv, 3, axis=0).astype(np.float32),
            np.arange(len(flat), dtype=np.int32).reshape(-1, 3),
            material,
        )
    )


def seams_in_white(mesh: TexturedMesh, px: int) -> bytes:
    """A GLB of the model, black but for the outermost two texels of every chart."""
    covered = rasterize_atlas(mesh.uvs, mesh.triangles, px).covered
    rim = covered & ~binary_erosion(covered, iterations=2)
    paint = np.repeat(np.where(rim | ~covered, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    material = Material(base_color=encode_png(paint, compression=1), metallic=0.0, roughness=1.0)
    return write_glb(TexturedMesh(mesh.positions, mesh.normals, mesh.uvs, mesh.triangles, material))
