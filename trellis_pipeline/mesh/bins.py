"""Bringing together what has a vertex in common, in time that grows with the mesh and no faster.

Sorting all edges or faces of a mesh costs more than everything that is done with them afterwards. Put into
one bin for each lowest vertex they are together already: a bin holds two or three faces, seldom more.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.types import Float32, Int32
from trellis_pipeline.mesh.vectors import ZERO, at_corner, combined, cross, inner

FEW = 24  # up to here comparing each with each beats sorting

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def into_bins(bin_of: Int32, bins: int) -> tuple[Int32, Int32]:
    """Counting sort: where each bin starts (bins + 1,), and members (N,), bin by bin, in their old order."""
    starts = np.zeros(bins + 1, np.int32)
    for n in range(len(bin_of)):
        starts[bin_of[n] + 1] += 1
    for b in range(bins):
        starts[b + 1] += starts[b]
    place = starts[:-1].copy()
    members = np.empty(len(bin_of), np.int32)
    for n in range(len(bin_of)):
        members[place[bin_of[n]]] = n
        place[bin_of[n]] += 1
    return starts, members


@inner
def sort_few(keys: Int64, count: int) -> None:
    """Sort the first `count` keys in place."""
    if count > FEW:
        keys[:count].sort()
        return
    for n in range(1, count):
        key, m = keys[n], n - 1
        while m >= 0 and keys[m] > key:
            keys[m + 1] = keys[m]
            m -= 1
        keys[m + 1] = key


@numba.njit(cache=True, nogil=True)
def with_area(vertices: Float32, triangles: Int32) -> Bool:
    """(T,) whether the corners are three, and not exactly on a line (cross product in float64)."""
    keep = np.empty(len(triangles), np.bool_)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        corner = at_corner(vertices, a)
        along = combined(1.0, at_corner(vertices, b), -1.0, corner)
        normal = cross(along, combined(1.0, at_corner(vertices, c), -1.0, corner))
        keep[t] = normal != ZERO
    return keep


@numba.njit(cache=True, nogil=True)
def first_of_each(triangles: Int32, vertices: int) -> Bool:
    """(T,) False for triangles that have the three corners of an earlier one, in whatever order."""
    lowest = np.empty(len(triangles), np.int32)
    others = np.empty(len(triangles), np.int64)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        low, high = min(a, b, c), max(a, b, c)
        lowest[t] = low
        others[t] = (np.int64(a) + b + c - low - high) << 32 | high
    starts, members = into_bins(lowest, vertices)
    keep = np.ones(len(triangles), np.bool_)
    for v in range(vertices):
        mine = members[starts[v] : starts[v + 1]]
        if len(mine) > FEW:
            order = np.argsort(others[mine], kind="mergesort")
            for n in range(1, len(mine)):
                keep[mine[order[n]]] = others[mine[order[n]]] != others[mine[order[n - 1]]]
            continue
        for n in range(1, len(mine)):
            for m in range(n):
                if others[mine[n]] == others[mine[m]]:
                    keep[mine[n]] = False
                    break
    return keep
