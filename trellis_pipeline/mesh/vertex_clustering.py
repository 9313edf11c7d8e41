"""Fewer triangles where the topology leaves no way: vertices in one cell of a grid become one.

A shape of many parts or holes has a number of triangles below which it cannot go and still have them all.
Here they go, the smallest first: a part or a hole that fits into a cell vanishes. What is left may have edges
with more than two faces.

Method: Rossignac & Borrel, Multi-resolution 3D approximations for rendering complex scenes, 1993.
"""

from __future__ import annotations

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import clean
from trellis_pipeline.mesh.types import Mesh

# Cells along the longest side are sought among powers of the first, up to about a million.
_FINER, _STEPS = 1.01, 1389


def cluster_vertices(mesh: Mesh, max_triangles: int) -> Mesh:
    """Merge vertices in the finest grid, about, that leaves at most `max_triangles`.

    mesh: as check_mesh wants it. Each cell's vertices become their mean. Windings stay, degenerate and
    doubled faces go. Raises MeshError if nothing is left.
    """
    mesh = clean(mesh)
    if 0 < len(mesh.triangles) <= max_triangles:
        return mesh
    best, fits, too_fine = None, 0, _STEPS
    while len(mesh.triangles) and too_fine - fits > 1:
        middle = (fits + too_fine) // 2
        coarse = _merged(mesh, _FINER**middle)
        if len(coarse.triangles) > max_triangles:
            too_fine = middle
        else:
            best, fits = coarse, middle
    if best is None or len(best.triangles) == 0:
        raise MeshError(
            f"nothing of the shape is left within {max_triangles} triangles; raise the triangle limit"
        )
    return best


def _merged(mesh: Mesh, cells: float) -> Mesh:
    """The mesh with the vertices of each cell as one. cells: along the longest side of the box."""
    low = mesh.vertices.min(axis=0).astype(np.float64)
    size = (mesh.vertices.max(axis=0) - low).max() / cells
    grid = ((mesh.vertices - low) / size).astype(np.int64)
    across = grid.max(axis=0) + 1
    _, cell, members = np.unique(
        (grid[:, 0] * across[1] + grid[:, 1]) * across[2] + grid[:, 2],
        return_inverse=True,
        return_counts=True,
    )
    means = np.stack([np.bincount(cell, column) / members for column in mesh.vertices.T], axis=1)
    return clean(Mesh(means.astype(np.float32), cell.astype(np.int32)[mesh.triangles]))
