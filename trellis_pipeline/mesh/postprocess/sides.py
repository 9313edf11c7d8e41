"""Which faces meet at which edge, and one side for all of them.

A half-edge is one side of one face: number 3t + k runs from corner k of triangle t to the next. Its mate is
the half-edge on the other face of the same edge, -1 where the surface ends. Where more than two faces share
an edge, faces that are neighbours around it are mates, in the smoothest such way. So sheets touch there, and
every surface becomes a set of manifold patches.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.bins import into_bins, sort_few
from trellis_pipeline.mesh.types import Float32, Int32, Mesh
from trellis_pipeline.mesh.vectors import at_corner, combined, cross, dot, inner, unit

MAX_CROWD = 32  # faces at one edge that are paired; beyond that they end there

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def pair_half_edges(mesh: Mesh, *, wound_alike: bool) -> Int32:
    """(3T,) int32, the mate of every half-edge, -1 for none.

    mesh: welded, no corner repeated within a triangle. With `wound_alike` only half-edges that run in
    opposite directions become mates: an orientation that is right already is kept.
    """
    mates = np.full(mesh.triangles.size, -1, np.int32)
    members, starts = _by_edge(mesh)
    _pair(mesh.vertices, mesh.triangles, members, starts, wound_alike, mates)
    return mates


def wind_alike(mesh: Mesh, mates: Int32) -> tuple[Mesh, Int32]:
    """Turn faces until mates run in opposite directions everywhere; the mesh and its new mates.

    On a one-sided surface (Möbius) the last edge cannot be right; there the mates are parted.
    """
    mates, turned = mates.copy(), np.zeros(len(mesh.triangles), np.bool_)
    _wind(mesh.triangles, mates, turned)
    triangles = mesh.triangles.copy()
    triangles[turned] = triangles[turned][:, [0, 2, 1]]
    # Turning swaps the first and last half-edge of a triangle.
    moved = np.arange(mates.size, dtype=np.int32)
    triangle, place = np.divmod(moved, np.int32(3))
    moved = np.where(turned[triangle], 3 * triangle + 2 - place, moved).astype(np.int32)
    renamed = np.full_like(mates, -1)
    renamed[moved] = np.where(mates >= 0, moved[mates], np.int32(-1))
    return Mesh(mesh.vertices, triangles), renamed


def split_vertices(mesh: Mesh, mates: Int32) -> tuple[Mesh, Int32]:
    """Give every patch its own vertices: corners share one only if mates connect them around it.

    mates run in opposite directions. Returns the mesh and (V,) int32, the old vertex of each new one; the
    triangles keep their order and winding.
    """
    corner_class = np.arange(mesh.triangles.size, dtype=np.int32)
    _join_corners(mates, corner_class)
    is_first = corner_class == np.arange(corner_class.size)
    number = np.cumsum(is_first, dtype=np.int32) - np.int32(1)
    origin = mesh.triangles.reshape(-1)[is_first].astype(np.int32)
    return Mesh(mesh.vertices[origin], number[corner_class].reshape(-1, 3)), origin


def crowded_half_edges(mesh: Mesh, mates: Int32) -> Int64:
    """Half-edges on an edge that belongs, by its vertex numbers, to others than its mate too.

    After `split_vertices` that happens where a patch meets itself along an edge. One pair of mates of each
    such edge, which may keep it, is left out.
    """
    members, starts = _by_edge(mesh)
    crowded = np.zeros(len(members), np.bool_)
    _mark_crowds(members, starts, mates, crowded)
    return np.flatnonzero(crowded)


def patches(mates: Int32) -> Int32:
    """(T,) int32: triangles that mates connect have one number, counted from 0."""
    label = np.full(len(mates) // 3, -1, np.int32)
    _flood(mates, label)
    return label


def _by_edge(mesh: Mesh) -> tuple[Int32, Int32]:
    """Half-edges sorted by their edge, and where each edge's begin (with the end as last entry)."""
    members, starts = _group(np.ascontiguousarray(mesh.triangles), len(mesh.vertices))
    return members, starts


@inner
def _ends(triangles: Int32, h: int) -> tuple[int, int]:
    """The vertices from which and to which a half-edge runs."""
    t, k = h // 3, h % 3
    return triangles[t, k], triangles[t, k + 1 if k < 2 else 0]


@numba.njit(cache=True, nogil=True)
def _group(triangles: Int32, vertices: int) -> tuple[Int32, Int32]:
    """Bins by the lower vertex, each sorted by the higher one, then by number."""
    lower = np.empty(triangles.size, np.int32)
    for h in range(len(lower)):
        a, b = _ends(triangles, h)
        lower[h] = min(a, b)
    bins, members = into_bins(lower, vertices)
    starts = np.empty(triangles.size + 1, np.int32)
    keys = np.empty(0, np.int64)
    edges = 0
    for v in range(vertices):
        start, count = bins[v], bins[v + 1] - bins[v]
        if count > len(keys):
            keys = np.empty(2 * count, np.int64)
        for n in range(count):
            a, b = _ends(triangles, members[start + n])
            keys[n] = (np.int64(max(a, b)) << 32) | members[start + n]
        sort_few(keys, count)
        before = np.int64(-1)
        for n in range(count):
            members[start + n] = keys[n] & 0xFFFFFFFF
            if keys[n] >> 32 != before:
                starts[edges] = start + n
                edges += 1
                before = keys[n] >> 32
    starts[edges] = len(members)
    return members, starts[: edges + 1]


@numba.njit(cache=True, nogil=True)
def _pair(
    vertices: Float32, triangles: Int32, members: Int32, starts: Int32, wound_alike: bool, mates: Int32
) -> None:
    lean = np.empty((MAX_CROWD, 3))
    for edge in range(len(starts) - 1):
        start, count = starts[edge], starts[edge + 1] - starts[edge]
        if count < 2 or count > MAX_CROWD:
            continue
        if count == 2:
            g, h = members[start], members[start + 1]
            if not wound_alike or _ends(triangles, g)[0] != _ends(triangles, h)[0]:
                mates[g], mates[h] = h, g
            continue
        for n in range(count):  # the direction from the edge into each face
            h = members[start + n]
            a, b = _ends(triangles, h)
            low, along = at_corner(vertices, min(a, b)), at_corner(vertices, max(a, b))
            along = unit(combined(1.0, along, -1.0, low))
            across = combined(1.0, at_corner(vertices, triangles[h // 3, (h + 2) % 3]), -1.0, low)
            into = unit(combined(1.0, across, -dot(across, along), along))
            lean[n, 0], lean[n, 1], lean[n, 2] = into
        # Around the edge only neighbours are paired, so that sheets touch but never cross: faces 0 and 1,
        # 2 and 3 and so on, counted from where that is smoothest.
        order = np.argsort(_turns(lean[:count], members[start : start + count], vertices, triangles))
        smoothest, offset = math.inf, 0
        for shift in range(count):
            bends = 0.0
            for n in range(0, count - 1, 2):
                i, j = order[(shift + n) % count], order[(shift + n + 1) % count]
                g, h = members[start + i], members[start + j]
                if wound_alike and _ends(triangles, g)[0] == _ends(triangles, h)[0]:
                    bends += 2.0
                else:
                    bends += lean[i, 0] * lean[j, 0] + lean[i, 1] * lean[j, 1] + lean[i, 2] * lean[j, 2]
            if bends < smoothest - 1e-6:
                smoothest, offset = bends, shift
        for n in range(0, count - 1, 2):
            g = members[start + order[(offset + n) % count]]
            h = members[start + order[(offset + n + 1) % count]]
            if not wound_alike or _ends(triangles, g)[0] != _ends(triangles, h)[0]:
                mates[g], mates[h] = h, g


@numba.njit(cache=True, nogil=True)
def _turns(lean: Float64, members: Int32, vertices: Float32, triangles: Int32) -> Float64:
    """The angle of each face around their common edge, from the first face on."""
    a, b = _ends(triangles, members[0])
    along = unit(combined(1.0, at_corner(vertices, b), -1.0, at_corner(vertices, a)))
    zero = at_corner(lean, 0)
    quarter = cross(along, zero)
    angles = np.empty(len(members))
    for n in range(len(members)):
        into = at_corner(lean, n)
        angles[n] = math.atan2(dot(into, quarter), dot(into, zero))
    return angles


@numba.njit(cache=True, nogil=True)
def _wind(triangles: Int32, mates: Int32, turned: Bool) -> None:
    count = len(triangles)
    seen = np.zeros(count, np.bool_)
    queue = np.empty(count, np.int32)
    for seed in range(count):
        if seen[seed]:
            continue
        seen[seed] = True
        queue[0], head, tail = seed, 0, 1
        while head < tail:
            t = queue[head]
            head += 1
            for h in range(3 * t, 3 * t + 3):
                g = mates[h]
                if g < 0:
                    continue
                other = g // 3
                same_way = _ends(triangles, h)[0] == _ends(triangles, g)[0]
                if not seen[other]:
                    seen[other] = True
                    turned[other] = turned[t] != same_way
                    queue[tail] = other
                    tail += 1
                elif (turned[t] != turned[other]) != same_way:
                    mates[h] = -1
                    mates[g] = -1


@inner
def _root(parent: Int32, n: int) -> int:
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n


@inner
def _join(parent: Int32, a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)


@numba.njit(cache=True, nogil=True)
def _join_corners(mates: Int32, corner_class: Int32) -> None:
    for h in range(len(mates)):
        g = mates[h]
        if g > h:
            _join(corner_class, h, g + 1 if g % 3 < 2 else g - 2)
            _join(corner_class, h + 1 if h % 3 < 2 else h - 2, g)
    for n in range(len(corner_class)):
        corner_class[n] = _root(corner_class, n)


@numba.njit(cache=True, nogil=True)
def _mark_crowds(members: Int32, starts: Int32, mates: Int32, crowded: Bool) -> None:
    for edge in range(len(starts) - 1):
        start, stop = starts[edge], starts[edge + 1]
        if stop - start < 2 or (stop - start == 2 and mates[members[start]] == members[start + 1]):
            continue
        keeper = members[start]
        for n in range(start, stop):
            if mates[members[n]] >= 0:
                keeper = members[n]
                break
        for n in range(start, stop):
            h = members[n]
            crowded[h] = h not in (keeper, mates[keeper])


@numba.njit(cache=True, nogil=True)
def _flood(mates: Int32, label: Int32) -> None:
    stack = np.empty(len(label), np.int32)
    count = 0
    for seed in range(len(label)):
        if label[seed] >= 0:
            continue
        label[seed] = count
        stack[0], top = seed, 1
        while top > 0:
            top -= 1
            t = stack[top]
            for h in range(3 * t, 3 * t + 3):
                if mates[h] >= 0 and label[mates[h] // 3] < 0:
                    label[mates[h] // 3] = count
                    stack[top] = mates[h] // 3
                    top += 1
        count += 1
