"""The compiled loops behind `topology`.

They stand apart because importing this module loads numba. Work is bounded for hostile meshes too: a vertex
that a million faces share is sorted by heapsort, not by comparing all pairs, and the weld's hash table is
probed with a hash that depends on all bits of the three coordinates.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_SMALL = 24  # up to here insertion sort beats heapsort


@numba.njit(cache=True, nogil=True)
def _sort(keys: Any, start: Any, end: Any) -> None:
    """Sort keys[start:end] ascending, in place."""
    n = end - start
    if n <= _SMALL:
        for i in range(start + 1, end):
            key = keys[i]
            j = i - 1
            while j >= start and keys[j] > key:
                keys[j + 1] = keys[j]
                j -= 1
            keys[j + 1] = key
        return
    for top in range(n // 2 - 1 + n, 0, -1):
        # The first n // 2 rounds build the heap, the others move its largest key to the end.
        if top >= n:
            root, size = top - n, n
        else:
            keys[start], keys[start + top] = keys[start + top], keys[start]
            root, size = 0, top
        key = keys[start + root]
        while True:
            below = 2 * root + 1
            if below >= size:
                break
            if below + 1 < size and keys[start + below + 1] > keys[start + below]:
                below += 1
            if keys[start + below] <= key:
                break
            keys[start + root] = keys[start + below]
            root = below
        keys[start + root] = key


@numba.njit(cache=True, nogil=True)
def _find(parent: Any, item: Any) -> Any:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@numba.njit(cache=True, nogil=True)
def _join(parent: Any, a: Any, b: Any) -> Any:
    """Make one set of the two that hold a and b; 1 if they were two, 0 if it was one already."""
    ra, rb = _find(parent, a), _find(parent, b)
    if ra == rb:
        return 0
    if ra < rb:
        parent[rb] = ra
    else:
        parent[ra] = rb
    return 1


@numba.njit(cache=True, nogil=True)
def _between(points: Any, start: Any, end: Any) -> Any:
    """The vector between two points in float64."""
    return (
        np.float64(points[end, 0]) - np.float64(points[start, 0]),
        np.float64(points[end, 1]) - np.float64(points[start, 1]),
        np.float64(points[end, 2]) - np.float64(points[start, 2]),
    )


@numba.njit(cache=True, nogil=True)
def _same_zero(bits: Any) -> Any:
    """The bits of a float32, those of 0.0 for -0.0."""
    return np.uint32(0) if bits == np.uint32(0x80000000) else bits


@numba.njit(cache=True, nogil=True)
def weld(bits: Any, ids: Any) -> int:
    """Give vertices at the same position the same id, in order of first appearance; returns how many ids.

    bits: (V, 3) uint32, the float32 coordinates bit by bit. ids: (V,) int32, written.
    """
    count = len(bits)
    size = 16
    while size < 2 * count:
        size *= 2
    mask = np.uint64(size - 1)
    # A slot holds (upper half of the hash, id), so that strangers are told apart without a look at their
    # coordinates, which lie anywhere in memory.
    table = np.full(size, np.int64(-1), np.int64)
    first = np.empty(count, np.int32)
    unique = 0
    for i in range(count):
        x, y, z = _same_zero(bits[i, 0]), _same_zero(bits[i, 1]), _same_zero(bits[i, 2])
        h = (np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F))
        h = (h ^ (h >> np.uint64(29))) + np.uint64(z)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(32)
        tag = np.int64(h >> np.uint64(33)) << np.int64(32)
        slot = h & mask
        while True:
            entry = table[slot]
            if entry < 0:
                table[slot] = tag | np.int64(unique)
                first[unique] = i
                ids[i] = unique
                unique += 1
                break
            known = entry & np.int64(0xFFFFFFFF)
            if entry == tag | known:
                other = first[known]
                if (
                    _same_zero(bits[other, 0]) == x
                    and _same_zero(bits[other, 1]) == y
                    and _same_zero(bits[other, 2]) == z
                ):
                    ids[i] = known
                    break
            slot = (slot + np.uint64(1)) & mask
    return unique


@numba.njit(cache=True, nogil=True)
def _repeats(a: Any, b: Any, c: Any) -> Any:
    return a == b or b == c or a == c  # noqa: PLR1714 (compiled: a tuple would be slower)


@numba.njit(cache=True, nogil=True)
def extents(points: Any, triangles: Any, box: Any) -> Any:
    """How many vertices are (unused, not finite).

    box: (6,) float64, written: minimum and maximum of the used finite ones, infinite if there are none.
    """
    box[:3] = np.inf
    box[3:] = -np.inf
    used = np.zeros(len(points), np.uint8)
    for t in range(len(triangles)):
        for k in range(3):
            used[triangles[t, k]] = 1
    unused = wild = 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        unused += 1 - used[i]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            wild += 1
        elif used[i] == 1:
            box[0], box[1], box[2] = min(box[0], x), min(box[1], y), min(box[2], z)
            box[3], box[4], box[5] = max(box[3], x), max(box[4], y), max(box[5], z)
    return unused, wild


@numba.njit(cache=True, nogil=True)
def survey(points: Any, triangles: Any, ids: Any, centre: Any, starts: Any) -> Any:
    """First pass over the faces: (area, volume, degenerate faces, faces without a repeated vertex).

    centre: (3,) float64, where volume is summed around: far from the origin its terms would drown each
    other. starts: (U + 1,) int32 zeros, written: where the edges whose lower vertex is v start in a list of
    edges by their lower vertex.
    """
    area = volume = 0.0
    degenerate = kept = 0
    for t in range(len(triangles)):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        # Differences of the float32 coordinates themselves, so that collinear corners give exactly zero.
        px, py, pz = _between(points, i, j)
        qx, qy, qz = _between(points, i, k)
        nx, ny, nz = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
        doubled = np.sqrt(nx * nx + ny * ny + nz * nz)
        if np.isfinite(doubled):
            area += 0.5 * doubled
            rx, ry, rz = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
            volume += (rx * nx + ry * ny + rz * nz) / 6.0
        a, b, c = ids[i], ids[j], ids[k]
        if _repeats(a, b, c):
            degenerate += 1
            continue
        kept += 1
        degenerate += doubled == 0.0
        starts[min(a, b) + 1] += 1
        starts[min(b, c) + 1] += 1
        starts[min(c, a) + 1] += 1
    for v in range(len(starts) - 1):
        starts[v + 1] += starts[v]
    return area, volume, degenerate, kept


@numba.njit(cache=True, nogil=True)
def gather(triangles: Any, ids: Any, starts: Any, edges: Any) -> None:
    """Second pass: list every face's edges by their lower vertex.

    edges: int64, written: the higher vertex, then the face's third vertex, then the direction in the lowest
    bit, so that sorting brings the uses of one edge together and the uses by equal faces side by side.
    """
    place = starts.copy()
    for t in range(len(triangles)):
        a = np.int64(ids[triangles[t, 0]])
        b = np.int64(ids[triangles[t, 1]])
        c = np.int64(ids[triangles[t, 2]])
        if _repeats(a, b, c):
            continue
        for _ in range(3):
            if a < b:
                edges[place[a]] = (b << 32) | (c << 1)
                place[a] += 1
            else:
                edges[place[b]] = (a << 32) | (c << 1) | 1
                place[b] += 1
            a, b, c = b, c, a


@numba.njit(cache=True, nogil=True)
def compare(starts: Any, edges: Any, faces: Any) -> Any:
    """Third pass: (vertices, edges, boundary edges, loops, non-manifold, conflicts, duplicate faces).

    edges: as `gather` left it; sorted here. faces: (U,) int32 zeros, written: for one vertex of each
    connected part, the number of the part's faces; 0 elsewhere.
    """
    count = len(faces)
    parent, rim = np.empty(count, np.int32), np.empty(count, np.int32)
    for v in range(count):
        parent[v] = rim[v] = v
    used, on_rim = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    distinct = boundary = loops = crowded = conflicts = duplicates = 0
    for v in range(count):
        at, end = starts[v], starts[v + 1]
        if at == end:
            continue
        _sort(edges, at, end)
        used[v] = 1
        while at < end:
            other = edges[at] >> 32
            total = backwards = 0
            third = np.int64(-1)
            while at < end and edges[at] >> 32 == other:
                before = third
                third = (edges[at] & 0xFFFFFFFF) >> 1
                if third > other:  # so v and other are the face's two lowest: count the face here, once
                    faces[v] += 1
                    duplicates += third == before
                total += 1
                backwards += edges[at] & 1
                at += 1
            distinct += 1
            used[other] = 1
            _join(parent, v, other)
            if total == 1:
                boundary += 1
                # Rims are counted as their vertices less the edges that joined two of them.
                loops += 2 - on_rim[v] - on_rim[other]
                on_rim[v] = on_rim[other] = 1
                loops -= _join(rim, v, other)
            elif total > 2:
                crowded += 1
            elif backwards != 1:
                conflicts += 1
    vertices = 0
    for v in range(count):
        vertices += used[v]
        root = _find(parent, v)
        if root != v:
            faces[root] += faces[v]
            faces[v] = 0
    return vertices, distinct, boundary, loops, crowded, conflicts, duplicates
