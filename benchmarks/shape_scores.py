"""How alike two shapes are: silhouettes, surface distances, shared volume. Only numbers here, no files.

All of it works on triangle soups of several parts, because ground truth is put together from closed parts
that run into each other and generators deliver whatever they deliver. Coordinates: right-handed, Y up, +Z to
the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse, spatial
from scipy.sparse import csgraph

from trellis_pipeline.quality.silhouette import fill

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

GRID = 96
OFFSET = np.array([np.sqrt(2) - 1, np.sqrt(3) - 1, np.sqrt(5) - 2])
"""Where the first grid point lies along x, y, z, in steps: unequal irrational parts off centre, so that rays
miss the edges and diagonals of symmetric shapes."""
SAMPLES = 20_000
NOVEL_VIEWS = ((45.0, 0.0), (-45.0, 0.0), (90.0, 0.0), (30.0, 55.0))
"""Azimuth and elevation in degrees from the photo's view. An orthographic outline is the same from
behind, so these four and the front one see the object from all sides."""


@dataclass(frozen=True, slots=True)
class Shape:
    """points: (V, 3) float64. triangles: (T, 3) int32."""

    points: Float
    triangles: Int

    def placed(self, rotation: Float, centre: Float, scale: float) -> Shape:
        """Rotated, then moved so that `centre` is the origin, then scaled."""
        return Shape((self.points @ rotation.T - centre) * scale, self.triangles)

    def used(self) -> Float:
        """The corners of triangles: vertices that no triangle uses do not count."""
        return self.points[np.unique(self.triangles)]


def iou(a: Bool, b: Bool) -> float:
    """Shared over united area or volume; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def outline(points: Float, triangles: Int, px: int) -> Bool:
    """The filled outline of projected points (V, 2), x right and y up in -1..1, as (px, px)."""
    mask = np.zeros((px, px), np.uint8)
    screen = np.stack([(points[:, 0] + 1) / 2, (1 - points[:, 1]) / 2], 1) * px
    fill(np.ascontiguousarray(screen), triangles, mask)
    return mask.astype(bool)


def seen_from(points: Float, azimuth: float, elevation: float) -> Float:
    """Orthographic (V, 2) picture coordinates from degrees around (positive: to +X) and degrees up."""
    a, e = np.radians(azimuth), np.radians(elevation)
    back = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.asarray(points @ np.stack([right, np.cross(back, right)]).T)


def fitted(mask: Bool, px: int = 256) -> Bool:
    """The mask's bounding box moved to the middle and scaled uniformly until its diagonal is 0.9 px."""
    import cv2

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((px, px), bool)
    low = np.array([columns[0], rows[0]], float)
    high = np.array([columns[-1] + 1, rows[-1] + 1], float)
    scale = 0.9 * px / float(np.linalg.norm(high - low))
    shift = px / 2 - scale * (low + high) / 2
    sigma = max(0.0, 0.4 / scale - 0.4)
    source = mask.astype(np.float32)
    if sigma > 0.1:
        source = cv2.GaussianBlur(source, (0, 0), sigma)
    offset = shift + 0.5 * scale - 0.5
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return np.asarray(cv2.warpAffine(source, matrix, (px, px), flags=cv2.INTER_LINEAR) >= 0.5)


def pieces(shape: Shape) -> list[Int]:
    """The triangles of each connected piece; vertices at the same place (to 1e-6 of the extent) are one."""
    points = shape.points
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    _, weld = np.unique(np.round(points / (extent * 1e-6)).astype(np.int64), axis=0, return_inverse=True)
    t = weld.reshape(-1)[shape.triangles]
    count = int(t.max()) + 1 if len(t) else 0
    links = sparse.coo_matrix(
        (np.ones(2 * len(t)), (np.r_[t[:, 0], t[:, 1]], np.r_[t[:, 1], t[:, 2]])), (count, count)
    )
    _, label = csgraph.connected_components(links, directed=False)
    owner = label[t[:, 0]]
    order = np.argsort(owner, kind="stable")
    return [shape.triangles[g] for g in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)]


@numba.njit(cache=True)
def _crossings(points: Any, triangles: Any, axis: int, low: Any, step: float, count: int) -> Any:
    """Parity flips on a count^3 grid, where a ray along `axis` through column i, j passes a triangle."""
    flips = np.zeros((count, count, count + 1), np.uint8)
    u, v = (axis + 1) % 3, (axis + 2) % 3
    for t in range(len(triangles)):
        a, b, c = points[triangles[t, 0]], points[triangles[t, 1]], points[triangles[t, 2]]
        area = (b[u] - a[u]) * (c[v] - a[v]) - (b[v] - a[v]) * (c[u] - a[u])
        if area == 0.0:
            continue
        i0 = max(0, int(np.ceil((min(a[u], b[u], c[u]) - low[u]) / step)))
        i1 = min(count - 1, int(np.floor((max(a[u], b[u], c[u]) - low[u]) / step)))
        j0 = max(0, int(np.ceil((min(a[v], b[v], c[v]) - low[v]) / step)))
        j1 = min(count - 1, int(np.floor((max(a[v], b[v], c[v]) - low[v]) / step)))
        for i in range(i0, i1 + 1):
            x = low[u] + i * step
            for j in range(j0, j1 + 1):
                y = low[v] + j * step
                wa = ((b[u] - x) * (c[v] - y) - (b[v] - y) * (c[u] - x)) / area
                wb = ((c[u] - x) * (a[v] - y) - (c[v] - y) * (a[u] - x)) / area
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                depth = wa * a[axis] + wb * b[axis] + wc * c[axis]
                k = int(np.ceil((depth - low[axis]) / step))
                flips[i, j, min(max(k, 0), count)] ^= 1
    return flips


def occupied(shape: Shape, half: float, count: int = GRID) -> Bool:
    """Which of count^3 grid points in the cube -half..half lie inside, indexed [x, y, z].

    Per connected piece the parity of crossings decides, along three axes, by majority, so that a small hole
    or one grazing ray does not fill or empty a column; the pieces are then united. Parity needs no
    orientation, and by pieces it stands overlaps. A cavity closed off from outside counts as full if its wall
    is a piece of its own: no photo shows it.
    """
    step = 2 * half / count
    low = -half + step * OFFSET
    inside = np.zeros((count, count, count), bool)
    for triangles in pieces(shape):
        if np.ptp(shape.points[triangles].reshape(-1, 3), axis=0).min() < step / 2:
            continue  # a crumb or a flat sheet: it holds no volume that this grid could see
        votes = np.zeros((count, count, count), np.uint8)
        for axis in range(3):
            flips = _crossings(shape.points, triangles, axis, low, step, count)
            votes += np.moveaxis(
                np.bitwise_xor.accumulate(flips, axis=2)[..., :count],
                (0, 1, 2),
                ((axis + 1) % 3, (axis + 2) % 3, axis),
            )
        inside |= votes >= 2
    return inside


def skin_samples(shape: Shape, inside: Bool, half: float, seed: int = 0) -> Float:
    """SAMPLES points spread evenly over the outer surface, (S, 3).

    What runs through the inside of another part is nobody's surface: points whose 3 x 3 x 3 grid
    neighbourhood is full are left out. Fixed seed, so that a score is the same tomorrow.
    """
    rng = np.random.default_rng(seed)
    a, b, c = (shape.points[shape.triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    at = np.searchsorted(np.cumsum(area) / area.sum(), rng.random(2 * SAMPLES)).clip(0, len(area) - 1)
    r, s = np.sqrt(rng.random(len(at)))[:, None], rng.random(len(at))[:, None]
    points = (1 - r) * a[at] + r * (1 - s) * b[at] + r * s * c[at]
    count = len(inside)
    step = 2 * half / count
    buried = ndimage.binary_erosion(inside, np.ones((3, 3, 3), bool))
    cell = np.rint((points + half) / step - OFFSET).astype(int).clip(0, count - 1)
    outer = points[~buried[tuple(cell.T)]]
    return outer[:SAMPLES]


def surface_scores(truth: Float, model: Float, reach: float = 0.03) -> tuple[float, float]:
    """Chamfer distance (mean of the two mean distances) and F-score at `reach`, from surface samples."""
    to_model, _ = spatial.cKDTree(model).query(truth)
    to_truth, _ = spatial.cKDTree(truth).query(model)
    precision, recall = float((to_truth < reach).mean()), float((to_model < reach).mean())
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float(to_model.mean() + to_truth.mean()) / 2, f
