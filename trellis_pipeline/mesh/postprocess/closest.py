"""The closest point on a surface, for millions of points.

The search walks a tree of boxes, nearest first. Neighbouring points are asked one after the other, so the
last answer bounds the next search before it begins.

Point to triangle: Ericson, Real-Time Collision Detection (2005), §5.1.5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.postprocess.surface_tree import MAX_DEPTH, SurfaceTree
from trellis_pipeline.mesh.postprocess.threads import in_parallel
from trellis_pipeline.mesh.types import Float32, Int32
from trellis_pipeline.mesh.vectors import Vector, at_corner, combined, dot, inner


class ClosestPoints(NamedTuple):
    """distance: (M,) float32, infinity where nothing is near enough. triangle: (M,) int32, -1 there; of
    equally near ones any. barycentrics: (M, 3) float32, weights of the corners. points: (M, 3) float32.
    """

    distance: Float32
    triangle: Int32
    barycentrics: Float32
    points: Float32


def closest_points(
    tree: SurfaceTree, points: Float32, *, within: float = math.inf, threads: int = 1
) -> ClosestPoints:
    """The closest point on the surface for each of `points` (M, 3) float32, if it is nearer than `within`.

    Points that follow each other should be near each other; it is faster. Exact in float64 on the float32
    corners. Points must be finite.
    """
    count = len(points)
    found = ClosestPoints(
        np.empty(count, np.float32),
        np.empty(count, np.int32),
        np.empty((count, 3), np.float32),
        np.empty((count, 3), np.float32),
    )
    places = np.ascontiguousarray(points, dtype=np.float32)
    limit = float(within) ** 2 if math.isfinite(within) else math.inf
    in_parallel(
        lambda start, stop: _search(tree, places[start:stop], limit, found, start),
        count,
        threads,
    )
    return found


def distances(tree: SurfaceTree, points: Float32, *, within: float = math.inf, threads: int = 1) -> Float32:
    """Only the distances, as in `closest_points`."""
    result = np.empty(len(points), np.float32)
    places = np.ascontiguousarray(points, dtype=np.float32)
    limit = float(within) ** 2 if math.isfinite(within) else math.inf
    in_parallel(
        lambda start, stop: _distances(tree, places[start:stop], limit, result[start:stop]),
        len(points),
        threads,
    )
    return result


@inner
def _box_gap(boxes: Float32, node: int, p: Vector) -> float:
    """Squared distance from a point to a box; infinity for an empty one."""
    x = max(0.0, boxes[node, 0] - p[0], p[0] - boxes[node, 3])
    y = max(0.0, boxes[node, 1] - p[1], p[1] - boxes[node, 4])
    z = max(0.0, boxes[node, 2] - p[2], p[2] - boxes[node, 5])
    return float(x * x + y * y + z * z)


@inner
def _weights(corners: Float32, n: int, p: Vector) -> Vector:  # noqa: PLR0911  one for each corner, edge, face
    """Barycentric weights of the point of triangle n that is closest to p."""
    a = (float(corners[n, 0]), float(corners[n, 1]), float(corners[n, 2]))
    b = (float(corners[n, 3]), float(corners[n, 4]), float(corners[n, 5]))
    c = (float(corners[n, 6]), float(corners[n, 7]), float(corners[n, 8]))
    ab, ac, ap = combined(1.0, b, -1.0, a), combined(1.0, c, -1.0, a), combined(1.0, p, -1.0, a)
    d1, d2 = dot(ab, ap), dot(ac, ap)
    if d1 <= 0.0 and d2 <= 0.0:
        return 1.0, 0.0, 0.0
    bp = combined(1.0, p, -1.0, b)
    d3, d4 = dot(ab, bp), dot(ac, bp)
    if d3 >= 0.0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        v = d1 / (d1 - d3)
        return 1.0 - v, v, 0.0
    cp = combined(1.0, p, -1.0, c)
    d5, d6 = dot(ab, cp), dot(ac, cp)
    if d6 >= 0.0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        w = d2 / (d2 - d6)
        return 1.0 - w, 0.0, w
    va = d3 * d6 - d5 * d4
    if va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 0.0, 1.0 - w, w
    total = va + vb + vc
    return va / total, vb / total, vc / total


@inner
def _spot(corners: Float32, n: int, w: Vector) -> Vector:
    return (
        w[0] * corners[n, 0] + w[1] * corners[n, 3] + w[2] * corners[n, 6],
        w[0] * corners[n, 1] + w[1] * corners[n, 4] + w[2] * corners[n, 7],
        w[0] * corners[n, 2] + w[1] * corners[n, 5] + w[2] * corners[n, 8],
    )


@inner
def _gap(corners: Float32, n: int, p: Vector) -> float:
    """Squared distance from p to triangle n."""
    away = combined(1.0, p, -1.0, _spot(corners, n, _weights(corners, n, p)))
    return dot(away, away)


@inner
def _nearest(
    tree: SurfaceTree,
    p: Vector,
    hint: int,
    limit: float,
    nodes: npt.NDArray[np.int64],
    gaps: npt.NDArray[np.float64],
) -> tuple[int, float]:
    """Place in the tree's order of the nearest triangle, -1 if none is nearer than `limit`, and its squared
    distance. hint: a place that may be near. nodes, gaps: (64,) working space.
    """
    leaves, count = len(tree.boxes) // 2, len(tree.order)
    best, least = -1, limit
    if hint >= 0:
        gap = _gap(tree.corners, hint, p)
        if gap < least:
            best, least = hint, gap
    nodes[0], gaps[0], top = 1, 0.0, 1
    while top > 0:
        top -= 1
        node = nodes[top]
        if gaps[top] >= least:
            continue
        while node < leaves:
            near, far = 2 * node, 2 * node + 1
            gap_near, gap_far = _box_gap(tree.boxes, near, p), _box_gap(tree.boxes, far, p)
            if gap_far < gap_near:
                near, far, gap_near, gap_far = far, near, gap_far, gap_near
            if gap_far < least:
                nodes[top], gaps[top] = far, gap_far
                top += 1
            if gap_near >= least:
                node = -1
                break
            node = near
        if node < 0:
            continue
        leaf = node - leaves
        for n in range(leaf * count // leaves, (leaf + 1) * count // leaves):
            gap = _gap(tree.corners, n, p)
            if gap < least:
                best, least = n, gap
    return best, least


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _search(tree: SurfaceTree, points: Float32, limit: float, found: ClosestPoints, start: int) -> None:
    """Answers for `points`, written to `found` from row `start` on."""
    nodes, gaps = np.empty(MAX_DEPTH, np.int64), np.empty(MAX_DEPTH)
    hint = -1
    for m in range(len(points)):
        p = at_corner(points, m)
        place, gap = _nearest(tree, p, hint, limit, nodes, gaps)
        row = start + m
        found.triangle[row] = -1
        found.distance[row] = np.inf
        found.points[row] = points[m]
        found.barycentrics[row] = 0
        if place < 0:
            continue
        hint = place
        w = _weights(tree.corners, place, p)
        spot = _spot(tree.corners, place, w)
        found.triangle[row] = tree.order[place]
        found.distance[row] = math.sqrt(gap)
        for k in range(3):
            found.barycentrics[row, k] = w[k]
            found.points[row, k] = spot[k]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _distances(tree: SurfaceTree, points: Float32, limit: float, result: Float32) -> None:
    nodes, gaps = np.empty(MAX_DEPTH, np.int64), np.empty(MAX_DEPTH)
    hint = -1
    for m in range(len(points)):
        place, gap = _nearest(tree, at_corner(points, m), hint, limit, nodes, gaps)
        result[m] = math.sqrt(gap) if place >= 0 else np.inf
        if place >= 0:
            hint = place
