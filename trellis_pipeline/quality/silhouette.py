"""Coverage of the image plane by triangles: which pixel centres lie on the object.

Only the outline matters here, so there is no depth and no shading, just a filled mask.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def fill(points: Any, triangles: Any, mask: Any) -> None:
    """Set mask[y, x] = 1 where the centre (x + 0.5, y + 0.5) of a pixel lies in or on a triangle.

    points: (V, 2) float64, pixels. triangles: (T, 3) int32. mask: (H, W) uint8, written. Triangles with a
    corner that is not finite are left out; what lies outside of the mask is cut off.
    """
    height, width = mask.shape
    for t in range(len(triangles)):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by = points[i, 0], points[i, 1], points[j, 0], points[j, 1]
        cx, cy = points[k, 0], points[k, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if not np.isfinite(area) or area == 0.0:
            continue
        if area < 0.0:
            bx, by, cx, cy = cx, cy, bx, by
        left = max(0.0, np.ceil(min(ax, bx, cx) - 0.5))
        right = min(width - 1.0, np.floor(max(ax, bx, cx) - 0.5))
        top = max(0.0, np.ceil(min(ay, by, cy) - 0.5))
        bottom = min(height - 1.0, np.floor(max(ay, by, cy) - 0.5))
        if left > right or top > bottom:
            continue
        for y in range(int(top), int(bottom) + 1):
            py = y + 0.5
            for x in range(int(left), int(right) + 1):
                px = x + 0.5
                if (
                    (bx - ax) * (py - ay) >= (by - ay) * (px - ax)
                    and (cx - bx) * (py - by) >= (cy - by) * (px - bx)
                    and (ax - cx) * (py - cy) >= (ay - cy) * (px - cx)
                ):
                    mask[y, x] = 1
