"""The network's opinion and the background's colour, added up pixel by pixel.

Both say how likely a pixel is object, so their log-odds add (naive Bayes). Their mistakes differ: the
network fills holes, drops parts it does not know and blurs outlines, but ignores shadows; colour is exact
to the pixel, but reads a shadow as object and a white label on white as background. A pixel that is darker
than the background and of the same hue may be shadow: there colour says nothing and the network decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.imagery.matte.classical import MAX_DISTANCE, Background

NETWORK_CERTAINTY = 0.97  # log-odds of at most ±3.5
# Log-odds for a colour three tolerances away from the background: it overrules even a certain network,
# because networks do drop whole parts that are plain to see.
UNLIKE_WEIGHT = 5.0
# For a colour that equals the background: less than the network's certainty, because the white label of a
# product on white equals it too. Enough to open a hole where the network hesitates.
ALIKE_WEIGHT = 3.0
SMOOTH_LIGHTNESS = 2.0  # standard deviation of L within 7 × 7 px that still counts as smooth
SMOOTH_PX, NEAR_PX = 7, 31  # windows at 1024 px; they scale with the photo


def fuse(
    background: Background, shadow: NDArray[np.float32], probability: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Object mask (H, W). shadow: see `shadow_likeness`. probability: the network's. Both (H, W), 0..1."""
    ratio = background.distance / background.tolerance
    colour = np.where(
        ratio < 1,
        ALIKE_WEIGHT * (ratio - 1),
        UNLIKE_WEIGHT * np.minimum((ratio - 1) / 2, 1) * (1 - shadow),
    )
    # A background that is itself rough predicts little, so its vote fades out.
    reliability = float(np.clip((MAX_DISTANCE - background.tolerance) / 12, 0, 1))
    bounded = np.clip(probability, 1 - NETWORK_CERTAINTY, NETWORK_CERTAINTY)
    mask: NDArray[np.bool_] = np.log(bounded / (1 - bounded)) + reliability * colour > 0
    return drop_specks(fill_opaque_holes(mask, ratio), probability)


def shadow_likeness(
    lab: NDArray[np.float32], background: Background, probability: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How far a pixel may be shadowed background, (H, W) float32 in 0..1: darker, same hue, smooth.

    A shadow's edge and the dark line where the object touches the floor are not smooth. They are
    recognised by the smooth shadow beside them, outside of what the network takes for the object.
    """
    import cv2

    difference = lab - background.surface
    darkness = np.maximum(-difference[..., 0], 0)
    lightness = np.ascontiguousarray(lab[..., 0])
    smooth_px, near_px = (max(3, 2 * round(px * max(lab.shape) / 2048) + 1) for px in (SMOOTH_PX, NEAR_PX))
    mean = cv2.blur(lightness, (smooth_px, smooth_px))
    deviation = np.sqrt(np.maximum(cv2.blur(lightness**2, (smooth_px, smooth_px)) - mean**2, 0))
    grain = float(np.median(deviation[: max(1, lab.shape[0] // 50)]))
    hue_shift = np.hypot(difference[..., 1], difference[..., 2])
    same_hue = np.clip(1.5 - hue_shift / background.tolerance, 0, 1) * (darkness > 0)
    smooth = np.clip(1.5 - deviation / (SMOOTH_LIGHTNESS + 2 * grain), 0, 1)

    core = (same_hue * smooth > 0.5) & (darkness > background.tolerance / 2) & (probability < 0.3)
    window = cv2.getStructuringElement(cv2.MORPH_RECT, (near_px, near_px))
    near_shadow = cv2.dilate(core.astype(np.uint8), window) > 0
    plausible = np.where(near_shadow & (probability < 0.5), 1, smooth)
    likeness: NDArray[np.float32] = (same_hue * plausible).astype(np.float32)
    return likeness


def agreement(background: Background, shadow: NDArray[np.float32], probability: NDArray[np.float32]) -> float:
    """IoU in 0..1 of the network's object and the colour's, over the pixels where colour has an opinion.

    Left out are pixels that could be shadow and those near the tolerance: disagreement there is expected.
    """
    ratio = background.distance / background.tolerance
    by_network = probability > 0.5
    by_colour = (ratio > 1.5) & (shadow < 0.5)
    decided = by_colour | (ratio < 0.5)
    union = int((decided & (by_network | by_colour)).sum())
    return int((by_network & by_colour).sum()) / union if union else 0.0


def fill_opaque_holes(mask: NDArray[np.bool_], ratio: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Close enclosed holes of `mask` (H, W) through which no background can be seen.

    ratio: distance from the background in tolerances. A shadow lies beside the object; grey in the middle
    of it is the object's own.
    """
    import cv2

    count, labels = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)
    visible = np.bincount(labels[ratio < 1], minlength=count)
    size = np.bincount(labels.ravel(), minlength=count)
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    opaque = visible < 0.5 * size
    opaque[0] = False  # the mask itself
    opaque[at_edge] = False
    filled: NDArray[np.bool_] = mask | opaque[labels]
    return filled


def drop_specks(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Remove tiny separate parts of `mask` (H, W) that the network does not see either.

    A few stray pixels of a shadow's edge would otherwise widen the bounding box, and with it the crop.
    """
    import cv2

    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    size = np.bincount(labels.ravel(), minlength=count)
    size[0] = 0  # the background
    seen = np.bincount(labels[probability > 0.5], minlength=count) > 0
    keep = (size > 0.001 * size.max()) | (seen & (size > 0))
    kept: NDArray[np.bool_] = keep[labels]
    return kept
