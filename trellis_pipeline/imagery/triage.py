"""Signs that a photo will not make a good model, found before money is spent on it.

A flag is an opinion, not an error: the line holds flagged products back from paid generators and lets
everything else through. So the thresholds lean towards silence; a pair of boots, a chair whose thin legs
came apart in the matte, or a trimmed cut-out that touches its own frame are not flagged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.imagery.crop import SOLID_ALPHA


@dataclass(frozen=True, slots=True)
class TriageFlag:
    """One finding. code: `cut_by_frame`, `several_objects`, `tiny_object`, `nearly_empty`, `nearly_full` or
    `low_agreement`. message: what was seen and what helps, for people.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TriageLimits:
    """Thresholds. Shares are of the frame's area unless said otherwise.

    min_share: an object smaller than this is `nearly_empty`.
    max_share: an object larger than this is `nearly_full`: usually a matte that found no background.
    min_object_px: longer side of the object in pixels of the original photo, below it `tiny_object`. The
        model looks at 512 to 1024 px; from a quarter of 512 on it mostly sees interpolation.
    max_frame_contact: longest run of object pixels along one edge of the frame, as a share of the object's
        longer side, above which it is `cut_by_frame`.
    second_object_share: how large a separate part must be, relative to the largest, to count as an object.
    second_object_gap: how far two such parts must be apart, relative to the longer side of the smaller, to
        be two objects. Three or more such parts are several objects at any visible distance.
    min_agreement: IoU of the network's and the classical matte below which neither is trusted.
    """

    min_share: float = 0.005
    max_share: float = 0.95
    min_object_px: int = 128
    max_frame_contact: float = 0.06
    second_object_share: float = 0.4
    second_object_gap: float = 0.25
    min_agreement: float = 0.6


def triage(
    alpha: NDArray[np.uint8], *, limits: TriageLimits, scale: float = 1.0, agreement: float | None = None
) -> tuple[TriageFlag, ...]:
    """Flags for an (H, W) uint8 alpha with at least one pixel above 204.

    scale: pixels of the original photo per pixel of `alpha`. agreement: IoU in 0..1 of two independent
    mattes, None if there was only one.
    """
    solid = alpha > SOLID_ALPHA
    share = float(solid.mean())
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    longest = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    flags: list[TriageFlag] = []
    if share < limits.min_share:
        flags.append(
            TriageFlag("nearly_empty", f"the object covers {share:.2%} of the photo; crop closer to it")
        )
    if share > limits.max_share:
        flags.append(
            TriageFlag("nearly_full", f"the object covers {share:.0%} of the photo; is there a background?")
        )
    if longest * scale < limits.min_object_px:
        flags.append(
            TriageFlag("tiny_object", f"the object is {longest * scale:.0f} px long; use a larger photo")
        )
    cut = _cut_edges(solid, longest, limits.max_frame_contact)
    if cut:
        flags.append(
            TriageFlag(
                "cut_by_frame", f"the object runs out of the photo at the {' and '.join(cut)}; show all of it"
            )
        )
    count = _separate_objects(solid, limits)
    if count > 1:
        flags.append(
            TriageFlag("several_objects", f"{count} separate objects of similar size; use a photo of one")
        )
    if agreement is not None and agreement < limits.min_agreement:
        flags.append(
            TriageFlag(
                "low_agreement",
                f"two ways of cutting out the object agree by {agreement:.0%} only; "
                "check the crop or supply a photo with a transparent background",
            )
        )
    return tuple(flags)


def _cut_edges(solid: NDArray[np.bool_], longest: int, max_contact: float) -> list[str]:
    """Names of the frame edges that cut the object."""
    edges = {"left": solid[:, 0], "right": solid[:, -1], "top": solid[0], "bottom": solid[-1]}
    touched = [name for name, line in edges.items() if line.any()]
    if len(touched) == 4 and solid.mean() < 0.98:
        return []  # a cut-out trimmed to its bounding box touches all four; a photo that cuts seldom does
    return [name for name in touched if _longest_run(edges[name]) > max(3.0, max_contact * longest)]


def _longest_run(line: NDArray[np.bool_]) -> int:
    padded = np.concatenate([[False], line, [False]]).astype(np.int8)
    changes = np.flatnonzero(np.diff(padded))
    return int((changes[1::2] - changes[::2]).max(initial=0))


def _separate_objects(solid: NDArray[np.bool_], limits: TriageLimits) -> int:
    """How many objects the mask shows: 1 unless large parts of similar size lie clearly apart."""
    import cv2

    # A few pixels of closing first: a strap or a chair rail that the matte broke is no gap.
    radius = max(1, round(0.004 * max(solid.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    joined = cv2.dilate(solid.astype(np.uint8), disc)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [i + 1 for i in range(count - 1) if areas[i] >= limits.second_object_share * areas.max()]
    if len(large) != 2:
        return max(1, len(large))
    first, second = large
    away = cv2.distanceTransform((labels != first).astype(np.uint8), cv2.DIST_L2, 5)
    gap = float(away[labels == second].min())
    sides = [max(stats[i, cv2.CC_STAT_WIDTH], stats[i, cv2.CC_STAT_HEIGHT]) for i in large]
    return 2 if gap > limits.second_object_gap * min(sides) else 1
