"""From thickness to a closed surface.

The outline is traced through the grid by marching squares, so front and back share one set of flat polygons:
the front lifts them by its height, the back lowers its mirror image, and a wall joins the two rims. Front
and back never share a vertex and the wall has a least height, which makes the surface a closed manifold for
every mask there is: with holes, with pieces, with parts one cell wide.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.generation.draft.field import _crossing
from trellis_pipeline.mesh.types import Mesh

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@numba.njit(cache=True)
def _put(table, row, a, b, c):  # type: ignore[no-untyped-def]
    table[row, 0] = a
    table[row, 1] = b
    table[row, 2] = c


@numba.njit(cache=True)
def _trace(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915  one walk over one grid
    coverage, front, back, rim_front, rim_back, flat
):
    """Vertices (2N, 3) in cells, image axes (y down), front first; triangles (T, 3)."""
    rows, columns = coverage.shape
    corner = np.full((rows, columns), -1, np.int32)
    across = np.full((rows, columns), -1, np.int32)  # crossing between (y, x) and (y, x + 1)
    down = np.full((rows, columns), -1, np.int32)  # crossing between (y, x) and (y + 1, x)
    count = 0
    for y in range(rows):
        for x in range(columns):
            here = coverage[y, x] >= 0.5
            count += here
            if x + 1 < columns:
                count += here != (coverage[y, x + 1] >= 0.5)
            if y + 1 < rows:
                count += here != (coverage[y + 1, x] >= 0.5)
    vertices = np.zeros((2 * count, 3), np.float32)
    n = 0
    for y in range(rows):
        for x in range(columns):
            here = coverage[y, x] >= 0.5
            if here:
                corner[y, x] = n
                _put(vertices, n, x, y, front[y, x])
                _put(vertices, count + n, x, y, -back[y, x])
                n += 1
            if x + 1 < columns and here != (coverage[y, x + 1] >= 0.5):
                if here:
                    at = x + _crossing(coverage[y, x], coverage[y, x + 1])
                else:
                    at = x + 1 - _crossing(coverage[y, x + 1], coverage[y, x])
                _put(vertices, n, at, y, rim_front)
                _put(vertices, count + n, at, y, -rim_back)
                across[y, x] = n
                n += 1
            if y + 1 < rows and here != (coverage[y + 1, x] >= 0.5):
                if here:
                    at = y + _crossing(coverage[y, x], coverage[y + 1, x])
                    inner, outer = y, y + 1
                else:
                    at = y + 1 - _crossing(coverage[y + 1, x], coverage[y, x])
                    inner, outer = y + 1, y
                _put(vertices, n, x, at, rim_front)
                _put(vertices, count + n, x, at, -rim_back)
                if flat[outer, x]:
                    vertices[n, 2] = front[inner, x]
                    vertices[count + n, 2] = -back[inner, x]
                down[y, x] = n
                n += 1
    triangles = np.empty((8 * count + 16, 3), np.int32)
    m = 0
    polygon = np.empty(8, np.int32)
    is_crossing = np.empty(8, np.bool_)
    for y in range(rows - 1):
        for x in range(columns - 1):
            # Around the square, counter-clockwise as seen with y up.
            corners = (corner[y, x], corner[y + 1, x], corner[y + 1, x + 1], corner[y, x + 1])
            crossings = (down[y, x], across[y + 1, x], down[y, x + 1], across[y, x])
            inside = 0
            for k in range(4):
                inside += corners[k] >= 0
            if inside == 0:
                continue
            saddle = inside == 2 and (corners[0] >= 0) == (corners[2] >= 0)
            pieces = 2 if saddle else 1
            first = 0 if corners[0] >= 0 else 1
            for piece in range(pieces):
                length = 0
                if saddle:
                    # Two corners that touch only diagonally are kept apart, here and everywhere.
                    k = first + 2 * piece
                    polygon[0] = crossings[(k + 3) % 4]
                    polygon[1] = corners[k]
                    polygon[2] = crossings[k]
                    is_crossing[0] = True
                    is_crossing[1] = False
                    is_crossing[2] = True
                    length = 3
                else:
                    for k in range(4):
                        if corners[k] >= 0:
                            polygon[length] = corners[k]
                            is_crossing[length] = False
                            length += 1
                        if crossings[k] >= 0:
                            polygon[length] = crossings[k]
                            is_crossing[length] = True
                            length += 1
                for k in range(1, length - 1):
                    _put(triangles, m, polygon[0], polygon[k], polygon[k + 1])
                    _put(triangles, m + 1, count + polygon[0], count + polygon[k + 1], count + polygon[k])
                    m += 2
                for k in range(length):
                    j = (k + 1) % length
                    if is_crossing[k] and is_crossing[j]:
                        p, q = polygon[k], polygon[j]
                        _put(triangles, m, q, p, count + p)
                        _put(triangles, m + 1, q, count + p, count + q)
                        m += 2
    return vertices, triangles[:m].copy()


def close_surface(coverage: Float32, front: Float32, back: Float32, flat: Bool, *, rim: float) -> Mesh:
    """Join a front and a back height map into one closed manifold surface.

    coverage: (H, W) float32 in 0..1, outermost cells 0; the outline is where it is one half. front, back:
    (H, W) float32, heights towards and away from the viewer in cells, > 0 wherever coverage >= 0.5. flat:
    see `field.solve`; there the wall is as high as the cell inside. rim > 0: height of each half of the
    wall elsewhere, in cells. Returns vertices in cells with x right, y up (0 at the image's lower edge),
    z towards the viewer.
    """
    vertices, triangles = _trace(
        coverage.astype(np.float64), front.astype(np.float64), back.astype(np.float64), rim, rim, flat
    )
    vertices[:, 1] = coverage.shape[0] - 1 - vertices[:, 1]
    return Mesh(vertices=vertices, triangles=triangles)
