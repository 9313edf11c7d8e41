"""How thick is the object behind each point of its silhouette?

A single photo does not say. Two priors answer well for most products: things turned about a vertical axis
are as deep as they are wide, row by row; everything else swells with the distance from its outline. Both
are one equation, `wx u_xx + wy u_yy = -2` inside the outline and `u = 0` on it, with half thickness
`sqrt(u)`: on a long strip it gives an exact circle as cross-section. With `wy` near zero every row is solved
for itself (the lathe), with `wy = 1` it is Poisson's equation (the inflated shape).

The outline is known to a fraction of a cell, so the difference quotients next to it use the true distance
(Shortley and Weller 1938); without that the surface shows terraces along every slanted edge.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# A crossing closer to a cell's centre than this makes slivers and ill-conditioned quotients.
NEAREST_CROSSING = 0.02


@numba.njit(cache=True)
def _crossing(inner: float, outer: float) -> float:
    """Distance, in cells, from the inner centre to where coverage falls through one half."""
    t = (inner - 0.5) / (inner - outer)
    return min(max(t, NEAREST_CROSSING), 1.0 - NEAREST_CROSSING)


@numba.njit(cache=True)
def _sweep(u, coverage, flat, wx, wy, sweeps):  # type: ignore[no-untyped-def]
    """Relax u in place, one horizontal run of cells at a time, alternately down and up."""
    rows, columns = coverage.shape
    upper = np.zeros(columns)
    value = np.zeros(columns)
    for sweep in range(sweeps):
        for step in range(1, rows - 1):
            y = step if sweep % 2 == 0 else rows - 1 - step
            x = 1
            while x < columns - 1:
                if coverage[y, x] < 0.5:
                    x += 1
                    continue
                start = x
                while x < columns - 1 and coverage[y, x] >= 0.5:
                    here = coverage[y, x]
                    left_in = coverage[y, x - 1] >= 0.5
                    right_in = coverage[y, x + 1] >= 0.5
                    above_in = coverage[y - 1, x] >= 0.5
                    below_in = coverage[y + 1, x] >= 0.5
                    dl = 1.0 if left_in else _crossing(here, coverage[y, x - 1])
                    dr = 1.0 if right_in else _crossing(here, coverage[y, x + 1])
                    du = 1.0 if above_in else _crossing(here, coverage[y - 1, x])
                    dd = 1.0 if below_in else _crossing(here, coverage[y + 1, x])
                    cl = 2.0 * wx / (dl * (dl + dr))
                    cr = 2.0 * wx / (dr * (dl + dr))
                    cu = 2.0 * wy / (du * (du + dd))
                    cd = 2.0 * wy / (dd * (du + dd))
                    right_side = 2.0
                    # On a flat cap or foot nothing flows out: the thickness runs straight into the cut.
                    if not above_in and flat[y - 1, x]:
                        cu = 0.0
                    if not below_in and flat[y + 1, x]:
                        cd = 0.0
                    if above_in:
                        right_side += cu * u[y - 1, x]
                    if below_in:
                        right_side += cd * u[y + 1, x]
                    diagonal = cl + cr + cu + cd
                    lower = -cl if left_in else 0.0
                    if x > start:
                        diagonal -= lower * upper[x - 1]
                        right_side -= lower * value[x - 1]
                    upper[x] = (-cr / diagonal) if right_in else 0.0
                    value[x] = right_side / diagonal
                    x += 1
                after = 0.0
                for k in range(x - 1, start - 1, -1):
                    after = value[k] - upper[k] * after
                    u[y, k] = after
    return u


def solve(coverage: Float32, flat: Bool, *, wx: float = 1.0, wy: float = 1.0) -> Float32:
    """Solve `wx u_xx + wy u_yy = -2` inside the half-coverage outline, `u = 0` on it; in cells squared.

    coverage: (H, W) float32 in 0..1, its outermost cells 0. flat: (H, W) bool, true on cells outside the
    outline through whose border nothing flows (`silhouette.flat_ends`). Returns (H, W) float32 >= 0, zero
    outside. Coarse to fine: each level starts from the one of half its resolution.
    """
    import cv2

    rows, columns = coverage.shape
    if min(rows, columns) > 24:
        half = (columns // 2, rows // 2)
        small: Float32 = np.asarray(
            cv2.resize(coverage, half, interpolation=cv2.INTER_AREA), dtype=np.float32
        )
        small[[0, -1], :] = 0
        small[:, [0, -1]] = 0
        small_flat = cv2.resize(flat.astype(np.uint8), half, interpolation=cv2.INTER_AREA) > 0
        start = 4.0 * cv2.resize(
            solve(small, small_flat, wx=wx, wy=wy), (columns, rows), interpolation=cv2.INTER_LINEAR
        )
    else:
        start = np.zeros_like(coverage)
    start = np.where(coverage >= 0.5, start, 0.0).astype(np.float64)
    solved = _sweep(start, coverage.astype(np.float64), flat, wx, wy, 24)
    return np.asarray(np.maximum(solved, 0.0), dtype=np.float32)
