"""Fewer triangles, same shape, still one closed skin.

General decimators are fast but may leave an edge with three faces, and everything after (unwrapping,
inside tests, a watertight check in the shop) trips over it. Here an edge is collapsed only when the link
condition says that the surface keeps its topology, so manifold in is manifold out by construction.

Methods: quadric error metric, Garland & Heckbert 1997; link condition, Dey et al. 1999; a small isotropic
term in every quadric, as in Trettner & Kobbelt 2020, which makes the minimum unique on flat ground.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import check_mesh, drop_unused_vertices
from trellis_pipeline.mesh.types import Int32, Mesh, UInt8

Float64 = npt.NDArray[np.float64]

DRIFT_WEIGHT = 1e-5  # sliding along the surface costs this share of leaving it
BORDER_WEIGHT = 10.0  # leaving an open border costs this much more than leaving the surface
MIN_COSINE = 0.2  # a face may tilt by at most 78 degrees in one collapse


def simplify(mesh: Mesh, max_triangles: int, *, keep_manifold: bool = True) -> Mesh:
    """Collapse edges until at most `max_triangles` remain.

    mesh: wound consistently and welded (see clean.clean). With `keep_manifold` every edge keeps the number
    of faces it has (closed stays closed, open borders stay borders), vertices are placed where the error is
    smallest, and no collapse turns a face over; edges that already have three or more faces are left alone.
    Without it meshoptimizer does the work: faster on millions of triangles, vertices are a subset of the
    input's, edges may end up with more than two faces.

    Returns the same object if it is small enough already. Raises MeshError for a budget below 4, for
    malformed arrays, and when no allowed collapse is left above the budget (a shape with many separate
    parts or handles needs some triangles for each).
    """
    if max_triangles < 4:
        raise MeshError(f"a closed surface needs 4 triangles; {max_triangles} were asked for")
    check_mesh(mesh)
    if len(mesh.triangles) <= max_triangles:
        return mesh
    if not keep_manifold:
        return _simplify_fast(mesh, max_triangles)
    positions = mesh.vertices.astype(np.float64)
    a, b, c = mesh.triangles.T
    triangles = np.ascontiguousarray(mesh.triangles[(a != b) & (b != c) & (c != a)], dtype=np.int32)
    left = _collapse_edges(positions, triangles, max_triangles, DRIFT_WEIGHT, BORDER_WEIGHT, MIN_COSINE)
    if left > max_triangles:
        raise MeshError(
            f"cannot go below {left} triangles without changing the topology; the limit is {max_triangles}. "
            "Raise the triangle limit or remove separate parts first"
        )
    triangles = triangles[triangles[:, 0] >= 0]
    return drop_unused_vertices(Mesh(positions.astype(np.float32), triangles))


def _simplify_fast(mesh: Mesh, max_triangles: int) -> Mesh:
    import meshoptimizer

    indices = np.ascontiguousarray(mesh.triangles, dtype=np.uint32).reshape(-1)
    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
    kept = np.zeros_like(indices)
    count = meshoptimizer.simplify(
        kept, indices, vertices, target_index_count=3 * max_triangles, target_error=1e30
    )
    if count > 3 * max_triangles or count == 0:
        raise MeshError(f"meshoptimizer stopped at {count // 3} triangles; the limit is {max_triangles}")
    return drop_unused_vertices(Mesh(vertices, kept[:count].reshape(-1, 3).astype(np.int32)))


@nb.njit(cache=True)
def _turn(corner: int) -> int:
    """The next corner of the same triangle."""
    return corner + 1 if corner % 3 < 2 else corner - 2


@nb.njit(cache=True)
def _unit_cross(a: Float64, b: Float64, out: Float64) -> float:
    """The unit vector along a × b (zero if parallel) into `out`; returns the length of a × b."""
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]
    length = np.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2])
    if length > 0.0:
        for m in range(3):
            out[m] /= length
    return length


@nb.njit(cache=True)
def _plane_quadric(out: Float64, normal: Float64, point: Float64, weight: float, drift: float) -> None:
    """weight * (squared distance to the plane + drift * squared distance to the point), as ten numbers:
    A row by row from the diagonal on (6), then b (3), then c, of  x'Ax - 2b'x + c.
    """
    along = normal[0] * point[0] + normal[1] * point[1] + normal[2] * point[2]
    m = 0
    for row in range(3):
        for column in range(row, 3):
            out[m] = weight * (normal[row] * normal[column] + (drift if row == column else 0.0))
            m += 1
    for row in range(3):
        out[6 + row] = weight * (normal[row] * along + drift * point[row])
    square = point[0] * point[0] + point[1] * point[1] + point[2] * point[2]
    out[9] = weight * (along * along + drift * square)


@nb.njit(cache=True)
def _best_spot(
    positions: Float64, quadric: Float64, border: UInt8, i: int, j: int, q: Float64, spot: Float64
) -> float:
    """Where the merged vertex has the least error, rounded to float32, into `spot`; returns that error."""
    for m in range(10):
        q[m] = quadric[i, m] + quadric[j, m]
    if border[i] != border[j]:  # the one on the border stays where it is
        keep = i if border[i] > border[j] else j
        x, y, z = positions[keep, 0], positions[keep, 1], positions[keep, 2]
    else:
        # Cramer's rule for the symmetric A x = b; A is positive definite unless all faces have no area.
        c0, c1, c2 = q[3] * q[5] - q[4] * q[4], q[2] * q[4] - q[1] * q[5], q[1] * q[4] - q[2] * q[3]
        c3, c4, c5 = q[0] * q[5] - q[2] * q[2], q[1] * q[2] - q[0] * q[4], q[0] * q[3] - q[1] * q[1]
        determinant = q[0] * c0 + q[1] * c1 + q[2] * c2
        if determinant > 0.0:
            x = (c0 * q[6] + c1 * q[7] + c2 * q[8]) / determinant
            y = (c1 * q[6] + c3 * q[7] + c4 * q[8]) / determinant
            z = (c2 * q[6] + c4 * q[7] + c5 * q[8]) / determinant
        else:
            x = (positions[i, 0] + positions[j, 0]) / 2
            y = (positions[i, 1] + positions[j, 1]) / 2
            z = (positions[i, 2] + positions[j, 2]) / 2
    x, y, z = np.float64(np.float32(x)), np.float64(np.float32(y)), np.float64(np.float32(z))
    spot[0], spot[1], spot[2] = x, y, z
    error = x * (q[0] * x + 2 * (q[1] * y + q[2] * z - q[6])) + y * (q[3] * y + 2 * (q[4] * z - q[7]))
    return max(0.0, error + z * (q[5] * z - 2 * q[8]) + q[9])


@nb.njit(cache=True)
def _turns_over(
    positions: Float64,
    corner_vertex: Int32,
    first: Int32,
    after: Int32,
    i: int,
    j: int,
    spot: Float64,
    min_cosine: float,
) -> bool:
    """Whether moving vertex i to `spot` tilts a face around i, those with j aside, beyond `min_cosine`."""
    c = first[i]
    while True:
        a, b = corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]
        if j != a and j != b:
            ax, ay, az = positions[a, 0], positions[a, 1], positions[a, 2]
            ex, ey, ez = positions[b, 0] - ax, positions[b, 1] - ay, positions[b, 2] - az
            fx, fy, fz = positions[i, 0] - ax, positions[i, 1] - ay, positions[i, 2] - az
            gx, gy, gz = spot[0] - ax, spot[1] - ay, spot[2] - az
            ox, oy, oz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
            nx, ny, nz = ey * gz - ez * gy, ez * gx - ex * gz, ex * gy - ey * gx
            old = ox * ox + oy * oy + oz * oz
            new = nx * nx + ny * ny + nz * nz
            if old > 0.0 and ox * nx + oy * ny + oz * nz <= min_cosine * np.sqrt(old * new):
                return True
        c = after[c]
        if c == first[i]:
            return False


@nb.njit(cache=True)
def _push(cost: Float64, ends: Int32, size: int, price: float, i: int, j: int, si: int, sj: int) -> int:
    """Add an entry to the binary heap, if there is room; returns its new size."""
    if size == cost.shape[0]:
        return size
    at = size
    while at > 0:
        up = (at - 1) // 2
        if cost[up] <= price:
            break
        cost[at] = cost[up]
        for m in range(4):
            ends[at, m] = ends[up, m]
        at = up
    cost[at] = price
    ends[at, 0], ends[at, 1], ends[at, 2], ends[at, 3] = i, j, si, sj
    return size + 1


@nb.njit(cache=True)
def _pop(cost: Float64, ends: Int32, size: int) -> int:
    """Remove the first entry of the binary heap; returns its new size."""
    size -= 1
    price = cost[size]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        if down + 1 < size and cost[down + 1] < cost[down]:
            down += 1
        if price <= cost[down]:
            break
        cost[at] = cost[down]
        for m in range(4):
            ends[at, m] = ends[down, m]
        at = down
    cost[at] = price
    for m in range(4):
        ends[at, m] = ends[size, m]
    return size


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
def _start_quadrics(
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
    edge, other, normal, plane = np.empty(3), np.empty(3), np.empty(3), np.empty(10)
    for c in range(corner_vertex.shape[0]):
        i, j, o = corner_vertex[c], corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]
        for m in range(3):
            edge[m] = positions[j, m] - positions[i, m]
            other[m] = positions[o, m] - positions[i, m]
        area2 = _unit_cross(edge, other, normal)
        _plane_quadric(plane, normal, positions[i], area2 / 6.0, drift)
        for m in range(10):
            quadric[i, m] += plane[m]
        faces = 0
        d = first[i]
        while True:
            if corner_vertex[_turn(d)] == j or corner_vertex[_turn(_turn(d))] == j:
                faces += 1
            d = after[d]
            if d == first[i]:
                break
        if faces == 1:
            border[i] = max(border[i], 1)
            border[j] = max(border[j], 1)
            # A plane through the edge, upright on the face, holds the border where it is.
            length2 = edge[0] * edge[0] + edge[1] * edge[1] + edge[2] * edge[2]
            _unit_cross(normal, edge, other)
            _plane_quadric(plane, other, positions[i], border_weight * length2, 0.0)
            for m in range(10):
                quadric[i, m] += plane[m]
                quadric[j, m] += plane[m]
        elif faces > 2:
            border[i] = 2
            border[j] = 2


@nb.njit(cache=True)
def _collapse_edges(
    positions: Float64,
    triangles: Int32,
    max_triangles: int,
    drift: float,
    border_weight: float,
    cosine: float,
) -> int:
    """Collapse in place, cheapest first; removed triangles get -1 in all corners. Returns how many are left.

    The heap is lazy: an entry holds the stamps its two ends had when it was priced and is thrown away when
    either has moved since. It is filled anew whenever it ran dry, because a moved neighbour may have freed
    an edge that was refused, and for the same reason an entry that finds the heap full may be dropped.
    """
    vertex_count, corner_count = positions.shape[0], 3 * triangles.shape[0]
    corner_vertex = triangles.reshape(-1)
    first = np.full(vertex_count, -1, np.int32)
    after = np.empty(corner_count, np.int32)
    before = np.empty(corner_count, np.int32)
    _link_corners(corner_vertex, first, after, before)
    quadric = np.zeros((vertex_count, 10))
    border = np.zeros(vertex_count, np.uint8)
    _start_quadrics(positions, corner_vertex, first, after, quadric, border, drift, border_weight)

    cost = np.empty(corner_count + corner_count // 2 + 16)
    ends = np.empty((cost.shape[0], 4), np.int32)
    stamp = np.zeros(vertex_count, np.int32)
    seen = np.zeros(vertex_count, np.int32)
    ticket = 0
    spot, q = np.empty(3), np.empty(10)
    left = triangles.shape[0]
    left_before = left + 1
    while max_triangles < left < left_before:
        left_before = left
        size = 0
        for c in range(corner_count):
            i = corner_vertex[c]
            if i >= 0:
                j = corner_vertex[_turn(c)]
                if i < j or border[i] != 0:
                    price = _best_spot(positions, quadric, border, i, j, q, spot)
                    size = _push(cost, ends, size, price, i, j, stamp[i], stamp[j])
        while size > 0 and left > max_triangles:
            i, j = ends[0, 0], ends[0, 1]
            moved = stamp[i] != ends[0, 2] or stamp[j] != ends[0, 3]
            size = _pop(cost, ends, size)
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
                if a == j or b == j:
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
            _best_spot(positions, quadric, border, i, j, q, spot)
            if _turns_over(positions, corner_vertex, first, after, i, j, spot, cosine):
                continue
            if _turns_over(positions, corner_vertex, first, after, j, i, spot, cosine):
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
            for m in range(3):
                positions[i, m] = spot[m]
            for m in range(10):
                quadric[i, m] += quadric[j, m]

            # Price the edges of the merged vertex.
            ticket += 1
            c = first[i]
            while True:
                for a in (corner_vertex[_turn(c)], corner_vertex[_turn(_turn(c))]):
                    if seen[a] != ticket:
                        seen[a] = ticket
                        price = _best_spot(positions, quadric, border, i, a, q, spot)
                        size = _push(cost, ends, size, price, i, a, stamp[i], stamp[a])
                c = after[c]
                if c == first[i]:
                    break
    return left
