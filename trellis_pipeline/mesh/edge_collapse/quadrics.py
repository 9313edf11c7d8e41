"""What a vertex's place costs: sums of squared distances to the planes it should stay on.

Methods: quadric error metric, Garland & Heckbert 1997; a small isotropic term in every quadric, as in
Trettner & Kobbelt 2020, which makes the minimum unique on flat ground.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.edge_collapse.rings import INNER, CornerRings, turn
from trellis_pipeline.mesh.types import Int32, UInt8

Float64 = npt.NDArray[np.float64]

DRIFT_WEIGHT = 1e-5  # sliding along the surface costs this share of leaving it
BORDER_WEIGHT = 10.0  # leaving an open border costs this much more than leaving the surface


def sum_quadrics(positions: Float64, rings: CornerRings) -> tuple[Float64, UInt8]:
    """Quadrics (V, 10) of faces and open borders, and (V,) what runs through each vertex: 1 an open border,
    2 an edge with three faces or more, else 0. positions: (V, 3).
    """
    quadric = np.zeros((len(positions), 10))
    border = np.zeros(len(positions), np.uint8)
    _sum(positions, rings.owner, rings.first, rings.after, quadric, border, DRIFT_WEIGHT, BORDER_WEIGHT)
    return quadric, border


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
def _sum(
    positions: Float64,
    owner: Int32,
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
    for c in range(owner.shape[0]):
        i, j, o = owner[c], owner[turn(c)], owner[turn(turn(c))]
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
            if owner[turn(d)] == j or owner[turn(turn(d))] == j:
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
def best_spot(
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
