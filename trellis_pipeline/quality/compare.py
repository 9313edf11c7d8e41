"""Are two models of the same request the same? By bytes first, then by what somebody would see.

A generator on a GPU need not give the same bytes twice: sums are added in another order, the simplifier then
takes other edges, and the atlas is packed anew. None of that shows in a shop. So two files that are not
identical are measured where a buyer or a renderer would notice, and each measure has its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.glb_container import parse_glb
from trellis_pipeline.mesh.glb_read import Primitive, read_primitives
from trellis_pipeline.quality.header import HeaderFacts, read_header

Verdict = Literal["same", "equivalent", "different"]

MOST_TRIANGLES = 0.02
"""Share. The simplifier ends near its target, not on it."""
MOST_VERTICES = 0.10
"""Share. Seams of a newly packed atlas split other vertices."""
MOST_SIZE = 0.01
"""Of the longest side, for each side of the bounding box."""
LEAST_OUTLINE = 0.98
"""Intersection over union of the outlines from front, side and top: the worst of the three."""
MOST_COLOUR = 0.04
"""Mean difference of sRGB in 0..1 where both renders show the object, front and back: ten steps of 255."""

_OUTLINE_PX = 256
_RENDER_PX = 128


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that was compared. difference: 0 for no difference; limit: the most that is equivalent."""

    name: str
    first: str
    second: str
    difference: float
    limit: float

    @property
    def within(self) -> bool:
        """Whether the two are equivalent in this."""
        return self.difference <= self.limit


@dataclass(frozen=True, slots=True)
class Comparison:
    """verdict: `same` for identical bytes, `equivalent` where every measure is within its limit."""

    verdict: Verdict
    measures: tuple[Measure, ...] = ()

    def document(self) -> dict[str, Any]:
        """As plain JSON-able data."""
        measures = [{**asdict(one), "within": one.within} for one in self.measures]
        return {"verdict": self.verdict, "identical_bytes": self.verdict == "same", "measures": measures}


def compare_models(first: bytes, second: bytes) -> Comparison:
    """Compare two GLBs, the original and its reproduction. Runs in a worker process. Deterministic.

    Raises ModelFileError for a file that cannot be read, and MeshError where there is nothing to draw.
    """
    if first == second:
        return Comparison("same")
    headers = read_header(first), read_header(second)
    shapes = _geometry(first), _geometry(second)
    measures = (
        _share("triangles", headers[0].triangles, headers[1].triangles, MOST_TRIANGLES),
        _share("vertices", headers[0].vertices, headers[1].vertices, MOST_VERTICES),
        _size(shapes[0][0], shapes[1][0]),
        _outlines(shapes[0], shapes[1]),
        _textures(headers[0], headers[1]),
        _colour(first, second),
    )
    return Comparison("equivalent" if all(one.within for one in measures) else "different", measures)


def _share(name: str, first: int, second: int, limit: float) -> Measure:
    return Measure(name, f"{first:,}", f"{second:,}", abs(second - first) / max(first, 1), limit)


def _size(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Measure:
    sizes = [np.ptp(points, axis=0).astype(float) for points in (first, second)]
    longest = max(float(sizes[0].max()), 1e-9)
    texts = [" x ".join(f"{side:.3f}" for side in size) for size in sizes]
    return Measure("size", texts[0], texts[1], float(np.abs(sizes[1] - sizes[0]).max()) / longest, MOST_SIZE)


Shape = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]


def _outlines(first: Shape, second: Shape) -> Measure:
    """Outlines along each axis, both models in one frame: position counts as well."""
    points = np.concatenate([first[0], second[0]]).astype(np.float64)
    low, extent = points.min(axis=0), max(float(np.ptp(points, axis=0).max()), 1e-9)
    worst = 1.0
    for axes in ((0, 1), (2, 1), (0, 2)):
        seen = [_outline(shape, low, extent, axes) for shape in (first, second)]
        either = int(np.count_nonzero(seen[0] | seen[1]))
        if either:
            worst = min(worst, int(np.count_nonzero(seen[0] & seen[1])) / either)
    return Measure("outline", "", f"IoU {worst:.4f}", 1 - worst, 1 - LEAST_OUTLINE)


def _outline(
    shape: Shape, low: npt.NDArray[np.float64], extent: float, axes: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    from trellis_pipeline.quality.silhouette import fill

    scaled = (shape[0].astype(np.float64) - low) / extent * (_OUTLINE_PX - 2) + 1
    mask = np.zeros((_OUTLINE_PX, _OUTLINE_PX), np.uint8)
    # The type that the kernel is compiled for elsewhere: contiguous, and not to be written to.
    corners = np.require(shape[1], np.int32, ["C", "A"]).view()
    corners.flags.writeable = False
    fill(np.ascontiguousarray(scaled[:, list(axes)]), corners, mask)
    return mask.astype(bool)


def _textures(first: HeaderFacts, second: HeaderFacts) -> Measure:
    texts = [
        ", ".join(sorted(f"{t.slot} {t.width} x {t.height}" for t in header.textures)) or "none"
        for header in (first, second)
    ]
    return Measure("textures", texts[0], texts[1], float(texts[0] != texts[1]), 0.0)


def _colour(first: bytes, second: bytes) -> Measure:
    from trellis_pipeline.mesh.render import render_views

    views = ("front", "back")
    worst = 0.0
    for before, after in zip(
        render_views(first, views, _RENDER_PX), render_views(second, views, _RENDER_PX), strict=True
    ):
        both = (before[..., 3] == 255) & (after[..., 3] == 255)
        if not both.any():
            worst = 1.0
            continue
        apart = np.abs(before[both][:, :3].astype(float) - after[both][:, :3].astype(float))
        worst = max(worst, float(apart.mean()) / 255)
    return Measure("colour", "", f"{worst:.4f} apart", worst, MOST_COLOUR)


def _geometry(glb: bytes) -> Shape:
    """All points and triangles of the scene in world space; an empty scene is one point and no triangle."""
    primitives: Sequence[Primitive] = read_primitives(parse_glb(glb))
    if not primitives:
        return np.zeros((1, 3), np.float32), np.zeros((0, 3), np.int32)
    offsets = np.cumsum([0, *(len(one.positions) for one in primitives[:-1])])
    triangles = [one.triangles + np.int32(at) for one, at in zip(primitives, offsets, strict=True)]
    points = np.concatenate([one.positions for one in primitives])
    return np.nan_to_num(points, posinf=0.0, neginf=0.0), np.concatenate(triangles)
