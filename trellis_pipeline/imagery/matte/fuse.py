"""The network's opinion and the background's colour, added up pixel by pixel.

Both say how likely a pixel is object, so their log-odds add (naive Bayes). Their mistakes differ: the
network fills holes, drops parts it does not know and blurs outlines, but ignores shadows; colour is exact
to the pixel, but reads a shadow as object and a white label on white as background. A pixel that is darker
than the background, of the same hue and in a smooth neighbourhood may be shadow: there colour says nothing
and the network decides.
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


def fuse(
    lab: NDArray[np.float32], background: Background, probability: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Object mask (H, W) from CIE Lab (H, W, 3), its background and the network's probability (H, W)."""
    ratio = background.distance / background.tolerance
    colour = np.where(
        ratio < 1,
        ALIKE_WEIGHT * (ratio - 1),
        UNLIKE_WEIGHT * np.minimum((ratio - 1) / 2, 1) * (1 - shadow_likeness(lab, background)),
    )
    # A background that is itself rough predicts little, so its vote fades out.
    reliability = float(np.clip((MAX_DISTANCE - background.tolerance) / 12, 0, 1))
    bounded = np.clip(probability, 1 - NETWORK_CERTAINTY, NETWORK_CERTAINTY)
    mask: NDArray[np.bool_] = np.log(bounded / (1 - bounded)) + reliability * colour > 0
    return mask


def shadow_likeness(lab: NDArray[np.float32], background: Background) -> NDArray[np.float32]:
    """How far a pixel may be shadowed background, (H, W) float32 in 0..1: darker, same hue, smooth."""
    import cv2

    difference = lab - background.surface
    hue_shift = np.hypot(difference[..., 1], difference[..., 2])
    lightness = np.ascontiguousarray(lab[..., 0])
    mean = cv2.blur(lightness, (7, 7))
    deviation = np.sqrt(np.maximum(cv2.blur(lightness * lightness, (7, 7)) - mean * mean, 0))
    grain = float(np.median(deviation[: max(1, lab.shape[0] // 50)]))
    same_hue = np.clip(1.5 - hue_shift / background.tolerance, 0, 1)
    smooth = np.clip(1.5 - deviation / (SMOOTH_LIGHTNESS + 2 * grain), 0, 1)
    likeness: NDArray[np.float32] = (same_hue * smooth * (difference[..., 0] < 0)).astype(np.float32)
    return likeness
