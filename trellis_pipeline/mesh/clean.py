"""Repairs that need no judgement: merge equal positions, drop what has no area, drop what nobody uses.

Every later step counts on them. A seam or a doubled vertex looks like a hole to an edge test, a face
without area has no normal and no place in an atlas.
"""

from __future__ import annotations

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.bins import first_of_each, with_area
from trellis_pipeline.mesh.types import Int32, Mesh


def weld(mesh: Mesh) -> Mesh:
    """Vertices at bitwise equal positions (after -0.0 became 0.0) become one; triangles keep their order."""
    keys = np.ascontiguousarray(mesh.vertices + np.float32(0)).view(np.uint32).astype(np.uint64)
    # Mixing three coordinates into one word makes the sort three times cheaper than a lexicographic one;
    # the neighbours in that order are then compared in full.
    mixed = (keys[:, 0] * np.uint64(0x9E3779B97F4A7C15)) ^ (keys[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed ^= keys[:, 2] * np.uint64(0x165667B19E3779F9)
    order = np.argsort(mixed, kind="stable")
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    if len(order) and (mixed[order[1:]] == mixed[order[:-1]])[fresh[1:]].any():  # two positions, one word
        order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))
        fresh[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    first = np.minimum.reduceat(order, np.flatnonzero(fresh)) if len(order) else order
    new_index = np.empty(len(order), dtype=np.int32)
    new_index[order] = first[np.cumsum(fresh) - 1]
    return drop_unused_vertices(Mesh(mesh.vertices, new_index[mesh.triangles]))


def drop_degenerate_faces(mesh: Mesh) -> Mesh:
    """Remove triangles with a repeated corner or three corners exactly on a line (zero cross product)."""
    keep = with_area(mesh.vertices, mesh.triangles)
    return mesh if keep.all() else Mesh(mesh.vertices, mesh.triangles[keep])


def drop_duplicate_faces(mesh: Mesh) -> Mesh:
    """Of triangles over the same three vertices, whatever their winding, keep the first."""
    if len(mesh.triangles) == 0:
        return mesh
    keep = first_of_each(mesh.triangles, len(mesh.vertices))
    return mesh if keep.all() else Mesh(mesh.vertices, mesh.triangles[keep])


def drop_unused_vertices(mesh: Mesh) -> Mesh:
    """Keep the vertices that a triangle uses, in their order."""
    used = np.zeros(len(mesh.vertices), dtype=bool)
    used[mesh.triangles] = True
    if used.all():
        return mesh
    new_index = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return Mesh(mesh.vertices[used], new_index[mesh.triangles])


def clean(mesh: Mesh) -> Mesh:
    """`weld`, `drop_degenerate_faces`, `drop_duplicate_faces`, `drop_unused_vertices`, in this order.

    Raises MeshError if the arrays do not describe triangles (see `check_mesh`).
    """
    check_mesh(mesh)
    return drop_unused_vertices(drop_duplicate_faces(drop_degenerate_faces(weld(mesh))))


def check_mesh(mesh: Mesh) -> None:
    """Raise MeshError unless vertices are finite (V, 3) and triangles (T, 3) point at them; T may be 0."""
    vertices, triangles = mesh.vertices, mesh.triangles
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise MeshError(f"vertices have shape {vertices.shape}; expected (V, 3)")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise MeshError(f"triangles have shape {triangles.shape}; expected (T, 3)")
    if not np.isfinite(vertices).all():
        raise MeshError("vertices contain NaN or infinity")
    if len(triangles) and (triangles.min() < 0 or triangles.max() >= len(vertices)):
        raise MeshError(
            f"triangles point at vertices {triangles.min()}..{triangles.max()}; there are {len(vertices)}"
        )


def is_closed_manifold(triangles: Int32) -> bool:
    """Whether every directed edge occurs once and its opposite once, and no triangle repeats a corner.

    triangles: (T, 3) int32. This makes each edge belong to two consistently wound triangles; surfaces that
    touch in a single vertex pass. Works on indices, so weld first. False for an empty array.
    """
    if len(triangles) == 0:
        return False
    start = triangles.astype(np.int64)
    end = np.roll(start, -1, axis=1)
    span = int(triangles.max()) + 1
    there = np.sort((start * span + end).reshape(-1))
    back = np.sort((end * span + start).reshape(-1))
    return bool((start != end).all() and (there[1:] != there[:-1]).all() and (there == back).all())
