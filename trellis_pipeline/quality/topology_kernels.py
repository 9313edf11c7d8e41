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
def _sort(keys: Any, start: int, end: int) -> None:
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
def _find(parent: Any, item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@numba.njit(cache=True, nogil=True)
def _join(parent: Any, a: int, b: int) -> int:
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
def _between(points: Any, start: int, end: int) -> Any:
    """The vector between two points in float64."""
    return (
        np.float64(points[end, 0]) - np.float64(points[start, 0]),
        np.float64(points[end, 1]) - np.float64(points[start, 1]),
        np.float64(points[end, 2]) - np.float64(points[start, 2]),
    )


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
    table = np.full(size, -1, np.int32)
    first = np.empty(count, np.int32)
    unique = 0
    for i in range(count):
        x, y, z = bits[i, 0], bits[i, 1], bits[i, 2]
        # -0.0 and 0.0 are one place.
        if x == 0x80000000:
            x = np.uint32(0)
        if y == 0x80000000:
            y = np.uint32(0)
        if z == 0x80000000:
            z = np.uint32(0)
        h = (np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F))
        h = (h ^ (h >> np.uint64(29))) + np.uint64(z)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        slot = (h ^ (h >> np.uint64(32))) & mask
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = unique
                first[unique] = i
                ids[i] = unique
                unique += 1
                break
            other = first[known]
            u, v, w = bits[other, 0], bits[other, 1], bits[other, 2]
            if (
                (u == x or (x == 0 and u == 0x80000000))
                and (v == y or (y == 0 and v == 0x80000000))
                and (w == z or (z == 0 and w == 0x80000000))
            ):
                ids[i] = known
                break
            slot = (slot + np.uint64(1)) & mask
    return unique


@numba.njit(cache=True, nogil=True)
def _repeats(a: int, b: int, c: int) -> bool:
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
def survey(points: Any, triangles: Any, ids: Any, centre: Any, work: Any) -> Any:
    """First pass over the faces: (area, volume, degenerate faces, faces without a repeated vertex).

    centre: (3,) float64, where volume is summed around: far from the origin its terms would drown each
    other. work: three zeroed int32 arrays, written: the union-find parent (U,), and where the edges and the
    faces whose lowest vertex is v start in a list by vertex, (U + 1,) each.
    """
    parent, edge_start, face_start = work
    for v in range(len(parent)):
        parent[v] = v
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
            volume += (
                (points[i, 0] - centre[0]) * nx
                + (points[i, 1] - centre[1]) * ny
                + (points[i, 2] - centre[2]) * nz
            ) / 6.0
        a, b, c = ids[i], ids[j], ids[k]
        if _repeats(a, b, c):
            degenerate += 1
            continue
        kept += 1
        degenerate += doubled == 0.0
        edge_start[min(a, b) + 1] += 1
        edge_start[min(b, c) + 1] += 1
        edge_start[min(c, a) + 1] += 1
        face_start[min(a, b, c) + 1] += 1
        _join(parent, a, b)
        _join(parent, a, c)
    for v in range(len(parent)):
        edge_start[v + 1] += edge_start[v]
        face_start[v + 1] += face_start[v]
    return area, volume, degenerate, kept


@numba.njit(cache=True, nogil=True)
def gather(triangles: Any, ids: Any, work: Any, keys: Any, parts: Any) -> None:
    """Second pass: list edges and faces by their lowest vertex, and count the faces of each part.

    work: as `survey` left it. keys: edges (int32) as 2 * higher vertex + direction, faces (int64) as the two
    other vertices, written. parts: (U,) int32 faces by root vertex and (U,) uint8 whether a face uses the
    vertex; zeroed arrays, written.
    """
    parent, edge_start, face_start = work
    edges, faces = keys
    members, touched = parts
    edge_fill, face_fill = edge_start.copy(), face_start.copy()
    for t in range(len(triangles)):
        a, b, c = ids[triangles[t, 0]], ids[triangles[t, 1]], ids[triangles[t, 2]]
        if _repeats(a, b, c):
            continue
        members[_find(parent, a)] += 1
        touched[a] = touched[b] = touched[c] = 1
        for _ in range(3):
            lower, higher, backwards = (a, b, 0) if a < b else (b, a, 1)
            edges[edge_fill[lower]] = 2 * higher + backwards
            edge_fill[lower] += 1
            a, b, c = b, c, a
        smallest, largest = min(a, b, c), max(a, b, c)
        middle = np.int64(a) + b + c - smallest - largest
        faces[face_fill[smallest]] = (middle << np.int64(32)) | np.int64(largest)
        face_fill[smallest] += 1


@numba.njit(cache=True, nogil=True)
def compare(work: Any, keys: Any) -> Any:
    """Third pass, sorting keys: (edges, boundary edges, loops, non-manifold, conflicts, duplicate faces)."""
    rim, edge_start, face_start = work
    edges, faces = keys
    for v in range(len(rim)):
        rim[v] = v
    on_rim = np.zeros(len(rim), np.uint8)
    distinct = boundary = loops = crowded = conflicts = duplicates = 0
    for v in range(len(rim)):
        at, end = edge_start[v], edge_start[v + 1]
        _sort(edges, at, end)
        while at < end:
            other = edges[at] >> 1
            total = backwards = 0
            while at < end and edges[at] >> 1 == other:
                total += 1
                backwards += edges[at] & 1
                at += 1
            distinct += 1
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
        start, end = face_start[v], face_start[v + 1]
        _sort(faces, start, end)
        for f in range(start + 1, end):
            duplicates += faces[f] == faces[f - 1]
    return distinct, boundary, loops, crowded, conflicts, duplicates
