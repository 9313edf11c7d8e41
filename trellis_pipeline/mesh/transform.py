"""Where a model stands and how big it is: shops expect metres, the floor at zero, the middle above it."""

from __future__ import annotations

import math

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import Float32


def place_on_floor(positions: Float32) -> Float32:
    """Move (V, 3) positions so that the origin is the bottom centre of their bounding box.

    Afterwards min y is 0 and x and z reach equally far to both sides (to float32 rounding).
    """
    _check(positions)
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return np.asarray(positions - origin, dtype=np.float32)


def scale_to_dimensions(
    positions: Float32,
    *,
    height_m: float | None = None,
    width_m: float | None = None,
    depth_m: float | None = None,
) -> Float32:
    """Scale (V, 3) positions uniformly about the origin so that one given dimension is met, in metres.

    Height is y, width x, depth z. The first that is given in the order height, width, depth decides: it is
    the side a photo shows best, and a shape is never stretched to fit the others, since catalogs often
    measure with the packaging or swap the axes. With none given the positions come back as they are.

    Raises MeshError for dimensions that are not positive, and for a mesh that is flat along the one used.
    """
    _check(positions)
    given = [
        (name, wanted, axis)
        for name, wanted, axis in (
            ("height_m", height_m, 1),
            ("width_m", width_m, 0),
            ("depth_m", depth_m, 2),
        )
        if wanted is not None
    ]
    for name, wanted, _ in given:
        if not (math.isfinite(wanted) and wanted > 0):
            raise MeshError(f"{name} is {wanted}; a dimension is a positive number of metres")
    if not given:
        return positions
    name, wanted, axis = given[0]
    extent = float(np.ptp(positions[:, axis].astype(np.float64)))
    if extent == 0:
        raise MeshError(f"cannot scale to {name} = {wanted}: the mesh is flat in that direction")
    return np.asarray(positions * (wanted / extent), dtype=np.float32)


def _check(positions: Float32) -> None:
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
        raise MeshError(f"positions have shape {positions.shape}; expected (V, 3) with at least one vertex")
    if not np.isfinite(positions).all():
        raise MeshError("positions contain NaN or infinity")
