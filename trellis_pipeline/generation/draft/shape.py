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
UInt8 = npt.NDArray[np.uint8]
Method = Literal["lathe", "inflate"]

LATHE_SYMMETRY = 0.90  # overlap with the mirror image from which an outline counts as symmetric
TABLE_SYMMETRY = 0.6  # legs seen at an angle are less symmetric than what they carry
LATHE_COUPLING = 0.02  # wy of the lathe: rounds caps and steps over about 14 % of the width
LEAST_HALF_THICKNESS = 0.0035  # of the crop's side: what a wire or a leaf keeps
RIM_HALF_THICKNESS = 0.0030
FILLET = 0.02  # of the crop's side: radius of the edge around a level foot or top
EDGE_BAND = 0.08  # share of width and height in which `fit_box` moves points
PERSUASION = 0.4  # how much better, in log depth, the other method must fit a known depth to be taken
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


def guess(silhouette: Silhouette, rng: np.random.Generator, depth: float | None = None) -> Prior:
    """Choose the method and draw the rest around its usual value.

    depth: the real depth in units of the crop's side, if it is known. It settles what symmetry leaves open:
    a stool that is deeper than its legs are thick is no inflated wire.
    """
    spread = float(np.exp(rng.normal(0.0, 0.08)))
    roundness = 2.0 + 0.6 * float(rng.random())
    back = float(rng.uniform(0.75, 1.0))
    inflate = Prior("inflate", 1.1 * spread, 2.0, back)
    # Round outlines are turned. Rectangles may be cans or cartons, and the wider, the more like a panel.
    boxy = min(max((silhouette.fullness - 0.8) / 0.15, 0.0), 1.0)
    factor = 1.0 - 0.15 * boxy
    if silhouette.aspect > 1.0:
        factor *= silhouette.aspect ** -(0.3 + 0.9 * boxy)
    lathe = Prior("lathe", factor * spread, roundness, 1.0)
    turned = silhouette.symmetry >= (TABLE_SYMMETRY if _is_table(silhouette.inside) else LATHE_SYMMETRY)
    favoured, other = (lathe, inflate) if turned else (inflate, lathe)
    if depth is None:
        return favoured
    misfits = [abs(np.log(depth / _natural_depth(silhouette, prior))) for prior in (favoured, other)]
    chosen = other if misfits[1] + PERSUASION < misfits[0] else favoured
    if chosen is lathe:
        # What is full like a box and not as deep as wide is one.
        oblong = abs(np.log(depth * silhouette.cells / _body_width(silhouette)))
        squared = boxy * min(float(oblong) / 0.5, 1.0)
        return Prior("lathe", lathe.depth, roundness + 3.0 * squared, 1.0)
    return chosen


def build_solid(silhouette: Silhouette, prior: Prior) -> Mesh:
    """The closed surface for an outline, in units of the crop's side.

    Returns vertices with x right, y up from the crop's lower left corner, z towards the viewer, 0 midway.
    """
    flat = flat_ends(silhouette, tops=prior.method == "lathe")
    height = _height(silhouette, prior, flat)
    cells = silhouette.cells
    height = _fillet(height, flat, FILLET * cells)
    least = LEAST_HALF_THICKNESS * cells
    front = np.sqrt(height**2 + least**2).astype(np.float32)
    back = np.sqrt((prior.back * height) ** 2 + least**2).astype(np.float32)
    mesh = surface.close_surface(silhouette.coverage, front, back, flat, rim=RIM_HALF_THICKNESS * cells)
    # Cell centres are half a cell inside the crop; the last row of the grid is y = 0 there.
    offset = np.array([0.5 - BORDER, 0.5 - BORDER, 0.0], np.float32)
    return Mesh(vertices=((mesh.vertices + offset) / cells).astype(np.float32), triangles=mesh.triangles)


def _height(silhouette: Silhouette, prior: Prior, flat: Bool) -> Float32:
    """Half thickness in cells, 0 outside the outline."""
    import cv2

    whole = silhouette.inside
    if prior.method == "inflate":
        inflated = prior.depth * np.sqrt(field.solve(silhouette.coverage, flat))
        return np.asarray(inflated, dtype=np.float32)
    if np.array_equal(silhouette.body, whole):
        turned = silhouette.coverage
    else:
        # Handles and spouts have their own thickness; only the body is as deep as it is wide.
        soft = cv2.GaussianBlur(silhouette.body.astype(np.float32), (0, 0), 1.0)
        joined = silhouette.body | (whole & (soft >= 0.5))
        at_outline = cv2.dilate((~whole).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        turned = np.where(joined & at_outline, silhouette.coverage, np.minimum(soft, silhouette.coverage))
        turned = np.where(whole, turned, np.where(soft > 0.02, silhouette.coverage, 0.0)).astype(np.float32)
    squared = field.solve(turned, flat, wy=LATHE_COUPLING)
    widest = _widest(squared, turned >= 0.5)
    height = np.sqrt(widest) * (squared / np.maximum(widest, 1e-6)) ** (1.0 / prior.roundness)
    if turned is not silhouette.coverage:
        attached = np.sqrt(field.solve(silhouette.coverage, flat))
        height = np.maximum(height, min(1.0, 1.0 / prior.depth) * attached)
    return np.asarray(prior.depth * height, dtype=np.float32)


def _is_table(inside: Bool) -> bool:
    """Whether a plate as wide as the object rests on thin legs: the plate is deep then, the legs are not."""
    box = inside[np.ix_(inside.any(axis=1), inside.any(axis=0))]
    top, legs = box[: max(1, len(box) // 5)], box[len(box) // 2 :]
    return bool(top.mean(axis=1).max() > 0.75 and legs.mean() < 0.45)


def _fillet(height: Float32, flat: Bool, radius: float) -> Float32:
    """Round the edge that a flat end would make with the surface, over `radius` cells."""
    import cv2

    if not flat.any():
        return height
    distance = cv2.distanceTransform((~flat).astype(np.uint8), cv2.DIST_L2, 5) - 0.5
    reach = np.minimum(radius, 0.5 * height)
    left = np.clip(1.0 - distance / np.maximum(reach, 1e-6), 0.0, 1.0)
    return np.asarray(height - reach * (1.0 - np.sqrt(1.0 - left**2)), dtype=np.float32)


def _natural_depth(silhouette: Silhouette, prior: Prior) -> float:
    """Depth in units of the crop's side."""
    flat = flat_ends(silhouette, tops=prior.method == "lathe")
    deepest = float(_height(silhouette, prior, flat).max())
    return max(deepest * (1.0 + prior.back) / silhouette.cells, LEAST_HALF_THICKNESS)


def _body_width(silhouette: Silhouette) -> int:
    return int(np.count_nonzero(silhouette.body.any(axis=0)))


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


def fit_box(mesh: Mesh, silhouette: Silhouette, alpha: UInt8) -> Mesh:
    """Pull the outermost points to where the crop's outermost pixels are.

    The grid and the simplifier both lose the last pixels of pointed tips, and with them the object's true
    width and height. Only the outer EDGE_BAND of the surface moves. mesh: in units of the crop's side.
    alpha: (S, S) uint8, see `silhouette.object_alpha`. Crumbs of a tip up to six cells away count as its end.
    """
    import cv2

    size = alpha.shape[0]
    near = cv2.dilate(silhouette.inside.astype(np.uint8), np.ones((5, 5), np.uint8))[
        BORDER:-BORDER, BORDER:-BORDER
    ]
    solid = (alpha >= 128) & (cv2.resize(near, (size, size), interpolation=cv2.INTER_NEAREST) > 0)
    if not solid.any():
        return mesh
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    wanted = ((columns[0], columns[-1] + 1), (size - rows[-1] - 1, size - rows[0]))
    vertices = mesh.vertices.copy()
    for axis, ends in enumerate(wanted):
        along = mesh.vertices[:, axis].astype(np.float64)
        low, high = along.min(), along.max()
        band = EDGE_BAND * (high - low)
        most = 0.25 * band
        pull_low = np.clip(ends[0] / size - low, -most, most)
        pull_high = np.clip(ends[1] / size - high, -most, most)
        along += pull_low * np.clip(1 - (mesh.vertices[:, axis] - low) / band, 0, 1)
        along += pull_high * np.clip(1 - (high - mesh.vertices[:, axis]) / band, 0, 1)
        vertices[:, axis] = along
    return Mesh(vertices, mesh.triangles)
