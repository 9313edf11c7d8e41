"""Edge collapses in place, cheapest first.

Kept apart from simplify.py because it is compiled: plain loops over arrays, no Python objects.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.edge_collapse.price_lines import PriceLines, clear, enqueue, price_lines, serve
from trellis_pipeline.mesh.edge_collapse.quadrics import best_spot, sum_quadrics
from trellis_pipeline.mesh.edge_collapse.rings import INNER, CornerRings, corner_rings, join, take_out, turn
from trellis_pipeline.mesh.edge_collapse.rules import doomed, spoils_a_face
from trellis_pipeline.mesh.types import Int32, UInt8

Float64 = npt.NDArray[np.float64]

# What a collapse may do to a face: the least cosine between its normals before and after (60 degrees, then
# 84), and the least shape, double area over the sum of squared sides (0.289 if equilateral), below which
# it must not get thinner. The second pair is for meshes on which the first leaves nothing to collapse, such
# as long rods.
LIMITS = ((0.5, 0.02), (0.1, 0.0))


def collapse_edges(positions: Float64, triangles: Int32, max_triangles: int) -> int:
    """Collapse edges in place, cheapest first, until `max_triangles` remain or no collapse is allowed.

    positions: (V, 3) float64, written with values that float32 holds exactly. triangles: (T, 3) int32,
    C-contiguous, no corner repeated in a triangle; removed ones get -1 in all corners. Returns how many
    are left.
    """
    rings = corner_rings(triangles, len(positions))
    quadric, border = sum_quadrics(positions, rings)
    stamp, seen = np.zeros((2, len(positions)), np.int32)
    queue = price_lines(triangles.size)
    left = len(triangles)
    for cosine, shape in LIMITS:
        left = _collapse(
            positions, rings, quadric, border, stamp, seen, queue, left, max_triangles, cosine, shape
        )
        if left <= max_triangles:
            break
    return int(left)


@nb.njit(cache=True)
def _collapse(
    positions: Float64,
    rings: CornerRings,
    quadric: Float64,
    border: UInt8,
    stamp: Int32,
    seen: Int32,
    queue: PriceLines,
    left: int,
    max_triangles: int,
    cosine: float,
    shape: float,
) -> int:
    """Collapse within one pair of limits; returns how many triangles are left.

    An entry holds the stamps its two ends had when it was priced and is thrown away when either has moved
    since. All edges are priced anew when the lines are empty, because a moved neighbour may have freed an
    edge that was refused, or when the room for entries is used up.
    """
    first, entries = rings.first, queue.entries
    seen[:] = 0
    ticket = 0
    left_before = left + 1
    while max_triangles < left < left_before:
        left_before = left
        _price_all(positions, rings, quadric, border, stamp, queue)
        while left > max_triangles:
            entry = serve(queue)
            if entry < 0:
                break
            i, j = entries[entry, 0], entries[entry, 1]
            moved = stamp[i] != entries[entry, 2] or stamp[j] != entries[entry, 3]
            if moved or border[i] == 2 or border[j] == 2 or first[i] < 0 or first[j] < 0:
                continue
            dead, dead_too = doomed(rings, border, i, j, seen, ticket)
            ticket += 2
            if dead < 0:
                continue
            _, x, y, z = best_spot(positions, quadric, border, i, j)
            if spoils_a_face(positions, rings, i, j, x, y, z, cosine, shape):
                continue
            if spoils_a_face(positions, rings, j, i, x, y, z, cosine, shape):
                continue
            take_out(rings, dead)
            left -= 1
            if dead_too >= 0:
                take_out(rings, dead_too)
                left -= 1
            join(rings, i, j)
            stamp[i] += 1
            border[i] = max(border[i], border[j])
            positions[i, 0] = x
            positions[i, 1] = y
            positions[i, 2] = z
            for m in range(10):
                quadric[i, m] += quadric[j, m]
            ticket += 1
            _price_around(positions, rings, quadric, border, stamp, queue, i, seen, ticket)
    return left


@nb.njit(cache=True)
def _price_all(
    positions: Float64, rings: CornerRings, quadric: Float64, border: UInt8, stamp: Int32, queue: PriceLines
) -> None:
    """Let every edge wait in the line for its price."""
    clear(queue)
    for c in range(rings.owner.shape[0]):
        i = rings.owner[c]
        if i >= 0:
            j = rings.owner[turn(c)]
            if i < j or border[i] != 0:
                price = best_spot(positions, quadric, border, i, j)[0]
                enqueue(queue, price, i, j, stamp)


@INNER
def _price_around(
    positions: Float64,
    rings: CornerRings,
    quadric: Float64,
    border: UInt8,
    stamp: Int32,
    queue: PriceLines,
    i: int,
    seen: Int32,
    ticket: int,
) -> None:
    """Let the edges of one vertex wait at their new prices. ticket: a mark that `seen` does not have yet."""
    owner, first, after = rings.owner, rings.first, rings.after
    c = first[i]
    while True:
        for a in (owner[turn(c)], owner[turn(turn(c))]):
            if seen[a] != ticket:
                seen[a] = ticket
                price = best_spot(positions, quadric, border, i, a)[0]
                enqueue(queue, price, i, a, stamp)
        c = after[c]
        if c == first[i]:
            return
