"""A matte from the background alone: whatever does not look like the frame's edge is the object.

Product photos have a plain or slowly varying background, so a smooth surface through the pixels along the
edge predicts it everywhere. What matches that surface and is connected to the edge is background; GrabCut
(Rother et al. 2004) then moves the boundary to where the colours change. Sharp where the background is
plain; it takes a contact shadow for a part of the object, which is why `choose` asks the network as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORK_SIDE = 448  # flood and GrabCut run at this size; `edges` restores the photo's sharpness
BORDER_SHARE = 0.03
FIT_PIXELS = 10_000
MIN_DISTANCE = 6.0  # CIE Lab units (ΔE76) that always count as background
MAX_DISTANCE = 22.0  # a background rougher than this cannot be told from an object by colour


@dataclass(frozen=True, slots=True)
class Background:
    """The background as the frame's edge shows it.

    distance: (H, W) float32 ΔE76 from the predicted background. surface: (H, W, 3) float32 Lab prediction.
    tolerance: ΔE up to which a pixel counts as background.
    """

    distance: NDArray[np.float32]
    surface: NDArray[np.float32]
    tolerance: float


def to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE Lab (D65) as float32 with L in 0..100, from (H, W, 3) uint8 sRGB."""
    import cv2

    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def read_background(lab: NDArray[np.float32]) -> Background:
    """Fit one quadratic per Lab channel to the edge pixels, leaving out those where an object touches it."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    band = max(2, round(BORDER_SHARE * min(height, width)))
    edge = np.ones((height, width), dtype=bool)
    edge[band:-band, band:-band] = False
    # Every n-th pixel is plenty for six unknowns.
    step = max(1, int(edge.sum()) // FIT_PIXELS)
    design, colours = terms[edge][::step], lab[edge][::step]
    # First guess: the median colour. A plane through everything would bend towards an object at the edge.
    error = np.linalg.norm(colours - np.median(colours, axis=0), axis=1)
    solution = np.zeros((6, 3), dtype=np.float32)
    for _ in range(4):
        keep = error <= max(4.0, 2.5 * float(np.median(error)))
        solution = np.linalg.lstsq(design[keep], colours[keep], rcond=None)[0]
        error = np.linalg.norm(colours - design @ solution, axis=1)
    surface = (terms @ solution).astype(np.float32)
    distance = np.sqrt(((lab - surface) ** 2).sum(axis=2), dtype=np.float32)
    spread = 1.4826 * float(np.median(error))
    return Background(distance, surface, float(np.clip(3.5 * spread, MIN_DISTANCE, MAX_DISTANCE)))


def flood(background: Background) -> NDArray[np.bool_]:
    """Pixels (H, W) that match the background and are connected to the frame's edge."""
    import cv2

    alike = (background.distance < background.tolerance).astype(np.uint8)
    _, labels = cv2.connectedComponents(alike, connectivity=4)
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    reached: NDArray[np.bool_] = np.isin(labels, at_edge[at_edge > 0])
    return reached


def object_mask(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Object mask (H, W) for (H, W, 3) uint8 sRGB; all False if nothing differs from the background."""
    import cv2

    height, width = rgb.shape[:2]
    scale = min(1.0, WORK_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if min(size) < 16:
        return np.zeros((height, width), dtype=bool)
    mask = grab_cut(small, flood(read_background(to_lab(small))))
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR) > 0


def grab_cut(rgb: NDArray[np.uint8], outside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Move the boundary of `outside` (H, W) to the nearest colour change of (H, W, 3) uint8 sRGB."""
    import cv2

    inside = ~outside
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    core = cv2.erode(inside.astype(np.uint8), disc) > 0
    far = cv2.erode(outside.astype(np.uint8), disc) > 0
    if not core.any() or not far.any():
        return inside
    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[core] = cv2.GC_FGD
    mask[far] = cv2.GC_BGD
    colours = np.zeros((2, 1, 65), dtype=np.float64)  # filled by GrabCut: background, then foreground
    everywhere = (0, 0, rgb.shape[1], rgb.shape[0])  # ignored: the mask says it all
    cv2.setRNGSeed(0)  # GrabCut seeds its colour clusters at random; a crop has to be reproducible
    cv2.grabCut(rgb[..., ::-1].copy(), mask, everywhere, colours[0], colours[1], 2, cv2.GC_INIT_WITH_MASK)
    result: NDArray[np.bool_] = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return result
