"""The best of several models of one photo: a valid file first, then the outline, then a whole surface.

The outline is the only thing that a photo can be asked about without guessing. Differences of less than one
percent are noise of the rasteriser; there, fewer open edges decide, and then the order of the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.quality.assess import assess
from trellis_pipeline.quality.inspect import inspect_glb

Score = dict[str, float]


def score(glb: bytes, crop_png: bytes | None) -> Score:
    """What one model is compared by. Runs in a worker process.

    crop_png: the RGBA crop it was made from; None where it is gone, and the outline cannot be compared.
    valid: 1 if the file keeps the rules of glTF. silhouette_iou: 0..1. open_edges: boundary and non-manifold
    edges. A file that cannot be read has `valid` -1.
    """
    try:
        record = inspect_glb(glb) if crop_png is None else assess(glb, crop_png)
    except ModelFileError:
        return {"valid": -1.0, "silhouette_iou": 0.0, "open_edges": 0.0}
    return {
        "valid": float(bool(record.valid_gltf)),
        "silhouette_iou": record.silhouette_iou or 0.0,
        "open_edges": float((record.boundary_edges or 0) + (record.non_manifold_edges or 0)),
    }


def best(scores: Sequence[Mapping[str, float]]) -> int:
    """The index of the best; the first of equals. scores: at least one."""

    def rank(index: int) -> tuple[float, float, float]:
        one = scores[index]
        return (one["valid"], round(one["silhouette_iou"], 2), -one["open_edges"])

    return max(range(len(scores)), key=rank)
