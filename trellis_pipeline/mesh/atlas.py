"""The texture atlas, texel by texel: which triangle lies under each, where on it, and what surrounds it.

Baking asks for every texel "which point of the surface is this?". The answer is a rasterisation in UV
space. Coordinates are snapped to 1/65536 texel and compared as integers, with the top-left rule of
graphics hardware, so a texel on a shared edge belongs to exactly one triangle, and a texel that two
triangles claim is a real overlap of the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import Float32, Int32

SUBTEXEL = 65536
REACH = 0.75  # texels; a little more than half the diagonal of one
MAX_PX = 16384  # products of snapped coordinates must stay below 2**63


@dataclass(frozen=True, slots=True)
class AtlasRaster:
    """What lies under each texel. Row 0 is v = 0, the top of a glTF image.

    triangle_id: (px, px) int32, -1 where the atlas is empty. barycentrics: (px, px, 2) float32, the weights
    of the triangle's first and second corner; the third is what is missing to 1. overlap_texels: texel
    centres inside more than one triangle. overlapping: (T,) bool, the triangles that took part in that.
    """

    triangle_id: Int32
    barycentrics: Float32
    overlap_texels: int
    overlapping: npt.NDArray[np.bool_]

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """(px, px) bool: texels with surface under them."""
        return self.triangle_id >= 0


def rasterize_atlas(uvs: Float32, triangles: Int32, px: int) -> AtlasRaster:
    """Rasterise a UV layout at px × px texels.

    uvs: (V, 2) float32 in 0..1. triangles: (T, 3) int32, either winding. A texel belongs to the triangle
    that contains its centre. Texels that a chart only touches, which bilinear filtering reads as well, get
    the nearest point of the nearest triangle within 0.75 texel.

    Raises MeshError if px is outside 1..16384, UVs leave 0..1 or are not finite.
    """
    if not 1 <= px <= MAX_PX:
        raise MeshError(f"an atlas of {px} px; possible are 1 to {MAX_PX}")
    if uvs.ndim != 2 or uvs.shape[1] != 2 or not np.isfinite(uvs).all():
        raise MeshError(f"uvs of shape {uvs.shape} must be finite (V, 2)")
    if len(uvs) and (uvs.min() < 0 or uvs.max() > 1):
        raise MeshError(f"uvs reach from {uvs.min():.4g} to {uvs.max():.4g}; the atlas is 0..1")
    snapped = np.rint(uvs.astype(np.float64) * (px * SUBTEXEL)).astype(np.int64)
    triangle_id = np.full((px, px), -1, np.int32)
    barycentrics = np.zeros((px, px, 2), np.float32)
    overlapping = np.zeros(len(triangles), np.bool_)
    corners = np.ascontiguousarray(triangles, dtype=np.int32)
    overlap = int(_raster_centres(snapped, corners, triangle_id, barycentrics, overlapping))
    nearest = np.where(triangle_id >= 0, np.float32(-1), np.float32(REACH * REACH))
    _raster_rims(snapped / SUBTEXEL, corners, nearest, triangle_id, barycentrics)
    return AtlasRaster(triangle_id, barycentrics, overlap, overlapping)


def texel_values(
    raster: AtlasRaster, triangles: Int32, values: Float32
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Interpolate per-vertex `values` (V, C) at every covered texel.

    Returns the flat indices (N,) int64 of the covered texels, row by row, and (N, C) float32.
    """
    flat = np.flatnonzero(raster.triangle_id >= 0)
    result = np.empty((len(flat), values.shape[1]), np.float32)
    _interpolate(
        flat,
        raster.triangle_id.reshape(-1),
        raster.barycentrics.reshape(-1, 2),
        np.ascontiguousarray(triangles, dtype=np.int32),
        np.ascontiguousarray(values, dtype=np.float32),
        result,
    )
    return flat, result


def texel_positions(
    raster: AtlasRaster, triangles: Int32, positions: Float32
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Where on the surface each covered texel lies: flat indices (N,) and points (N, 3) float32, metres."""
    return texel_values(raster, triangles, positions)


def fill_gutter(
    image: npt.NDArray[np.generic], covered: npt.NDArray[np.bool_], distance_px: float | None = None
) -> npt.NDArray[np.generic]:
    """Copy of `image` in which empty texels have the value of the nearest covered one.

    image: (H, W) or (H, W, C), any dtype. covered: (H, W) bool. distance_px limits how far values flow;
    None fills everything, which is what keeps the smallest mip maps free of background. Distances are those
    of OpenCV's 5 × 5 chamfer, within 2 % of Euclidean. Nothing covered gives the image back unchanged.
    """
    import cv2

    if covered.shape != image.shape[:2]:
        raise MeshError(f"coverage of shape {covered.shape} for an image of shape {image.shape}")
    if covered.all() or not covered.any():
        return image.copy()
    distance, label = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    empty = ~covered if distance_px is None else ~covered & (distance <= distance_px)
    source = np.zeros(int(label.max()) + 1, np.int64)
    source[label[covered]] = np.flatnonzero(covered)
    pixels = image.reshape(covered.size, -1).copy()
    pixels[empty.reshape(-1)] = pixels[source[label[empty]]]
    return pixels.reshape(image.shape)


@nb.njit(cache=True)
def _raster_centres(
    snapped: npt.NDArray[np.int64],
    triangles: Int32,
    triangle_id: Int32,
    barycentrics: Float32,
    overlapping: npt.NDArray[np.bool_],
) -> int:
    """Give each texel to the first triangle that contains its centre; counts second claims."""
    px = triangle_id.shape[0]
    half = SUBTEXEL // 2
    overlap = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by = snapped[a, 0], snapped[a, 1], snapped[b, 0], snapped[b, 1]
        cx, cy = snapped[c, 0], snapped[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        sign = 1 if area > 0 else -1
        # Edge functions grow towards the inside; a step of one texel adds a constant. The one opposite
        # a corner is that corner's weight times `area`.
        step_ax, step_ay = -sign * (cy - by), sign * (cx - bx)
        step_bx, step_by = -sign * (ay - cy), sign * (ax - cx)
        step_cx, step_cy = -sign * (by - ay), sign * (bx - ax)
        # Top-left rule: on the edge counts as inside for one of the two directions only.
        bias_a = 0 if step_ax > 0 or (step_ax == 0 and step_ay > 0) else -1
        bias_b = 0 if step_bx > 0 or (step_bx == 0 and step_by > 0) else -1
        bias_c = 0 if step_cx > 0 or (step_cx == 0 and step_cy > 0) else -1
        column_0 = max(0, (min(ax, bx, cx) - half) // SUBTEXEL)
        column_1 = min(px - 1, (max(ax, bx, cx) + half) // SUBTEXEL)
        row_0 = max(0, (min(ay, by, cy) - half) // SUBTEXEL)
        row_1 = min(px - 1, (max(ay, by, cy) + half) // SUBTEXEL)
        for row in range(row_0, row_1 + 1):
            y = row * SUBTEXEL + half
            x = column_0 * SUBTEXEL + half
            ea = step_ax * (x - bx) + step_ay * (y - by)
            eb = step_bx * (x - cx) + step_by * (y - cy)
            ec = step_cx * (x - ax) + step_cy * (y - ay)
            for column in range(column_0, column_1 + 1):
                if ea + bias_a >= 0 and eb + bias_b >= 0 and ec + bias_c >= 0:
                    owner = triangle_id[row, column]
                    if owner < 0:
                        triangle_id[row, column] = t
                        barycentrics[row, column, 0] = ea / (sign * area)
                        barycentrics[row, column, 1] = eb / (sign * area)
                    else:
                        overlap += 1
                        overlapping[t] = True
                        overlapping[owner] = True
                ea += step_ax * SUBTEXEL
                eb += step_bx * SUBTEXEL
                ec += step_cx * SUBTEXEL
    return overlap


@nb.njit(cache=True)
def _raster_rims(
    places: npt.NDArray[np.float64],
    triangles: Int32,
    nearest: Float32,
    triangle_id: Int32,
    barycentrics: Float32,
) -> None:
    """Give empty texels the nearest point on the nearest edge. places: (V, 2) in texels. nearest: (px, px)
    squared distance to beat; negative where a texel is taken already.
    """
    px = triangle_id.shape[0]
    for t in range(triangles.shape[0]):
        x0 = y0 = 1e30
        x1 = y1 = -1e30
        for k in range(3):
            x, y = places[triangles[t, k], 0], places[triangles[t, k], 1]
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        for row in range(max(0, int(y0 - 1.25)), min(px - 1, int(y1 + 0.25)) + 1):
            for column in range(max(0, int(x0 - 1.25)), min(px - 1, int(x1 + 0.25)) + 1):
                if nearest[row, column] < 0:
                    continue
                for k in range(3):
                    a, b = triangles[t, k], triangles[t, (k + 1) % 3]
                    ax, ay = places[a, 0], places[a, 1]
                    ex, ey = places[b, 0] - ax, places[b, 1] - ay
                    dx, dy = column + 0.5 - ax, row + 0.5 - ay
                    length2 = ex * ex + ey * ey
                    along = min(1.0, max(0.0, (dx * ex + dy * ey) / length2)) if length2 > 0 else 0.0
                    dx, dy = dx - along * ex, dy - along * ey
                    gap2 = dx * dx + dy * dy
                    if gap2 < nearest[row, column]:
                        nearest[row, column] = gap2
                        triangle_id[row, column] = t
                        barycentrics[row, column, 0] = 1 - along if k == 0 else (along if k == 2 else 0.0)
                        barycentrics[row, column, 1] = 1 - along if k == 1 else (along if k == 0 else 0.0)


@nb.njit(cache=True)
def _interpolate(
    flat: npt.NDArray[np.int64],
    triangle_id: Int32,
    barycentrics: Float32,
    triangles: Int32,
    values: Float32,
    result: Float32,
) -> None:
    """Weighted corner values of the triangles under the texels `flat`."""
    for n in range(flat.shape[0]):
        t = triangle_id[flat[n]]
        first, second = barycentrics[flat[n], 0], barycentrics[flat[n], 1]
        third = np.float32(1) - first - second
        for m in range(values.shape[1]):
            result[n, m] = (
                first * values[triangles[t, 0], m]
                + second * values[triangles[t, 1], m]
                + third * values[triangles[t, 2], m]
            )
