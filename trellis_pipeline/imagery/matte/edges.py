"""Edges as sharp as the photo, from a mask that is right to a pixel or two.

At the boundary every pixel is a blend of the object's and the background's colour. Both are known nearby,
so the blend is one projection: α = (I − B)·(F − B) / |F − B|², the compositing equation (Porter & Duff
1984) solved for alpha. The object's colour is averaged over pixels weighted by how unlike the background
they are, so that a wire two pixels wide, which has no interior, still contributes its core.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.imagery.matte.classical import Background

OBJECT_WINDOW_PX = 9
BACKGROUND_WINDOW_PX = 31
ROUGH_TOLERANCE = 9.0  # ΔE; a rougher background than this allows only the outermost pixel to be solved


def refine_edges(
    lab: NDArray[np.float32], background: Background, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Alpha (H, W) float32 in 0..1 for CIE Lab (H, W, 3), its background and an object mask (H, W).

    Only pixels within two pixels of the mask's boundary change.
    """
    import cv2

    radius = 2 if background.tolerance < ROUGH_TOLERANCE else 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    solid = mask.astype(np.uint8)
    inside = cv2.erode(solid, disc) > 0
    outside = cv2.dilate(solid, disc) == 0

    near, seen = _local_mean(lab, outside.astype(np.float32), BACKGROUND_WINDOW_PX)
    # Where a hole is too narrow to show its own background, the fitted surface stands in.
    behind = np.where((seen > 0.02)[..., None], near, background.surface)
    unlike = np.linalg.norm(lab - behind, axis=2) / background.tolerance
    weight = (mask * np.clip(unlike - 1, 0.02, 4)).astype(np.float32)
    in_front, _ = _local_mean(lab, weight, OBJECT_WINDOW_PX)

    across = in_front - behind
    contrast = (across * across).sum(axis=2)
    share = ((lab - behind) * across).sum(axis=2) / np.maximum(contrast, 1)
    # The average already contains blended pixels, so the object's own colour is reached a little early.
    share = np.clip((share - 0.05) / 0.85, 0, 1)
    # From ΔE 5 on the two colours can be told apart, from 15 on reliably; else the mask stands.
    trust = np.clip((np.sqrt(contrast) - 5) / 10, 0, 1)
    alpha = trust * share + (1 - trust) * mask
    return np.where(inside, 1, np.where(outside, 0, alpha)).astype(np.float32)


def clean_colours(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) uint8 of a cut-out without the rim of background that its edge pixels contain.

    Half-transparent pixels take on the colour of the opaque ones beside them, and so do the first invisible
    ones, for whoever interpolates; the rest of the background becomes black, which also packs well.
    """
    share = alpha.astype(np.float32) / 255
    pixels = rgb.astype(np.float32)
    # The fourth power lets opaque pixels dominate, yet leaves something where a wire has none.
    nearby, seen = _local_mean(pixels, (share**4).astype(np.float32), OBJECT_WINDOW_PX)
    own = np.where(seen > 1e-4, share * share, 1)[..., None]
    mixed = pixels * own + nearby * (1 - own)
    mixed[(alpha == 0) & (seen <= 1e-4)] = 0
    cleaned: NDArray[np.uint8] = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    return cleaned


def _local_mean(
    values: NDArray[np.float32], weight: NDArray[np.float32], window_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted mean (H, W, 3) of `values` around each pixel, and the mean weight (H, W) it rests on."""
    import cv2

    size = (window_px, window_px)
    total = np.asarray(cv2.blur(weight, size), dtype=np.float32)
    mean = cv2.blur(values * weight[..., None], size) / np.maximum(total, 1e-6)[..., None]
    return mean.astype(np.float32), total
