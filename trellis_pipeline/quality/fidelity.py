"""Does the model look like the photo it was made from?

The cheapest honest answer is the outline: seen from where the photo was taken, the model should cover what
the product covers. Position and size in the photo say nothing about the model, so both outlines are brought
to the same box first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# TRELLIS.2 takes a crop's pixels with alpha above 0.8 as the object.
OBJECT_ALPHA = 204


def silhouette_iou(
    positions: npt.NDArray[np.float32], triangles: npt.NDArray[np.int32], crop_alpha: npt.NDArray[np.uint8]
) -> float:
    """Intersection over union of the model's front outline and the crop's object, 0..1.

    positions: (V, 3), Y up, seen orthographically from +Z. triangles: (T, 3) int32 indices below V.
    crop_alpha: (H, W) uint8; the object is where it exceeds OBJECT_ALPHA. The model is scaled uniformly to
    the largest size that fits the object's bounding box and centred there. 0.0 if either is empty.
    """
    from trellis_pipeline.quality.silhouette import fill

    wanted = crop_alpha > OBJECT_ALPHA
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not rows.size or not len(triangles):
        return 0.0
    used = np.zeros(len(positions), bool)
    used[triangles.reshape(-1)] = True
    plane = positions[:, :2].astype(np.float64)
    seen = plane[used & np.isfinite(plane).all(axis=1)]
    if not len(seen):
        return 0.0
    low, high = seen.min(axis=0), seen.max(axis=0)
    extent = high - low
    if not extent.max() > 0:
        return 0.0
    top, left = rows[0], columns[0]
    box = np.array([columns[-1] + 1 - left, rows[-1] + 1 - top], float)
    scale = float(np.min(box[extent > 0] / extent[extent > 0]))
    pixels = (plane - (low + high) / 2) * (scale, -scale) + (left + box[0] / 2, top + box[1] / 2)
    corners = np.require(triangles, np.int32, ["C", "A"]).view()
    corners.flags.writeable = False
    covered = np.zeros(wanted.shape, np.uint8)
    fill(np.ascontiguousarray(pixels), corners, covered)
    both = int(np.count_nonzero(wanted & (covered != 0)))
    either = int(np.count_nonzero(wanted | (covered != 0)))
    return both / either
