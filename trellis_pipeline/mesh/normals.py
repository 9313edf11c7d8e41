"""Smooth vertex normals: one per position, so that a UV seam does not show as an edge in the shading."""

from __future__ import annotations

import numpy as np

from trellis_pipeline.mesh.types import Float32, Mesh


def vertex_normals(mesh: Mesh, *, by_area: bool = False) -> Float32:
    """(V, 3) float32 unit normals, faces weighted by the angle they take up at the vertex.

    Angle weights do not depend on how a flat area is cut into triangles (Thürmer & Wüthrich 1998). With
    `by_area` the face's area counts as well: beside a narrow bevel the large faces then stay flat and the
    bevel takes up all of the bend. Compute them on the welded mesh and carry them over a seam with
    `normals[unwrapped.source_vertex]`. Vertices without a face of positive area get (0, 1, 0).
    """
    corner = mesh.vertices.astype(np.float64)[mesh.triangles]  # (T, 3, 3)
    edge = np.roll(corner, -1, axis=1) - corner
    length = np.sqrt(np.einsum("tij,tij->ti", edge, edge))
    edge /= np.maximum(length, np.finfo(np.float64).tiny)[:, :, None]
    face = np.cross(edge[:, 0], edge[:, 1])
    norm = np.sqrt(np.einsum("ti,ti->t", face, face))
    face /= np.maximum(norm, np.finfo(np.float64).tiny)[:, None]
    cosine = -np.einsum("tij,tij->ti", edge, np.roll(edge, 1, axis=1))
    angle = np.arccos(np.clip(cosine, -1, 1))
    angle[norm == 0] = 0
    if by_area:
        # norm is the sine between the first two edges, so this is twice the area; the scale cancels out.
        angle *= (norm * length[:, 0] * length[:, 1])[:, None] / max(
            float(length.max(initial=0)) ** 2, 1e-300
        )
    total = np.empty((len(mesh.vertices), 3))
    corner_vertex = mesh.triangles.reshape(-1)
    for axis in range(3):
        weighted = (angle * face[:, axis, None]).reshape(-1)
        total[:, axis] = np.bincount(corner_vertex, weights=weighted, minlength=len(mesh.vertices))
    norm = np.sqrt(np.einsum("vi,vi->v", total, total))
    weight = np.bincount(corner_vertex, weights=angle.reshape(-1), minlength=len(mesh.vertices))
    lost = norm <= 1e-12 * weight
    total[lost] = (0, 1, 0)
    norm[lost] = 1
    normals: Float32 = (total / norm[:, None]).astype(np.float32)
    return normals
