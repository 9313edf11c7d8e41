"""Who meets at a vertex: the corners of a mesh, threaded into a ring around each vertex.

Corner 3t + k is the k-th of triangle t. Rings are linked both ways, so taking a triangle out and giving all
corners of one vertex to another cost the same however large the mesh is.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from trellis_pipeline.mesh.types import Int32

# For kernels that only other kernels call: without a way in from Python they compile in half the time.
# numba's type stubs do not know these two options.
INNER = nb.njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]


class CornerRings(NamedTuple):
    """owner: (3T,) the vertex at each corner, -1 in removed triangles. first: (V,) one of the corners at a
    vertex, -1 if there is none. after, before: (3T,) the neighbours in the ring. All int32.
    """

    owner: Int32
    first: Int32
    after: Int32
    before: Int32


def corner_rings(triangles: Int32, vertices: int) -> CornerRings:
    """The rings of `triangles` (T, 3) int32, C-contiguous, whose memory `owner` shares."""
    owner = triangles.reshape(-1)
    after, before = np.empty((2, len(owner)), np.int32)
    rings = CornerRings(owner, np.full(vertices, -1, np.int32), after, before)
    _link(rings)
    return rings


@INNER
def turn(corner: int) -> int:
    """The next corner of the same triangle."""
    return corner + 1 if corner % 3 < 2 else corner - 2


@INNER
def take_out(rings: CornerRings, triangle: int) -> None:
    """Remove a triangle; its corners get the owner -1."""
    owner, first, after, before = rings.owner, rings.first, rings.after, rings.before
    for c in range(3 * triangle, 3 * triangle + 3):
        v = owner[c]
        after[before[c]] = after[c]
        before[after[c]] = before[c]
        if first[v] == c:
            first[v] = after[c] if after[c] != c else -1
        owner[c] = -1


@INNER
def join(rings: CornerRings, i: int, j: int) -> None:
    """Give all corners of vertex j to vertex i; both have some."""
    owner, first, after, before = rings.owner, rings.first, rings.after, rings.before
    c = first[j]
    while True:
        owner[c] = i
        c = after[c]
        if c == first[j]:
            break
    last_i, last_j = before[first[i]], before[first[j]]
    after[last_i] = first[j]
    before[first[j]] = last_i
    after[last_j] = first[i]
    before[first[i]] = last_j
    first[j] = -1


@nb.njit(cache=True)
def _link(rings: CornerRings) -> None:
    owner, first, after, before = rings.owner, rings.first, rings.after, rings.before
    for c in range(owner.shape[0]):
        f = first[owner[c]]
        if f < 0:
            first[owner[c]] = c
            after[c] = c
            before[c] = c
        else:
            last = before[f]
            after[last] = c
            before[c] = last
            after[c] = f
            before[f] = c
