"""The engine of simplify.py: edge collapses on a mesh whose corners are linked around each vertex.

Kept apart because it is compiled: plain loops over arrays, no Python objects. An edge is collapsed only if
the link condition holds, so no edge ever gets more faces than it had and no hole opens or closes.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.types import Int32, UInt8

Float64 = npt.NDArray[np.float64]

DRIFT_WEIGHT = 1e-5  # sliding along the surface costs this share of leaving it
BORDER_WEIGHT = 10.0  # leaving an open border costs this much more than leaving the surface
# What a collapse may do to a face: the least cosine between its normals before and after (60 degrees, then
# 84), and the least shape, double area over the sum of squared sides (0.289 if equilateral), below which
# it must not get thinner. The second pair is for meshes on which the first leaves nothing to collapse, such
# as long rods.
LIMITS = ((0.5, 0.02), (0.1, 0.0))
BUCKETS = 4096  # lines of edges by price: 256 octaves in 16 steps each

# For kernels that only other kernels call: without a way in from Python they compile in half the time.
# numba's type stubs do not know these two options.
INNER = nb.njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]


def collapse_edges(positions: Float64, triangles: Int32, max_triangles: int) -> int:
    """Collapse edges in place, cheapest first, until `max_triangles` remain or no collapse is allowed.

    positions: (V, 3) float64, written with values that float32 holds exactly. triangles: (T, 3) int32,
    C-contiguous, no corner repeated in a triangle; removed ones get -1 in all corners. Returns how many
    are left.
    """
    corner_vertex = triangles.reshape(-1)
    first = np.full(len(positions), -1, np.int32)
    after, before = np.empty((2, len(corner_vertex)), np.int32)
    _link_corners(corner_vertex, first, after, before)
    quadric = np.zeros((len(positions), 10))
    border = np.zeros(len(positions), np.uint8)
    _sum_quadrics(positions, corner_vertex, first, after, quadric, border, DRIFT_WEIGHT, BORDER_WEIGHT)
    stamp, seen = np.zeros((2, len(positions)), np.int32)
    # A collapse prices the edges of one vertex again, about eight; twice the corners is room for all of them.
    entries = np.empty((2 * len(corner_vertex) + 16, 4), np.int32)
    following = np.empty(len(entries), np.int32)
    lines, state = np.empty((BUCKETS, 2), np.int32), np.empty(2, np.int32)
    left = len(triangles)
    for cosine, shape in LIMITS:
        left = _collapse_edges(
            positions,
            triangles,
            first,
            after,
            before,
            quadric,
            border,
            stamp,
            seen,
            entries,
            following,
            lines,
            state,
            left,
            max_triangles,
            cosine,
            shape,
        )
        if left <= max_triangles:
            break
    return int(left)


@INNER
def _turn(corner: int) -> int:
    """The next corner of the same triangle."""
    return corner + 1 if corner % 3 < 2 else corner - 2


@INNER
def _add_plane(
    quadric: Float64, v: int, nx: float, ny: float, nz: float, point: Float64, weight: float, drift: float
) -> None:
    """Add weight * (squared distance to a plane + drift * squared distance to a point of it) to vertex v.

    As ten numbers: A row by row from the diagonal on, then b, then c, of  x'Ax - 2b'x + c.
    """
    px, py, pz = point[0], point[1], point[2]
    along = nx * px + ny * py + nz * pz
    quadric[v, 0] += weight * (nx * nx + drift)
    quadric[v, 1] += weight * nx * ny
    quadric[v, 2] += weight * nx * nz
    quadric[v, 3] += weight * (ny * ny + drift)
    quadric[v, 4] += weight * ny * nz
    quadric[v, 5] += weight * (nz * nz + drift)
    quadric[v, 6] += weight * (nx * along + drift * px)
    quadric[v, 7] += weight * (ny * along + drift * py)
    quadric[v, 8] += weight * (nz * along + drift * pz)
    quadric[v, 9] += weight * (along * along + drift * (px * px + py * py + pz * pz))


@nb.njit(cache=True)
def _sum_quadrics(
    positions: Float64,
    corner_vertex: Int32,
    first: Int32,
    after: Int32,
    quadric: Float64,
    border: UInt8,
    drift: float,
    border_weight: float,
) -> None:
    """Sum the quadrics of faces and open borders at their vertices, and mark vertices in `border`:
    1 on an open border, 2 on an edge with three faces or more.
    """
    for c in range(corner_vertex.shape[0]):
        i, j, o = corner_vertex[c], corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        ex, ey, ez = positions[j, 0] - x, positions[j, 1] - y, positions[j, 2] - z
        fx, fy, fz = positions[o, 0] - x, positions[o, 1] - y, positions[o, 2] - z
        nx, ny, nz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
        double_area = math.sqrt(nx * nx + ny * ny + nz * nz)
        if double_area > 0.0:
            nx, ny, nz = nx / double_area, ny / double_area, nz / double_area
            _add_plane(quadric, i, nx, ny, nz, positions[i], double_area / 6.0, drift)
        faces = 0
        d = first[i]
        while True:
            if corner_vertex[_turn(d)] == j or corner_vertex[_turn(_turn(d))] == j:
                faces += 1
            d = after[d]
            if d == first[i]:
                break
        length2 = ex * ex + ey * ey + ez * ez
        if faces > 2:
            border[i] = 2
            border[j] = 2
        elif faces == 1:
            if border[i] == 0:
                border[i] = 1
            if border[j] == 0:
                border[j] = 1
            if double_area > 0.0:
                # A plane through the edge, upright on the face, holds the border where it is.
                length = math.sqrt(length2)
                sx, sy, sz = (
                    (ny * ez - nz * ey) / length,
                    (nz * ex - nx * ez) / length,
                    (nx * ey - ny * ex) / length,
                )
                _add_plane(quadric, i, sx, sy, sz, positions[i], border_weight * length2, 0.0)
                _add_plane(quadric, j, sx, sy, sz, positions[i], border_weight * length2, 0.0)


@INNER
def _best_spot(
    positions: Float64, quadric: Float64, border: UInt8, i: int, j: int
) -> tuple[float, float, float, float]:
    """Where the vertex merged from i and j has the least error: (error, x, y, z), rounded to float32."""
    a00, a01, a02 = (
        quadric[i, 0] + quadric[j, 0],
        quadric[i, 1] + quadric[j, 1],
        quadric[i, 2] + quadric[j, 2],
    )
    a11, a12, a22 = (
        quadric[i, 3] + quadric[j, 3],
        quadric[i, 4] + quadric[j, 4],
        quadric[i, 5] + quadric[j, 5],
    )
    b0, b1, b2 = quadric[i, 6] + quadric[j, 6], quadric[i, 7] + quadric[j, 7], quadric[i, 8] + quadric[j, 8]
    # Cramer's rule for A x = b; A is positive definite unless all faces here have no area.
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    determinant = a00 * c00 + a01 * c01 + a02 * c02
    x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
    if border[i] < border[j]:  # the one on the border stays where it is
        x, y, z = positions[j, 0], positions[j, 1], positions[j, 2]
    elif border[i] == border[j] and determinant > 0.0:
        x = (c00 * b0 + c01 * b1 + c02 * b2) / determinant
        y = (c01 * b0 + c11 * b1 + c12 * b2) / determinant
        z = (c02 * b0 + c12 * b1 + c22 * b2) / determinant
    x, y, z = float(np.float32(x)), float(np.float32(y)), float(np.float32(z))
    error = x * (a00 * x + 2.0 * (a01 * y + a02 * z - b0)) + y * (a11 * y + 2.0 * (a12 * z - b1))
    error += z * (a22 * z - 2.0 * b2) + quadric[i, 9] + quadric[j, 9]
    return error, x, y, z


@INNER
def _spoils_a_face(
    positions: Float64,
    corner_vertex: Int32,
    first: Int32,
    after: Int32,
    i: int,
    j: int,
    x: float,
    y: float,
    z: float,
    cosine: float,
    shape: float,
) -> bool:
    """Whether moving vertex i to (x, y, z) turns a face around i over or makes it a sliver; those with j,
    which are about to vanish, do not count. A face without area cannot get worse.
    """
    c = first[i]
    while True:
        a, b = corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]
        if j != a and j != b:  # noqa: PLR1714
            ax, ay, az = positions[a, 0], positions[a, 1], positions[a, 2]
            ex, ey, ez = positions[b, 0] - ax, positions[b, 1] - ay, positions[b, 2] - az
            fx, fy, fz = positions[i, 0] - ax, positions[i, 1] - ay, positions[i, 2] - az
            gx, gy, gz = x - ax, y - ay, z - az
            ox, oy, oz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
            nx, ny, nz = ey * gz - ez * gy, ez * gx - ex * gz, ex * gy - ey * gx
            old = math.sqrt(ox * ox + oy * oy + oz * oz)
            new = math.sqrt(nx * nx + ny * ny + nz * nz)
            if old > 0.0 and ox * nx + oy * ny + oz * nz <= cosine * old * new:
                return True
            # The squared sides sum to 2 (e·e + f·f - e·f).
            side = 2.0 * (ex * (ex - gx) + ey * (ey - gy) + ez * (ez - gz) + gx * gx + gy * gy + gz * gz)
            if new < shape * side:
                side_old = 2.0 * (
                    ex * (ex - fx) + ey * (ey - fy) + ez * (ez - fz) + fx * fx + fy * fy + fz * fz
                )
                if new * side_old < old * side:
                    return True
        c = after[c]
        if c == first[i]:
            return False


@INNER
def _enqueue(
    price: float, i: int, j: int, stamp: Int32, entries: Int32, following: Int32, lines: Int32, state: Int32
) -> None:
    """Put the edge (i, j) at the end of the line for its price, if there is room.

    The upper bits of a positive float32, read as an integer, are its logarithm in steps of 1/16 octave.
    lines: (BUCKETS, 2) first and last entry or -1. state: entries used, cheapest line that may be occupied.
    """
    used = state[0]
    if used == entries.shape[0]:
        return
    bucket = np.float32(max(price, 0.0)).view(np.int32) >> 19
    entries[used, 0] = i
    entries[used, 1] = j
    entries[used, 2] = stamp[i]
    entries[used, 3] = stamp[j]
    following[used] = -1
    if lines[bucket, 0] < 0:
        lines[bucket, 0] = used
    else:
        following[lines[bucket, 1]] = used
    lines[bucket, 1] = used
    state[0] = used + 1
    state[1] = min(state[1], bucket)


@nb.njit(cache=True)
def _link_corners(corner_vertex: Int32, first: Int32, after: Int32, before: Int32) -> None:
    """Thread the corners 3t+k at each vertex into a doubly linked ring; `first` holds one of them or -1."""
    for c in range(corner_vertex.shape[0]):
        f = first[corner_vertex[c]]
        if f < 0:
            first[corner_vertex[c]] = c
            after[c] = c
            before[c] = c
        else:
            last = before[f]
            after[last] = c
            before[c] = last
            after[c] = f
            before[f] = c


@nb.njit(cache=True)
def _collapse_edges(  # noqa: PLR0912, PLR0915  one loop over one set of arrays
    positions: Float64,
    triangles: Int32,
    first: Int32,
    after: Int32,
    before: Int32,
    quadric: Float64,
    border: UInt8,
    stamp: Int32,
    seen: Int32,
    entries: Int32,
    following: Int32,
    lines: Int32,
    state: Int32,
    left: int,
    max_triangles: int,
    cosine: float,
    shape: float,
) -> int:
    """Collapse in place, cheapest first; removed triangles get -1 in all corners. Returns how many are left.

    Edges wait in lines by price. An entry holds the stamps its two ends had when it was priced and is thrown
    away when either has moved since. All edges are priced anew when the lines are empty, because a moved
    neighbour may have freed an edge that was refused, or when the room for entries is used up.
    """
    corner_vertex = triangles.reshape(-1)
    corner_count = corner_vertex.shape[0]
    ticket = 0
    left_before = left + 1
    while max_triangles < left < left_before:
        left_before = left
        state[0] = 0
        state[1] = lines.shape[0]
        for line in range(lines.shape[0]):
            lines[line, 0] = -1
        for c in range(corner_count):
            i = corner_vertex[c]
            if i >= 0:
                j = corner_vertex[_turn(c)]
                if i < j or border[i] != 0:
                    price = _best_spot(positions, quadric, border, i, j)[0]
                    _enqueue(price, i, j, stamp, entries, following, lines, state)
        while state[1] < lines.shape[0] and state[0] < entries.shape[0] and left > max_triangles:
            entry = lines[state[1], 0]
            if entry < 0:
                state[1] += 1
                continue
            lines[state[1], 0] = following[entry]
            i, j = entries[entry, 0], entries[entry, 1]
            moved = stamp[i] != entries[entry, 2] or stamp[j] != entries[entry, 3]
            if moved or border[i] == 2 or border[j] == 2 or first[i] < 0 or first[j] < 0:
                continue

            # Link condition: the only common neighbours of i and j are the corners opposite their edge.
            faces, valence_i, dead, dead_too = 0, 0, -1, -1
            c = first[i]
            while True:
                a, b = corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]
                seen[a] = ticket + 1
                seen[b] = ticket + 1
                valence_i += 1
                if a == j or b == j:  # noqa: PLR1714  compiled, a tuple costs more
                    faces += 1
                    dead_too = dead
                    dead = c // 3
                c = after[c]
                if c == first[i]:
                    break
            common, valence_j = 0, 0
            c = first[j]
            while True:
                valence_j += 1
                for a in (corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]):
                    if a != i and seen[a] == ticket + 1:
                        common += 1
                        seen[a] = ticket + 2
                c = after[c]
                if c == first[j]:
                    break
            ticket += 2
            if faces == 0 or faces > 2 or common != faces or (faces == 2 and border[i] + border[j] == 2):
                continue
            if valence_i <= faces or valence_j <= faces or (faces == 2 and valence_i == 3 and valence_j == 3):
                continue  # a lone triangle, an ear, or a tetrahedron
            _, x, y, z = _best_spot(positions, quadric, border, i, j)
            if _spoils_a_face(positions, corner_vertex, first, after, i, j, x, y, z, cosine, shape):
                continue
            if _spoils_a_face(positions, corner_vertex, first, after, j, i, x, y, z, cosine, shape):
                continue

            # Take the one or two faces of the edge out, then give all corners of j to i.
            for t in (dead, dead_too):
                if t >= 0:
                    left -= 1
                    for c in range(3 * t, 3 * t + 3):
                        v = corner_vertex[c]
                        after[before[c]] = after[c]
                        before[after[c]] = before[c]
                        if first[v] == c:
                            first[v] = after[c] if after[c] != c else -1
                        corner_vertex[c] = -1
            c = first[j]
            while True:
                corner_vertex[c] = i
                c = after[c]
                if c == first[j]:
                    break
            last_i, last_j = before[first[i]], before[first[j]]
            after[last_i] = first[j]
            before[first[j]] = last_i
            after[last_j] = first[i]
            before[first[i]] = last_j
            first[j] = -1
            stamp[i] += 1
            border[i] = max(border[i], border[j])
            positions[i, 0] = x
            positions[i, 1] = y
            positions[i, 2] = z
            for m in range(10):
                quadric[i, m] += quadric[j, m]

            # Price the edges of the merged vertex.
            ticket += 1
            c = first[i]
            while True:
                for a in (corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]):
                    if seen[a] != ticket:
                        seen[a] = ticket
                        price = _best_spot(positions, quadric, border, i, a)[0]
                        _enqueue(price, i, a, stamp, entries, following, lines, state)
                c = after[c]
                if c == first[i]:
                    break
    return left
