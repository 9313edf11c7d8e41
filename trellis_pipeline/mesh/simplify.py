"""Fewer triangles, same shape, still one closed skin.

General decimators are fast but may leave an edge with three faces, and everything after (unwrapping,
inside tests, a watertight check in the shop) trips over it. Here an edge is collapsed only when the link
condition says that the surface keeps its topology, so manifold in is manifold out by construction.

Methods: quadric error metric, Garland & Heckbert 1997; link condition, Dey et al. 1999; a small isotropic
term in every quadric, as in Trettner & Kobbelt 2020, which makes the minimum unique on flat ground.
"""

from __future__ import annotations

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import check_mesh, drop_unused_vertices
from trellis_pipeline.mesh.edge_collapse.collapse import collapse_edges
from trellis_pipeline.mesh.types import Mesh


def simplify(mesh: Mesh, max_triangles: int, *, keep_manifold: bool = True) -> Mesh:
    """Collapse edges until at most `max_triangles` remain.

    mesh: wound consistently and welded (see clean.clean). With `keep_manifold` every edge keeps the number
    of faces it has (closed stays closed, open borders stay borders), vertices are placed where the error is
    smallest, and no collapse turns a face over; edges that already have three or more faces are left alone.
    Without it meshoptimizer does the work: faster on millions of triangles, vertices are a subset of the
    input's, edges may end up with more than two faces.

    Returns the same object if it is small enough already. Raises MeshError for a budget below 4, for
    malformed arrays, and when no allowed collapse is left above the budget (a shape with many separate
    parts or handles needs some triangles for each).
    """
    if max_triangles < 4:
        raise MeshError(f"a closed surface needs 4 triangles; {max_triangles} were asked for")
    check_mesh(mesh)
    if len(mesh.triangles) <= max_triangles:
        return mesh
    if not keep_manifold:
        return _simplify_fast(mesh, max_triangles)
    positions = mesh.vertices.astype(np.float64)
    a, b, c = mesh.triangles.T
    triangles = np.ascontiguousarray(mesh.triangles[(a != b) & (b != c) & (c != a)], dtype=np.int32)
    left = collapse_edges(positions, triangles, max_triangles)
    if left > max_triangles:
        raise MeshError(
            f"cannot go below {left} triangles without changing the topology; the limit is {max_triangles}. "
            "Raise the triangle limit or remove separate parts first"
        )
    triangles = triangles[triangles[:, 0] >= 0]
    return drop_unused_vertices(Mesh(positions.astype(np.float32), triangles))


def _simplify_fast(mesh: Mesh, max_triangles: int) -> Mesh:
    import meshoptimizer

    indices = np.ascontiguousarray(mesh.triangles, dtype=np.uint32).reshape(-1)
    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
    kept = np.zeros_like(indices)
    count = meshoptimizer.simplify(
        kept, indices, vertices, target_index_count=3 * max_triangles, target_error=1e30
    )
    if count > 3 * max_triangles or count == 0:
        raise MeshError(f"meshoptimizer stopped at {count // 3} triangles; the limit is {max_triangles}")
    return drop_unused_vertices(Mesh(vertices, kept[:count].reshape(-1, 3).astype(np.int32)))
