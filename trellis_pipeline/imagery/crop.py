"""The square that TRELLIS.2 sees: the object's bounding box, centred, with no margin.

The model was trained on crops cut by one exact rule, so this follows the original step by step, including
its side of one pixel less than the bounding box and Pillow's rounding of half pixels. Reference: TRELLIS.2,
`Trellis2ImageTo3DPipeline.preprocess_image`, commit 5565d24; the RGBA is kept because later stages
(silhouette check, draft generator) need the outline that the model's RGB input throws away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trellis_pipeline.errors import MatteError

MAX_SIDE = 1024
SOLID_ALPHA = 204  # 0.8 × 255; only pixels above this belong to the object


@dataclass(frozen=True, slots=True)
class CropBox:
    """A square in pixel coordinates, right and bottom exclusive; it may reach outside the image."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def side(self) -> int:
        """Pixels on a side."""
        return self.right - self.left


def shrink(rgba: NDArray[np.uint8], max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """Scale (H, W, 4) uint8 down until neither side exceeds `max_side`; smaller images come back as they are.

    Lanczos with alpha premultiplied inside Pillow; sides are truncated, not rounded, as in the original.
    """
    height, width = rgba.shape[:2]
    largest = max(width, height)
    if largest <= max_side:
        return rgba
    scale = max_side / largest
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.array(Image.fromarray(rgba, "RGBA").resize(size, Image.Resampling.LANCZOS))


def object_box(alpha: NDArray[np.uint8]) -> CropBox:
    """Square around all pixels of an (H, W) uint8 alpha above 204.

    Raises MatteError if there are none, or if they are a single point.
    """
    rows = np.flatnonzero((alpha > SOLID_ALPHA).any(axis=1))
    columns = np.flatnonzero((alpha > SOLID_ALPHA).any(axis=0))
    if rows.size == 0:
        raise MatteError(
            "no object found: no pixel is more than 80 % opaque; use a photo where the object stands out"
        )
    x0, x1 = int(columns[0]), int(columns[-1])
    y0, y1 = int(rows[0]), int(rows[-1])
    half = max(x1 - x0, y1 - y0) // 2
    if half == 0:
        raise MatteError("no object found: the opaque area is smaller than three pixels; use a larger photo")
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    # Python's round() goes to the even neighbour, which is what Pillow's crop applies to fractional boxes.
    return CropBox(
        round(centre_x - half), round(centre_y - half), round(centre_x + half), round(centre_y + half)
    )


def crop_to_object(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Square crop (S, S, 4) uint8 around the object in (H, W, 4) uint8; transparent black outside the image.

    The image is shrunk to at most 1024 px first. Raises MatteError if nothing is opaque enough.
    """
    small = shrink(rgba)
    return cut(small, object_box(small[..., 3]))


def cut(rgba: NDArray[np.uint8], box: CropBox) -> NDArray[np.uint8]:
    """Pixels of (H, W, 4) uint8 inside `box`, transparent black where the box leaves the image."""
    height, width = rgba.shape[:2]
    out = np.zeros((box.bottom - box.top, box.side, 4), dtype=np.uint8)
    left, top = max(box.left, 0), max(box.top, 0)
    right, bottom = min(box.right, width), min(box.bottom, height)
    if left < right and top < bottom:
        out[top - box.top : bottom - box.top, left - box.left : right - box.left] = rgba[
            top:bottom, left:right
        ]
    return out


def to_model_input(crop_rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The crop on black, (S, S, 3) uint8: colour × alpha, truncated as the original truncates."""
    pixels = crop_rgba.astype(np.float32) / 255
    on_black: NDArray[np.uint8] = (pixels[..., :3] * pixels[..., 3:4] * 255).astype(np.uint8)
    return on_black
