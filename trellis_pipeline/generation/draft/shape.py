"""From an outline to a solid: which prior fits, how deep it goes, how its cross-section is rounded.

Symmetric outlines are taken for things turned about a vertical axis, all others swell from their outline.
What the photo leaves open is drawn from the seed within the range that is usual for products, so that
another seed gives another candidate worth looking at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trellis_pipeline.generation.draft import field, surface
from trellis_pipeline.generation.draft.silhouette import BORDER, Silhouette, flat_ends
from trellis_pipeline.mesh.types import Mesh

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Method = Literal["lathe", "inflate"]

LATHE_SYMMETRY = 0.90  # overlap with the mirror image from which an outline counts as symmetric
LATHE_COUPLING = 0.004  # wy of the lathe: rounds caps and steps over about 6 % of the width
LEAST_HALF_THICKNESS = 0.0035  # of the crop's side: what a wire or a leaf keeps
RIM_HALF_THICKNESS = 0.0030
ROUGHNESS = 0.7  # between cardboard and glazed ware; a photo does not tell


@dataclass(frozen=True, slots=True)
class Prior:
    """The guesses. method: lathe or inflate. depth: factor on the thickness. roundness: exponent of the
    cross-section, 2 for an ellipse, more for a rounded box. back: depth of the back relative to the front.
    """

    method: Method
    depth: float
    roundness: float
    back: float


def guess(silhouette: Silhouette, rng: np.random.Generator) -> Prior:
    """Choose the method from the outline's symmetry and draw the rest around its usual value."""
    inside = silhouette.inside
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    aspect = len(columns) / len(rows)
    spread = float(np.exp(rng.normal(0.0, 0.08)))
    if silhouette.symmetry >= LATHE_SYMMETRY:
        # Wide symmetric things (benches, screens) are less deep than wide.
        depth = min(1.0, aspect**-0.6) * 0.95
        return Prior("lathe", depth * spread, 2.0 + 0.8 * float(rng.random()), 1.0)
    return Prior("inflate", 1.0 * spread, 2.0, float(rng.uniform(0.75, 1.0)))


def build_solid(silhouette: Silhouette, prior: Prior) -> Mesh:
    """The closed surface for an outline, in units of the crop's side.

    Returns vertices with x right, y up from the crop's lower left corner, z towards the viewer, 0 midway.
    """
    lathe = prior.method == "lathe"
    flat = flat_ends(silhouette, tops=lathe)
    squared = field.solve(silhouette.coverage, flat, wx=1.0, wy=LATHE_COUPLING if lathe else 1.0)
    if prior.roundness > 2.0:
        widest = _widest(squared, silhouette.inside)
        height = np.sqrt(widest) * (squared / np.maximum(widest, 1e-6)) ** (1.0 / prior.roundness)
    else:
        height = np.sqrt(squared)
    cells = silhouette.cells
    least = LEAST_HALF_THICKNESS * cells
    front = np.sqrt((prior.depth * height) ** 2 + least**2).astype(np.float32)
    back = np.sqrt((prior.depth * prior.back * height) ** 2 + least**2).astype(np.float32)
    mesh = surface.close_surface(silhouette.coverage, front, back, flat, rim=RIM_HALF_THICKNESS * cells)
    # Cell centres are half a cell inside the crop; the last row of the grid is y = 0 there.
    offset = np.array([0.5 - BORDER, 0.5 - BORDER, 0.0], np.float32)
    return Mesh(vertices=((mesh.vertices + offset) / cells).astype(np.float32), triangles=mesh.triangles)


def _widest(squared: Float32, inside: Bool) -> Float32:
    """For each cell the largest value of its horizontal run, smoothed from row to row."""
    import cv2
    from scipy import ndimage

    runs, count = ndimage.label(inside, np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]]))
    largest = np.concatenate(([0.0], ndimage.maximum(squared, runs, np.arange(1, count + 1))))
    widest = largest[runs].astype(np.float32)
    weight = inside.astype(np.float32)
    smooth = cv2.GaussianBlur(widest, (0, 0), 1.5) / np.maximum(cv2.GaussianBlur(weight, (0, 0), 1.5), 1e-3)
    return np.maximum(np.where(inside, smooth, 0.0), squared).astype(np.float32)
