"""A decoded surface made fit to work on: manifold, wound alike, small holes closed, crumbs gone.

A surface from a dual grid has arbitrary winding, sheets that meet three at an edge, pinholes and specks.
Nothing here moves a vertex. What belongs together is decided by sides.py, and vertices are doubled where
sheets only touch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import clean, drop_unused_vertices
from trellis_pipeline.mesh.postprocess.patch_sizes import areas, signed_volumes
from trellis_pipeline.mesh.postprocess.sides import (
    crowded_half_edges,
    pair_half_edges,
    patches,
    split_vertices,
    wind_alike,
)
from trellis_pipeline.mesh.types import Int32, Mesh

SPLIT_ROUNDS = 20


def make_manifold(mesh: Mesh, *, wound_alike: bool = False) -> Mesh:
    """Clean, wind faces alike and double vertices until every edge has one or two faces.

    With `wound_alike` the winding is right already and stays. Sheets are followed as `sides` says. Where a
    sheet meets itself along an edge, that edge gets a vertex in its middle on one of the two sides, so that
    vertex numbers tell the sides apart.

    Raises MeshError for malformed arrays and if nothing is left after cleaning.
    """
    mesh = clean(mesh)
    if len(mesh.triangles) == 0:
        raise MeshError("the surface has no face with an area: the generator made an empty shape")
    mates = pair_half_edges(mesh, wound_alike=wound_alike)
    if not wound_alike:
        mesh, mates = wind_alike(mesh, mates)
    mesh, _ = split_vertices(mesh, mates)
    for _ in range(SPLIT_ROUNDS):
        crowded = crowded_half_edges(mesh, mates)
        if len(crowded) == 0:
            return mesh
        mesh, mates = _halve_edges(mesh, mates, crowded)
    keep = np.ones(len(mesh.triangles), bool)
    keep[crowded_half_edges(mesh, mates) // 3] = False
    return drop_unused_vertices(Mesh(mesh.vertices, mesh.triangles[keep]))


def drop_crumbs(mesh: Mesh, min_area: float) -> Mesh:
    """Remove patches (manifold, see `make_manifold`) with less area than `min_area`, but not the largest."""
    label = patches(pair_half_edges(mesh, wound_alike=True))
    area = areas(mesh, label)
    kept = area >= min_area
    kept[area.argmax()] = True
    return mesh if kept.all() else drop_unused_vertices(Mesh(mesh.vertices, mesh.triangles[kept[label]]))


def fill_small_holes(mesh: Mesh, max_perimeter: float) -> Mesh:
    """Close rims whose length is below `max_perimeter` with a fan around the middle of their edges.

    mesh: manifold, wound alike. The fan faces the way of its surroundings. A rim that runs through a vertex
    twice stays open.
    """
    mates = pair_half_edges(mesh, wound_alike=True)
    start = mesh.triangles.reshape(-1)
    end = np.roll(mesh.triangles, -1, axis=1).reshape(-1)
    rim = np.flatnonzero(mates < 0)
    if len(rim) == 0:
        return mesh
    a, b = start[rim].astype(np.int64), end[rim].astype(np.int64)
    if len(np.unique(a)) < len(a) or len(np.unique(b)) < len(b):
        shared = np.bincount(a, minlength=len(mesh.vertices)) != 1
        shared |= np.bincount(b, minlength=len(mesh.vertices)) != 1
    else:
        shared = np.zeros(len(mesh.vertices), bool)
    loop = _loops(a, b, len(mesh.vertices))
    points = mesh.vertices.astype(np.float64)
    length = np.bincount(loop, weights=np.linalg.norm(points[b] - points[a], axis=1))
    sides = np.bincount(loop)
    small = (length < max_perimeter) & (sides >= 3)
    small[np.unique(loop[shared[a] | shared[b]])] = False
    if not small.any():
        return mesh
    number = np.cumsum(small) - 1
    chosen = small[loop]
    hole, a, b = number[loop[chosen]], a[chosen], b[chosen]
    middle = np.stack(
        [np.bincount(hole, weights=(points[a, k] + points[b, k]) / 2) / np.bincount(hole) for k in range(3)],
        1,
    )
    fan = np.column_stack([b, a, len(points) + hole])
    return Mesh(
        np.concatenate([mesh.vertices, middle.astype(np.float32)]),
        np.concatenate([mesh.triangles, fan.astype(np.int32)]),
    )


def drop_inner_shells(mesh: Mesh) -> Mesh:
    """Remove closed patches that enclose empty space the wrong way round.

    mesh: closed, wound so that normals point away from the material, as `remesh_narrow_band` makes it. A
    skin around material has positive volume, the wall of a hollow inside it negative volume. If nothing has
    positive volume the mesh comes back as it is.
    """
    label = patches(pair_half_edges(mesh, wound_alike=True))
    outer = signed_volumes(mesh, label) > 0
    if outer.all() or not outer.any():
        return mesh
    return drop_unused_vertices(Mesh(mesh.vertices, mesh.triangles[outer[label]]))


def part_touching(mesh: Mesh, distance: float) -> Mesh:
    """Draw vertices at the same position apart by `distance`, each away from its own faces' front.

    Vertices that make_manifold doubled would be one again for everybody who joins equal positions, as
    viewers and checks do, and the edge between them non-manifold. A distance far below a voxel is enough.
    """
    from trellis_pipeline.mesh.normals import vertex_normals

    words = np.ascontiguousarray(mesh.vertices + np.float32(0)).view(np.uint32)
    order = np.lexsort((words[:, 2], words[:, 1], words[:, 0]))
    same = np.zeros(len(order), bool)
    same[1:] = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    if not same.any():
        return mesh
    start = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    rank = np.arange(len(order)) - start
    twin = same.copy()
    twin[:-1] |= same[1:]
    moved = order[twin]
    vertices = mesh.vertices.astype(np.float64)
    vertices[moved] -= (distance * (1 + rank[twin]))[:, None] * vertex_normals(mesh)[moved]
    return Mesh(vertices.astype(np.float32), mesh.triangles)


def _loops(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """(E,) numbers: edges a -> b that hang together belong to one loop."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    _, part = connected_components(links, directed=False)
    _, loop = np.unique(part[a], return_inverse=True)
    return np.asarray(loop, dtype=np.int64)


def _halve_edges(mesh: Mesh, mates: Int32, crowded: npt.NDArray[np.int64]) -> tuple[Mesh, Int32]:
    """Put a new vertex in the middle of some of the `crowded` half-edges and of their mates.

    Each triangle is cut at most once a round, the rest waits for the next. Returns the mesh and its mates.
    """
    busy = np.zeros(len(mesh.triangles), bool)
    chosen = []
    for h in crowded.tolist():
        g = int(mates[h])
        owners = [h // 3] if g < 0 else [h // 3, g // 3]
        if g >= 0 and (g < h or owners[0] == owners[1]):
            continue
        if not busy[owners].any():
            busy[owners] = True
            chosen.append((h, g))
    room = len(mesh.triangles) + 2 * len(chosen)
    triangles, new_mates = np.empty((room, 3), np.int32), np.empty(3 * room, np.int32)
    triangles[: len(mesh.triangles)], new_mates[: len(mates)] = mesh.triangles, mates
    middles, last = [mesh.vertices], len(mesh.triangles)
    for n, (h, g) in enumerate(chosen):
        ends = [mesh.triangles[h // 3, h % 3], mesh.triangles[h // 3, (h + 1) % 3]]
        middles.append(mesh.vertices[ends].astype(np.float64).mean(axis=0, keepdims=True).astype(np.float32))
        _cut(triangles, new_mates, h, len(mesh.vertices) + n, last)
        if g >= 0:  # each keeps its first half, which lies along the other's second half
            _cut(triangles, new_mates, g, len(mesh.vertices) + n, last + 1)
            new_mates[h], new_mates[3 * last + 3] = 3 * last + 3, h
            new_mates[g], new_mates[3 * last] = 3 * last, g
        last += 1 if g < 0 else 2
    return Mesh(np.concatenate(middles), triangles[:last]), new_mates[: 3 * last]


def _cut(triangles: Int32, mates: Int32, h: int, middle: int, new: int) -> None:
    """Cut the triangle of half-edge h = (a -> b) at the vertex `middle` and write its other part to `new`.

    The old triangle becomes (a, middle, c) in its old places, the new one is (middle, b, c). The mates of
    the edges a -> middle and middle -> b are left to the caller, as none.
    """
    t, k = divmod(h, 3)
    b, c = triangles[t, (k + 1) % 3], triangles[t, (k + 2) % 3]
    beyond = 3 * t + (k + 1) % 3  # b -> c, which becomes middle -> c
    triangles[t, (k + 1) % 3] = middle
    triangles[new] = (middle, b, c)
    outside = mates[beyond]
    mates[h], mates[3 * new], mates[3 * new + 1], mates[3 * new + 2] = -1, -1, outside, beyond
    if outside >= 0:
        mates[outside] = 3 * new + 1
    mates[beyond] = 3 * new + 2
