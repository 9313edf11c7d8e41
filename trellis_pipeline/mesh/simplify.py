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


def simplify(mesh: Mesh, max_triangles: int) -> Mesh:
    """Like `simplify_towards`; raises MeshError too when no allowed collapse is left above the budget."""
    simple = simplify_towards(mesh, max_triangles)
    if len(simple.triangles) > max_triangles:
        raise MeshError(
            f"cannot go below {len(simple.triangles)} triangles without changing the topology; "
            f"the limit is {max_triangles}. Raise the triangle limit or remove separate parts first"
        )
    return simple


def simplify_towards(mesh: Mesh, max_triangles: int) -> Mesh:
    """Collapse edges until at most `max_triangles` remain, or as few as the topology allows.

    mesh: wound consistently and welded (see clean.clean). Every edge keeps the number of faces it has (closed
    stays closed, open borders stay borders), vertices are placed where the error is smallest, and no collapse
    turns a face over; edges that already have three or more faces are left alone. A shape with many separate
    parts or handles needs some triangles for each.

    Returns the same object if it is small enough already. Raises MeshError for a budget below 4 and for
    malformed arrays.
    """
    if max_triangles < 4:
        raise MeshError(f"a closed surface needs 4 triangles; {max_triangles} were asked for")
    check_mesh(mesh)
    if len(mesh.triangles) <= max_triangles:
        return mesh
    positions = mesh.vertices.astype(np.float64)
    a, b, c = mesh.triangles.T
    triangles = np.ascontiguousarray(mesh.triangles[(a != b) & (b != c) & (c != a)], dtype=np.int32)
    collapse_edges(positions, triangles, max_triangles)
    triangles = triangles[triangles[:, 0] >= 0]
    return drop_unused_vertices(Mesh(positions.astype(np.float32), triangles))
