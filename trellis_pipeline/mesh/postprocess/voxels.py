"""What a surface is made of, asked at any point: a sparse grid of colours read between its cells.

Only cells near the surface exist. A point is therefore read from those of its eight neighbours that do, their
weights brought back to a sum of one; otherwise every rim would fade to black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.postprocess.lattice import CellTable, cell_table, find
from trellis_pipeline.mesh.postprocess.threads import in_parallel
from trellis_pipeline.mesh.types import Float32, Int32

CHANNELS = 6  # base colour R, G, B, metallic, roughness, alpha
NO_WEIGHT = 1e-12
REACH_CELLS = 16
"""A closed pinhole measures 0.03 around: at 1536 its middle is at most 12 cells from its rim."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VoxelAttributes:
    """The material of a surface, cell by cell.

    coords: (N, 3) int32, not negative. values: (N, 6) float32: base colour R, G, B (sRGB-encoded), metallic,
    roughness, alpha (linear), nominally 0..1; decoders overshoot a little. Cell c covers
    origin + c * voxel_size to origin + (c + 1) * voxel_size, its values stand at the middle.
    """

    coords: Int32
    values: Float32
    voxel_size: float
    origin: tuple[float, float, float] = (-0.5, -0.5, -0.5)


def check_voxels(voxels: VoxelAttributes) -> None:
    """Raise MeshError unless there are voxels, with six finite values each, on a grid of positive size."""
    coords, values = voxels.coords, voxels.values
    if coords.ndim != 2 or coords.shape[1] != 3 or values.shape != (len(coords), CHANNELS):
        raise MeshError(
            f"voxels of shape {coords.shape} with values of shape {values.shape}; expected (N, 3) and (N, 6)"
        )
    if len(coords) == 0:
        raise MeshError("there is no material to bake: the generator made no voxels")
    if not np.isfinite(values).all():
        raise MeshError("voxel values contain NaN or infinity: the texture decoder failed")
    if not (np.isfinite(voxels.voxel_size) and voxels.voxel_size > 0):
        raise MeshError(f"the voxel size is {voxels.voxel_size}; it must be positive")


def sample_trilinear(
    coords: Int32, values: Float32, points: Float32, *, fallback_cells: int = 0, threads: int = 1
) -> Float32:
    """Values (M, C) float32 at `points` (M, 3), both in cells: cell c is read unmixed at c + 0.5.

    Neighbours weigh Π(1 - |p - c - 0.5|) over the axes, missing ones nothing, the rest are scaled to a sum
    of one. Where all eight are missing the result is 0, or with `fallback_cells` the mean of the nearest
    cells at most so many cells away, if there are any.

    Raises MeshError for coordinates that `lattice.cell_table` refuses.
    """
    return _read(coords, values, points, fallback_cells, threads)[0]


def sample_voxels(voxels: VoxelAttributes, points: Float32, *, threads: int = 1) -> tuple[Float32, Bools]:
    """The six values at `points` (M, 3) float32 of the surface's space, clipped to 0..1, and (M,) if known.

    Points that lie off the grid's cells by up to REACH_CELLS, as on a hole that was closed, get the nearest
    ones' values. For any farther there is nothing to say: False, and zeros that mean no colour.
    """
    places = (points.astype(np.float64) - np.asarray(voxels.origin)) / voxels.voxel_size
    sampled, found = _read(voxels.coords, voxels.values, places.astype(np.float32), REACH_CELLS, threads)
    return np.clip(sampled, 0, 1, out=sampled), found


def _read(
    coords: Int32, values: Float32, points: Float32, fallback_cells: int, threads: int
) -> tuple[Float32, Bools]:
    table = cell_table(coords)
    result, found = np.zeros((len(points), values.shape[1]), np.float32), np.zeros(len(points), np.bool_)
    places, given = np.ascontiguousarray(points), np.ascontiguousarray(values, dtype=np.float32)
    in_parallel(
        lambda start, stop: _sample(
            table, given, places[start:stop], fallback_cells, result[start:stop], found[start:stop]
        ),
        len(points),
        threads,
    )
    return result, found


@numba.njit(cache=True, nogil=True)
def _sample(
    table: CellTable,
    values: Float32,
    points: npt.NDArray[np.float32],
    fallback_cells: int,
    result: Float32,
    found: Bools,
) -> None:
    base = np.empty(3, np.int64)
    share = np.empty((3, 2))
    for n in range(len(points)):
        outside = False
        for axis in range(3):
            place = float(points[n, axis]) - 0.5
            if not -2.0 < place < 1 << 20:  # so written that "not a number" is outside too
                outside = True
                break
            base[axis] = int(np.floor(place))
            share[axis, 1] = place - base[axis]
            share[axis, 0] = 1.0 - share[axis, 1]
        if outside:
            continue
        total = 0.0
        for corner in range(8):
            i, j, k = corner >> 2, (corner >> 1) & 1, corner & 1
            weight = share[0, i] * share[1, j] * share[2, k]
            if weight <= 0.0 or base[0] + i < 0 or base[1] + j < 0 or base[2] + k < 0:
                continue
            row = find(table, base[0] + i, base[1] + j, base[2] + k)
            if row >= 0:
                total += weight
                for m in range(values.shape[1]):
                    result[n, m] += weight * values[row, m]
        if total > NO_WEIGHT:
            found[n] = True
            for m in range(values.shape[1]):
                result[n, m] /= total
        elif fallback_cells > 0:
            found[n] = _nearest_cells(table, values, points[n], fallback_cells, result[n])


@numba.njit(cache=True, nogil=True)
def _nearest_cells(table: CellTable, values: Float32, point: Float32, reach: int, result: Float32) -> bool:
    """Mean of the cells whose middles are nearest to `point`, to a hundredth of a cell; False if none is.

    Looks at growing cubes around the point, until what lies beyond cannot be nearer.
    """
    result[:] = 0
    best, count = (reach + 1.0) ** 2, 0
    x, y, z = int(np.floor(point[0])), int(np.floor(point[1])), int(np.floor(point[2]))
    for ring in range(reach + 1):
        if ring > 0 and (ring - 0.5) ** 2 > best + 0.01:
            break
        for i in range(max(x - ring, 0), x + ring + 1):
            for j in range(max(y - ring, 0), y + ring + 1):
                inside = abs(i - x) < ring and abs(j - y) < ring
                for k in range(z - ring, z + ring + 1, 2 * ring if inside else 1):
                    row = find(table, i, j, k) if k >= 0 else -1
                    if row < 0:
                        continue
                    gap = (i + 0.5 - point[0]) ** 2 + (j + 0.5 - point[1]) ** 2 + (k + 0.5 - point[2]) ** 2
                    if gap < best - 0.01:
                        best, count = gap, 0
                        result[:] = 0
                    if gap < best + 0.01:
                        count += 1
                        for m in range(values.shape[1]):
                            result[m] += values[row, m]
    if count:
        for m in range(values.shape[1]):
            result[m] /= count
    return count > 0
