"""The oldest ways to give an outline a body, as peers to measure against: a card, an extrusion, a balloon.

All take the same cut-out as the generator under test, so that the difference is what the generator knows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import linalg
from shape_scores import Bool, Float, Shape

PX = 128


def slab(mask: Bool) -> Shape:
    """The outline as a card; its thickness is a tenth of its longer side."""
    return _body(mask, np.full((PX + 1, PX + 1), 0.05 * _sides(mask)[1]))


def extrusion(mask: Bool) -> Shape:
    """The outline pulled out as deep as its shorter side."""
    return _body(mask, np.full((PX + 1, PX + 1), 0.5 * _sides(mask)[0]))


def poisson(mask: Bool) -> Shape:
    """The outline blown up: half depth is sqrt(u) with laplace(u) = -4, which makes a disc a ball."""
    inner = np.zeros((PX + 1, PX + 1), bool)
    inner[1:-1, 1:-1] = mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:] & mask[1:, 1:]
    rows, columns = np.nonzero(inner)
    number = np.full(inner.shape, -1)
    number[inner] = np.arange(len(rows))
    count = len(rows)
    matrix = sparse.lil_matrix((count, count))
    matrix.setdiag(4.0)
    entries: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        beside = number[rows + dy, columns + dx]
        has = beside >= 0
        entries.append((number[rows, columns][has], beside[has]))
    i, j = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.csc_matrix(matrix) - sparse.csc_matrix((np.ones(len(i)), (i, j)), (count, count))
    height = np.zeros(inner.shape)
    height[inner] = np.sqrt(np.maximum(linalg.spsolve(matrix, np.full(count, 4.0)), 0))
    return _body(mask, height / PX)


def _sides(mask: Bool) -> tuple[float, float]:
    lengths = sorted([np.ptp(np.flatnonzero(mask.any(0))) + 1, np.ptp(np.flatnonzero(mask.any(1))) + 1])
    return lengths[0] / PX, lengths[1] / PX


def _body(mask: Bool, half_depth: Float) -> Shape:
    """The mask (PX, PX) in front and behind at `half_depth` (PX + 1, PX + 1), joined by walls."""
    n = PX + 1
    y, x = np.mgrid[0:n, 0:n]
    flat = np.stack([x / PX - 0.5, 0.5 - y / PX], -1).reshape(-1, 2)
    depth = half_depth.reshape(-1, 1)
    points = np.vstack([np.hstack([flat, depth]), np.hstack([flat, -depth])])
    r, c = np.nonzero(mask)
    tl, tr, bl, br = r * n + c, r * n + c + 1, (r + 1) * n + c, (r + 1) * n + c + 1
    front = np.concatenate([np.stack([tl, bl, br], 1), np.stack([tl, br, tr], 1)])
    triangles = [front, front[:, ::-1] + n * n]
    ring = np.concatenate([np.stack(edge, 1) for edge in ((tl, bl), (bl, br), (br, tr), (tr, tl))])
    known = {(int(a), int(b)) for a, b in ring}
    rim = np.array([(a, b) for a, b in known if (b, a) not in known])
    a, b = rim.T
    triangles += [np.stack([b, a, a + n * n], 1), np.stack([b, a + n * n, b + n * n], 1)]
    return Shape(points, np.concatenate(triangles).astype(np.int32))
