"""Edges that look like edges: normals are smooth over a bend and part at a crease.

One normal for each vertex makes the rim of a cup look swollen, and long triangles beside it shimmer. Faces
that meet at a sharp angle therefore do not share normals. That needs vertices of their own on both sides,
which the layout gets here.
"""

from __future__ import annotations

import math

import numpy as np

from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.postprocess.sides import pair_half_edges, split_vertices
from trellis_pipeline.mesh.types import Float32, Mesh
from trellis_pipeline.mesh.unwrap import UnwrappedMesh

CREASE_DEGREES = 40.0  # between the normals of two faces; less is a bend


def part_at_creases(
    mesh: Mesh, layout: UnwrappedMesh, crease_degrees: float = CREASE_DEGREES
) -> tuple[UnwrappedMesh, Float32]:
    """The layout with more vertices, and (V, 3) float32 unit normals for them.

    mesh: manifold, wound alike. layout: of that mesh. Triangles keep their order, UVs stay as they are. Where
    a crease ends within the surface its sides share a normal.
    """
    mates = pair_half_edges(mesh, wound_alike=True)
    corner = mesh.vertices.astype(np.float64)[mesh.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    paired = np.flatnonzero(mates >= 0)
    cosine = np.einsum("ij,ij->i", normal[paired // 3], normal[mates[paired] // 3])
    mates[paired[cosine < math.cos(math.radians(crease_degrees))]] = -1
    parted, _ = split_vertices(mesh, mates)
    both = layout.triangles.astype(np.int64) * len(parted.vertices) + parted.triangles
    key, place = np.unique(both, return_inverse=True)
    from_layout, from_parted = np.divmod(key, len(parted.vertices))
    finer = UnwrappedMesh(
        layout.positions[from_layout],
        layout.uvs[from_layout],
        place.reshape(-1, 3).astype(np.int32),
        layout.source_vertex[from_layout],
        layout.overlap_texels,
        layout.method,
    )
    return finer, vertex_normals(parted, by_area=True)[from_parted]
