"""What a collapse may not do: change the topology, turn a face over, make a sliver.

Link condition: Dey et al., Topology preserving edge contraction, 1999. Where the only common neighbours of
an edge's ends are the corners opposite the edge, no edge gets more faces than it had, and no hole opens or
closes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.edge_collapse.rings import INNER, CornerRings, turn
from trellis_pipeline.mesh.types import Int32, UInt8

Float64 = npt.NDArray[np.float64]

REFUSED = (-1, -1)


@INNER
def doomed(rings: CornerRings, border: UInt8, i: int, j: int, seen: Int32, ticket: int) -> tuple[int, int]:
    """The one or two triangles of the edge (i, j) that a collapse takes away, the second -1 if there is only
    one; (-1, -1) if the link condition forbids the collapse.

    border: as quadrics.sum_quadrics has it. seen: (V,) working space, in which ticket + 1 and ticket + 2 have
    not been written yet.
    """
    owner, first, after = rings.owner, rings.first, rings.after
    faces, valence_i, dead, dead_too = 0, 0, -1, -1
    c = first[i]
    while True:
        a, b = owner[turn(c)], owner[turn(turn(c))]
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
        for a in (owner[turn(c)], owner[turn(turn(c))]):
            if a != i and seen[a] == ticket + 1:
                common += 1
                seen[a] = ticket + 2
        c = after[c]
        if c == first[j]:
            break
    if faces == 0 or faces > 2 or common != faces or (faces == 2 and border[i] + border[j] == 2):
        return REFUSED
    if valence_i <= faces or valence_j <= faces or (faces == 2 and valence_i == 3 and valence_j == 3):
        return REFUSED  # a lone triangle, an ear, or a tetrahedron
    return dead, dead_too


@INNER
def spoils_a_face(
    positions: Float64,
    rings: CornerRings,
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
    owner, first, after = rings.owner, rings.first, rings.after
    c = first[i]
    while True:
        a, b = owner[turn(c)], owner[turn(turn(c))]
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
