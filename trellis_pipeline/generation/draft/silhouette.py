"""The crop's outline on a coarse grid: what a draft is made from.

Alpha channels come with hair-thin parts, specks and pinholes. Parts thinner than a grid cell are widened to
one so that legs and handles stay attached; specks that would float and pinholes that nobody sees are dropped.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import GenerationError

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]

MAX_CROP_PX = 4096
USEFUL_CROP_PX = 2048  # finer photos are averaged down: no draft texture is finer
MIN_CROP_PX = 8
OBJECT_ALPHA = 204  # of 255; TRELLIS.2 takes alpha above 0.8 as the object
USUAL_CELLS, MOST_CELLS, LEAST_GRID = 256, 384, 64
BORDER = 2  # empty cells around the crop, so that every outline closes
LEAST_CELLS = 24  # a smaller object has no shape
LEAST_SHARE = 0.004  # of the object: smaller pieces are specks
MOST_PIECES = 24
PINHOLE_CELLS = 6
FLAT_RUN_CELLS = 3
BODY_OPENING = 0.35  # of the largest inscribed radius: thinner parts are handles, spouts, straps
BODY_LEAST = 0.7  # of the area: with less it is a frame, not a body with handles


@dataclass(frozen=True, slots=True)
class Silhouette:
    """coverage: (n + 4, n + 4) float32, share of each cell that the object covers; the outline is at 0.5.

    The crop's n x n cells stand inside a border of two empty ones. inside: coverage >= 0.5. pieces, holes:
    how many were kept. body: the cells without those of handles and spouts. symmetry: 0..1, the body's
    overlap with its mirror image about its best vertical axis. aspect: its width over its height. fullness:
    how much of its bounding box the body's thick part covers, 0.79 for an ellipse and 1 for a rectangle.
    """

    coverage: Float32
    inside: Bool
    pieces: int
    holes: int
    body: Bool
    symmetry: float
    aspect: float
    fullness: float

    @property
    def cells(self) -> int:
        """Cells along the crop's side, without the border."""
        return int(self.coverage.shape[0]) - 2 * BORDER


def decode_crop(png: bytes) -> UInt8:
    """The crop as (S, S, 4) uint8, S <= 2048, straight alpha. GenerationError if not a square RGBA PNG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
                width, height = image.size
                if width != height:
                    raise GenerationError(f"the crop is {width} x {height} px; a draft needs a square one")
                if not MIN_CROP_PX <= width <= MAX_CROP_PX:
                    raise GenerationError(
                        f"the crop is {width} px wide; a draft needs {MIN_CROP_PX} to {MAX_CROP_PX} px"
                    )
                if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
                    raise GenerationError(
                        "the crop has no alpha channel, so there is no outline to build from"
                    )
                rgba = image.convert("RGBA")
                if width > USEFUL_CROP_PX:
                    rgba = rgba.resize((USEFUL_CROP_PX, USEFUL_CROP_PX), Image.Resampling.BOX)
                return np.asarray(rgba)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombWarning,
    ) as broken:
        raise GenerationError(f"the crop is not a readable PNG: {broken}") from broken


def object_alpha(alpha: UInt8) -> UInt8:
    """Alpha rescaled so that the object's outline runs where it is one half.

    alpha: (S, S) uint8. Crops are cut, and judged, by what is above 0.8 (`OBJECT_ALPHA`), so that is the
    outline, unless the object itself is translucent inside: then everything above 0.5 is object.
    """
    import cv2

    inner = cv2.erode(
        (alpha >= 128).astype(np.uint8),
        np.ones((7, 7), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    translucent = np.count_nonzero((inner > 0) & (alpha <= OBJECT_ALPHA))
    if translucent > 0.01 * np.count_nonzero(inner):
        return alpha
    levels = np.interp(np.arange(256), [0, OBJECT_ALPHA + 0.5, 255], [0, 127.5, 255])
    return np.asarray(np.rint(levels).astype(np.uint8)[alpha], dtype=np.uint8)


def trace(alpha: UInt8, cells: int, *, simple: bool = False) -> Silhouette:
    """The outline of `alpha` on a grid of cells x cells.

    alpha: (S, S) uint8, see `object_alpha`. simple: keep the largest piece only and fill every hole, for
    face budgets that leave no room for more. Raises GenerationError when nothing solid is left.
    """
    import cv2
    from scipy import ndimage

    size = alpha.shape[0]
    solid = alpha.copy()
    if size > cells:
        width = 2 * round(0.5 * size / cells) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        full = np.where(alpha >= 128, 255, 0).astype(np.uint8)
        thin = cv2.subtract(full, cv2.morphologyEx(full, cv2.MORPH_OPEN, kernel))
        spread = 2 * max(1, round(0.4 * size / cells)) + 1
        reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (spread, spread))
        solid = np.maximum(solid, cv2.dilate(thin, reach))
    small = cv2.resize(
        solid, (cells, cells), interpolation=cv2.INTER_AREA if size > cells else cv2.INTER_LINEAR
    )
    coverage = np.pad(small.astype(np.float32) / 255.0, BORDER)

    labels, count = ndimage.label(coverage >= 0.5)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")[: 1 if simple else MOST_PIECES]
    kept = [int(k) for k in order if areas[k] >= max(LEAST_CELLS, LEAST_SHARE * areas.sum())]
    if not kept:
        raise GenerationError(
            "the crop has no solid object in it: its largest piece covers "
            f"{areas.max() / cells**2:.2%} of the image. Check the matte"
        )
    coverage[(labels > 0) & ~np.isin(labels, kept)] = 0.0
    # Cells that the outline crosses keep their share only next to a piece that was kept.
    near = ndimage.binary_dilation(np.isin(labels, kept), np.ones((3, 3)))
    coverage[~near] = 0.0

    gaps, gap_count = ndimage.label(coverage < 0.5, np.ones((3, 3)))
    gap_areas = np.bincount(gaps.ravel(), minlength=gap_count + 1)
    outside = int(gaps[0, 0])
    filled = [
        k for k in range(1, gap_count + 1) if k != outside and (simple or gap_areas[k] <= PINHOLE_CELLS)
    ]
    coverage[np.isin(gaps, filled)] = 1.0
    inside = coverage >= 0.5
    body, core = _body(inside)
    thick = core[np.ix_(core.any(axis=1), core.any(axis=0))]
    return Silhouette(
        coverage=coverage,
        inside=inside,
        pieces=len(kept),
        holes=gap_count - 1 - len(filled),
        body=body,
        symmetry=mirror(body)[0],
        aspect=np.count_nonzero(body.any(axis=0)) / np.count_nonzero(body.any(axis=1)),
        fullness=float(thick.mean()),
    )


def usual_cells(alpha: UInt8) -> int:
    """Grid cells along the side that a crop deserves: more for wiry objects, none beyond its own pixels."""
    share = max(float(np.count_nonzero(alpha >= 128)) / alpha.size, 1e-3)
    wanted = min(max(round(USUAL_CELLS * np.sqrt(0.45 / share)), USUAL_CELLS), MOST_CELLS)
    return int(min(wanted, max(alpha.shape[0], LEAST_GRID)))


def _body(inside: Bool) -> tuple[Bool, Bool]:
    """The mask without handles and spouts, and without anything thin; twice the mask itself if it is a frame.

    Handles are what an opening removes, unless it lies on the axis (a neck, a lid's knob, a lamp's foot) or
    has its like on the other side.
    """
    import cv2
    from scipy import ndimage

    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    radius = BODY_OPENING * float(depth.max())
    opened = inside & (cv2.distanceTransform((depth <= radius).astype(np.uint8), cv2.DIST_L2, 5) <= radius)
    if np.count_nonzero(opened) < BODY_LEAST * np.count_nonzero(inside):
        return inside, inside
    _, axis = mirror(opened)
    twin = np.zeros_like(inside)
    columns = axis - np.arange(inside.shape[1])
    valid = (columns >= 0) & (columns < inside.shape[1])
    twin[:, valid] = inside[:, columns[valid]]
    parts, count = ndimage.label(inside & ~opened)
    body = opened.copy()
    for part in range(1, count + 1):
        cells = parts == part
        on_axis = cells[:, axis // 2].any()
        if on_axis or np.count_nonzero(cells & twin) >= 0.8 * np.count_nonzero(cells):
            body |= cells
    return body, opened


def mirror(inside: Bool) -> tuple[float, int]:
    """How well the mask matches its mirror image about its best vertical axis, and where that axis is.

    Returns intersection over union, 0..1, and the sum of the columns that change places.
    """
    columns = np.flatnonzero(inside.any(axis=0))
    box = inside[:, columns[0] : columns[-1] + 1]
    reach = max(1, box.shape[1] // 12)
    padded = np.pad(box, ((0, 0), (reach, reach)))
    mirrored = padded[:, ::-1]
    best, best_shift = 0.0, 0
    for shift in sorted(range(-reach, reach + 1), key=abs):
        moved = np.roll(mirrored, shift, axis=1)
        overlap = np.count_nonzero(padded & moved) / np.count_nonzero(padded | moved)
        if overlap > best:
            best, best_shift = overlap, shift
    return best, int(columns[0] + columns[-1] + best_shift)


def flat_ends(silhouette: Silhouette, *, tops: bool) -> Bool:
    """Where the outline is cut straight: the foot an object stands on and, if `tops`, a level top.

    Returns (H, W) bool on the grid of `coverage`: true on outside cells right under a foot (or above a top).
    A foot is part of the lowest 0.7 % of the object's height, at least three cells wide; a level top must
    also be most of the object's width there, or every leaf tip would become a plateau.
    """
    inside = silhouette.inside
    rows = np.flatnonzero(inside.any(axis=1))
    tolerance = max(1, round(0.007 * (rows[-1] - rows[0] + 1)))
    flat = np.zeros_like(inside)
    for y in range(rows[-1] - tolerance, rows[-1] + 1):
        flat[y + 1] |= _long_runs(inside[y] & ~inside[y + 1], FLAT_RUN_CELLS)
    if tops:
        width = int(inside[rows[0] + tolerance].sum())
        for y in range(rows[0], rows[0] + tolerance + 1):
            flat[y - 1] |= _long_runs(inside[y] & ~inside[y - 1], max(FLAT_RUN_CELLS, width // 3))
    return flat & ~inside


def _long_runs(row: Bool, least: int) -> Bool:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    keep = np.zeros_like(row)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= least:
            keep[start:stop] = True
    return keep
