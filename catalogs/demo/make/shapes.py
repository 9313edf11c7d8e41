"""Closed surfaces from a few numbers: lathes, sweeps, lofts and rounded boxes.

Every product of the demo catalog is put together from parts that are closed on their own, so that "inside"
has one meaning for whoever measures against them. All shapes come from one builder, `skin`, which joins rings
of points; what differs is only where the rings stand. Units are metres, Y is up, +Z faces the viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Surface:
    """A closed triangle surface before its normals are known.

    points: (V, 3) metres. uvs: (C, 3, 2) per triangle corner, v downwards (glTF). triangles: (C, 3) into
    points, counter-clockwise from outside. Positions are shared across UV seams, so closedness can be read
    off the indices.
    """

    points: Float
    triangles: Int
    uvs: Float

    def moved(self, offset: Sequence[float]) -> Surface:
        """The same surface, translated by `offset` (metres)."""
        return replace(self, points=self.points + np.asarray(offset, dtype=np.float64))

    def scaled(self, factors: Sequence[float]) -> Surface:
        """Scaled along x, y, z by positive factors."""
        return replace(self, points=self.points * np.asarray(factors, dtype=np.float64))

    def turned(self, axis: str, degrees: float) -> Surface:
        """Rotated about the x, y or z axis through the origin, right-handed."""
        return replace(self, points=self.points @ rotation(axis, degrees).T)

    def mirrored_x(self) -> Surface:
        """The mirror image across the plane x = 0, still oriented outwards."""
        return Surface(
            self.points * np.array([-1.0, 1.0, 1.0]), self.triangles[:, ::-1].copy(), self.uvs[:, ::-1].copy()
        )


def rotation(axis: str, degrees: float) -> Float:
    """The 3 x 3 right-handed rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[j, j] = matrix[k, k] = c
    matrix[j, k], matrix[k, j] = -s, s
    return matrix


def skin(rings: Float, *, loop: bool = False) -> Surface:
    """Join n rings of m points, (n, m, 3), into a closed surface.

    Each ring runs counter-clockwise seen against the direction in which the rings advance. The ends are
    closed by a fan around the ring's mean, or by joining the last ring to the first (`loop`). u runs around
    the rings, v follows the length along them, from 1 at the first ring to 0 at the last.
    """
    n, m, _ = rings.shape
    points = rings.reshape(-1, 3)
    step = np.linalg.norm(np.diff(rings, axis=0, append=rings[:1] if loop else rings[-1:]), axis=2).mean(
        axis=1
    )
    along = np.concatenate([[0.0], np.cumsum(step)])
    v = 1.0 - along / max(along[n if loop else n - 1], 1e-12)
    rows = np.arange(n if loop else n - 1)
    i, j = (a.ravel() for a in np.meshgrid(rows, np.arange(m), indexing="ij"))
    i2, j2 = (i + 1) % n, (j + 1) % m
    a, b, c, d = i * m + j, i * m + j2, i2 * m + j2, i2 * m + j
    ua, ub, va, vd = j / m, (j + 1) / m, v[i], v[i + 1]
    triangles = [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    uvs = [
        np.stack([np.stack([ua, va], 1), np.stack([ub, va], 1), np.stack([ub, vd], 1)], 1),
        np.stack([np.stack([ua, va], 1), np.stack([ub, vd], 1), np.stack([ua, vd], 1)], 1),
    ]
    if not loop:
        edge = np.arange(m)
        after = (edge + 1) % m
        for ring, first in ((0, True), (n - 1, False)):
            centre = len(points)
            points = np.vstack([points, rings[ring].mean(axis=0)])
            tip = np.full(m, centre)
            base = ring * m
            corners = [tip, base + after, base + edge] if first else [tip, base + edge, base + after]
            triangles.append(np.stack(corners, 1))
            mid = np.stack([(edge + 0.5) / m, np.full(m, v[ring])], 1)
            left = np.stack([edge / m, np.full(m, v[ring])], 1)
            right = np.stack([(edge + 1) / m, np.full(m, v[ring])], 1)
            uvs.append(np.stack([mid, right, left] if first else [mid, left, right], 1))
    return drop_slivers(Surface(points, np.concatenate(triangles), np.concatenate(uvs)))


def drop_slivers(surface: Surface) -> Surface:
    """Weld equal positions (rings that shrink to a point) and drop the triangles that lost a corner."""
    keys = np.round(surface.points, 9) + 0.0
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    triangles = inverse.reshape(-1)[surface.triangles]
    a, b, c = triangles.T
    keep = (a != b) & (b != c) & (c != a)
    return Surface(surface.points[first], triangles[keep], surface.uvs[keep])


def smooth(points: Sequence[Sequence[float]], count: int, *, closed: bool = False) -> Float:
    """`count` points at equal arc length on a uniform Catmull-Rom spline through the given points."""
    p = np.asarray(points, dtype=np.float64)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    pieces = []
    for k in range(1, len(p) - 2):
        a, b, c, d = p[k - 1 : k + 3]
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    dense = np.vstack([*pieces, p[-2:-1]])
    return resample(dense, count, closed=closed)


def resample(line: Float, count: int, *, closed: bool = False) -> Float:
    """`count` points at equal arc length along a polyline; the end point is left out when it is closed."""
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    want = np.linspace(0, at[-1], count + 1)[:-1] if closed else np.linspace(0, at[-1], count)
    return np.stack([np.interp(want, at, line[:, k]) for k in range(line.shape[1])], axis=1)


def rounded(corners: Sequence[Sequence[float]], steps: int = 5) -> Float:
    """A 2D or 3D polyline with its corners rounded off. Each corner is (*coordinates, radius in metres)."""
    c = np.asarray(corners, dtype=np.float64)
    p, radius = c[:, :-1], c[:, -1]
    out = [p[0]]
    for k in range(1, len(p) - 1):
        before, after = p[k - 1] - p[k], p[k + 1] - p[k]
        lb, la = np.linalg.norm(before), np.linalg.norm(after)
        cut = min(radius[k], 0.49 * lb, 0.49 * la)
        if cut <= 0:
            out.append(p[k])
            continue
        a, b = p[k] + before / lb * cut, p[k] + after / la * cut
        t = np.linspace(0, 1, steps)[:, None]
        out.extend((1 - t) ** 2 * a + 2 * t * (1 - t) * p[k] + t**2 * b)
    out.append(p[-1])
    return np.asarray(out)


def lathe(profile: Float, segments: int = 72, *, loop: bool = False) -> Surface:
    """Turn a profile of (radius, y) about the Y axis.

    The profile runs upwards on the outside; radius 0 at both ends closes it.

    loop: the profile is a closed polygon (counter-clockwise, radius to the right), which gives a ring.

    The seam lies at the back (-Z), so u = 0.5 faces the viewer and a label reads from left to right.
    """
    angle = -np.pi / 2 - np.arange(segments) / segments * 2 * np.pi
    ring = np.stack([np.cos(angle), np.zeros(segments), np.sin(angle)], axis=1)
    rings = profile[:, :1, None] * ring[None] + np.array([0, 1, 0]) * profile[:, 1:, None]
    return skin(rings, loop=loop)


def vessel(outside: Float, wall: float, floor: float) -> Float:
    """Close an outer profile (bottom centre to rim) into a vessel's, its inner wall `wall` metres inside.

    floor: height of the inner bottom above the outer one, in metres.
    """
    tangent = np.gradient(outside, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    inner = outside + wall * normal
    inner = inner[(inner[:, 1] > outside[0, 1] + floor) & (outside[:, 0] > wall * 1.5)][::-1]
    rim = outside[-1]
    lip = np.array([[rim[0] - 0.15 * wall, rim[1] + 0.3 * wall], [rim[0] - 0.85 * wall, rim[1] + 0.3 * wall]])
    bottom = outside[0, 1] + floor
    last = inner[-1]
    base = np.array([[last[0] * 0.93, bottom + 0.15 * wall], [last[0] * 0.8, bottom], [0.0, bottom]])
    return np.vstack([outside, lip, inner, base])


def sweep(
    path: Float,
    radius: float | Sequence[float] | Float,
    *,
    flat: float = 1.0,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    segments: int = 20,
    power: float = 2.0,
    loop: bool = False,
) -> Surface:
    """A tube along `path` (n, 3), rounded at its ends.

    radius: half width across `up`, one value, or values spread evenly along the path. flat: half height along
    `up` over half width. power: 2 is an ellipse, 4 and more a rounded rectangle.
    """
    n = len(path)
    widths = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, np.size(radius)), np.atleast_1d(radius))
    around = np.vstack([path[-1:], path, path[:1]]) if loop else path
    tangent = np.gradient(around, axis=0)
    tangent = tangent[1:-1] if loop else tangent
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    if not loop:
        ease = np.linspace(0, np.pi / 2, 6)[:-1]
        head = path[0] - tangent[0] * widths[0] * 0.8 * np.cos(ease)[:, None]
        tail = path[-1] + tangent[-1] * widths[-1] * 0.8 * np.cos(ease[::-1])[:, None]
        shrink = np.maximum(np.sin(ease), 0.02)
        path = np.vstack([head, path, tail])
        tangent = np.vstack([np.repeat(tangent[:1], 5, 0), tangent, np.repeat(tangent[-1:], 5, 0)])
        widths = np.concatenate([widths[0] * shrink, widths, widths[-1] * shrink[::-1]])
    side = np.cross(np.broadcast_to(np.asarray(up, dtype=np.float64), tangent.shape), tangent)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    over = np.cross(tangent, side)
    outline = superellipse(1.0, flat, segments, power)
    rings = (
        path[:, None]
        + widths[:, None, None] * outline[None, :, :1] * side[:, None]
        + widths[:, None, None] * outline[None, :, 1:] * over[:, None]
    )
    return skin(rings, loop=loop)


def superellipse(a: float, b: float, count: int, power: float = 2.0) -> Float:
    """|x/a|^p + |y/b|^p = 1 as (count, 2) points, counter-clockwise from the +x axis."""
    t = np.arange(count) / count * 2 * np.pi
    c, s = np.cos(t), np.sin(t)
    r = (np.abs(c) ** power + np.abs(s) ** power) ** (-1.0 / power)
    return np.stack([a * r * c, b * r * s], axis=1)


def stack(levels: Sequence[Sequence[float]], segments: int = 64, power: float = 2.0) -> Surface:
    """A loft of level superellipses, each (y, half width x, half depth z, centre x, centre z) in metres."""
    rings = []
    for y, a, b, x, z in levels:
        outline = superellipse(a, b, segments, power)
        outline = np.roll(outline[::-1], 1 - segments // 4, axis=0)
        rings.append(np.stack([x + outline[:, 0], np.full(segments, y), z + outline[:, 1]], axis=1))
    return skin(np.asarray(rings))


def box(
    size: Sequence[float],
    radius: float,
    *,
    arc: int = 4,
    bulge: Sequence[float] = (0.0, 0.0, 0.0),
    fine: int = 0,
    cells: bool = False,
) -> Surface:
    """A box of full `size` (x, y, z) centred at the origin, its edges rounded with `radius` metres.

    bulge: how far the middle of the faces normal to x, y, z stands out, in metres. fine: extra rows a face.
    Every face has the whole unit square as UVs, upright as seen from outside; with `cells` each has its own
    cell of a 3 x 2 atlas: +x, -x, +y in the upper row, -y, +z, -z in the lower.
    """
    half = np.asarray(size, dtype=np.float64) / 2
    core = half - radius
    arcs = np.tan(np.linspace(-np.pi / 4, 0, arc + 1))
    grids = []
    for k in range(3):
        inner = np.linspace(-core[k], core[k], fine + 2)
        grids.append(
            np.concatenate([-core[k] + radius * arcs[:-1], inner, core[k] - radius * arcs[:-1][::-1]])
        )
    points, triangles, uvs, start = [], [], [], 0
    for axis in range(3):
        for sign in (1.0, -1.0):
            across, upward = {0: (2, 1), 1: (0, 2), 2: (0, 1)}[axis]
            gu, gv = grids[across], grids[upward]
            u, v = np.meshgrid(gu, gv, indexing="ij")
            p = np.zeros((*u.shape, 3))
            p[..., axis], p[..., across], p[..., upward] = sign * half[axis], u, v
            seed = np.clip(p, -core, core)
            away = p - seed
            away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-12)
            q = seed + radius * away
            swell = np.asarray(bulge, dtype=np.float64) * np.sign(away * (np.abs(away) > 1e-9))
            reach = [
                np.prod([1 - (p[..., o] / half[o]) ** 2 for o in range(3) if o != k], axis=0)
                for k in range(3)
            ]
            q = q + swell * np.stack(reach, axis=-1) * np.abs(away)
            s, t = len(gu), len(gv)
            i, j = (a.ravel() for a in np.meshgrid(np.arange(s - 1), np.arange(t - 1), indexing="ij"))
            a, b, c, d = (start + x * t + y for x, y in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)))
            flip = (sign < 0) != (axis in (0, 1))
            fu, fv = (u / (2 * half[across]) + 0.5).ravel(), (0.5 - v / (2 * half[upward])).ravel()
            if (axis == 2 and sign < 0) or (axis == 0 and sign > 0):
                fu = 1 - fu
            if axis == 1 and sign > 0:
                fv = 1 - fv
            if cells:
                cell = 2 * axis + (sign < 0)
                fu, fv = (cell % 3 + fu) / 3, (cell // 3 + fv) / 2
            coords = np.stack([fu, fv], 1)
            for tri in ((a, b, c), (a, c, d)):
                corners = np.stack(tri[::-1] if flip else tri, 1)
                triangles.append(corners)
                uvs.append(coords[corners - start])
            points.append(q.reshape(-1, 3))
            start += s * t
    return drop_slivers(Surface(np.vstack(points), np.concatenate(triangles), np.concatenate(uvs)))


def corner_normals(surface: Surface, crease_degrees: float = 40.0) -> Float:
    """Unit normals per triangle corner, (T, 3, 3): area-weighted over neighbours within the crease angle."""
    p, t = surface.points, surface.triangles
    cross = np.cross(p[t[:, 1]] - p[t[:, 0]], p[t[:, 2]] - p[t[:, 0]])
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-30)
    corner_of = np.argsort(t.ravel(), kind="stable")
    faces = corner_of // 3
    degree = np.bincount(t.ravel(), minlength=len(p))
    begin = np.concatenate([[0], np.cumsum(degree)])
    owner = t.ravel()[corner_of]
    repeat = degree[owner]
    left = np.repeat(np.arange(len(corner_of)), repeat)
    offset = np.arange(len(left)) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    right = begin[owner[left]] + offset
    close = (unit[faces[left]] * unit[faces[right]]).sum(axis=1) > np.cos(np.radians(crease_degrees))
    total = np.zeros((len(corner_of), 3))
    np.add.at(total, left[close], cross[faces[right[close]]])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    normals = np.empty_like(total)
    normals[corner_of] = total
    return normals.reshape(-1, 3, 3)


def boundary_edges(surface: Surface) -> int:
    """How many directed edges have no opposite partner: 0 for a closed, consistently oriented surface."""
    t = surface.triangles
    a, b = t.ravel(), t[:, [1, 2, 0]].ravel()
    edges, counts = np.unique(np.stack([a, b], 1), axis=0, return_counts=True)
    known = {(int(x), int(y)): int(n) for (x, y), n in zip(edges, counts, strict=True)}
    return sum(abs(n - known.get((y, x), 0)) for (x, y), n in known.items())


def volume(surface: Surface) -> float:
    """Signed volume in cubic metres: positive when the triangles face outwards (divergence theorem)."""
    p, t = surface.points, surface.triangles
    return float(np.einsum("ij,ij->i", p[t[:, 0]], np.cross(p[t[:, 1]], p[t[:, 2]])).sum() / 6)
