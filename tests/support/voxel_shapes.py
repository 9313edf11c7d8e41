"""Shapes with known form and colour as a generator would give them: a dual-grid surface and its voxels.

The surface has what real ones have: winding that depends on the axis, a vertex for every voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes
from trellis_pipeline.mesh.types import Mesh

Distance = Callable[[np.ndarray], np.ndarray]

AROUND = {
    0: ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    1: ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    2: ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
}


def sphere(points: np.ndarray, radius: float = 0.4) -> np.ndarray:
    return np.linalg.norm(points, axis=-1) - radius


def torus(points: np.ndarray) -> np.ndarray:
    ring = np.hypot(points[..., 0], points[..., 1]) - 0.3
    return np.hypot(ring, points[..., 2]) - 0.13


def box(points: np.ndarray, half: tuple[float, float, float] = (0.37, 0.21, 0.29)) -> np.ndarray:
    beyond = np.abs(points) - np.asarray(half)
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(axis=-1), 0)


def ball_in_a_shell(points: np.ndarray) -> np.ndarray:
    """A ball, its rind 0.1 thick around a hollow, and a small ball in the hollow."""
    radius = np.linalg.norm(points, axis=-1)
    return np.minimum(np.abs(radius - 0.35) - 0.05, radius - 0.15)


def two_spheres(points: np.ndarray) -> np.ndarray:
    return np.minimum(sphere(points - [0.22, 0, 0], 0.15), sphere(points - [-0.22, 0, 0], 0.15))


def material(points: np.ndarray) -> np.ndarray:
    """Smooth colours, metal on one half, roughness rising with z, opaque."""
    values = np.empty((*points.shape[:-1], 6))
    values[..., :3] = 0.5 + 0.4 * np.sin(5 * points + [0.0, 1.0, 2.0])
    values[..., 3] = points[..., 0] > 0
    values[..., 4] = np.clip(0.5 + points[..., 2], 0.05, 0.95)
    values[..., 5] = 1.0
    return values


@dataclass(frozen=True)
class Voxelised:
    surface: Mesh
    voxels: VoxelAttributes


def voxelise(
    distance: Distance,
    resolution: int,
    *,
    paint: Callable[[np.ndarray], np.ndarray] = material,
    holes: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Voxelised:
    """The zero set of `distance` in the cube from -0.5 to 0.5, `resolution` cells along an edge.

    paint: six values for points. holes: True for points whose voxels are missing.
    """
    size = resolution
    while size % 2 == 0 and size > 16:
        size //= 2
    cells = np.argwhere(np.ones((size, size, size), bool))
    while True:
        cells = cells[np.abs(distance((cells + 0.5) / size - 0.5)) < 0.87 / size]
        if size == resolution:
            break
        size *= 2
        cells = (2 * cells[:, None] + np.argwhere(np.ones((2, 2, 2), bool))).reshape(-1, 3)
    corner = np.argwhere(np.ones((2, 2, 2), bool))
    value = np.stack([distance((cells + step) / resolution - 0.5) for step in corner], axis=1)
    total, count = np.zeros((len(cells), 3)), np.zeros(len(cells))
    crossed = np.zeros((len(cells), 3), bool)
    for i, low in enumerate(corner):
        for axis in range(3):
            if low[axis]:
                continue
            j = i + (4 >> axis)
            cut = (value[:, i] < 0) != (value[:, j] < 0)
            along = np.divide(value[:, i], value[:, i] - value[:, j], out=np.zeros(len(cells)), where=cut)
            total += cut[:, None] * (low + along[:, None] * np.eye(3)[axis])
            count += cut
            if low.sum() == 2:
                crossed[:, axis] = cut
    active = count > 0
    if holes is not None:
        active &= ~holes((cells + 0.5) / resolution - 0.5)
    cells, crossed, dual = cells[active], crossed[active], (total[active].T / count[active]).T
    vertices = ((cells + dual) / resolution - 0.5).astype(np.float32)
    word = lambda c: (c[..., 0] * 4096 + c[..., 1]) * 4096 + c[..., 2]  # noqa: E731
    order = np.argsort(word(cells))
    known = word(cells)[order]
    faces = []
    for axis, steps in AROUND.items():
        wanted = word(cells[crossed[:, axis], None] + np.array(steps))
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        quads = order[place][(known[place] == wanted).all(axis=1)]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    surface = Mesh(vertices, np.concatenate(faces).astype(np.int32))
    middles = (cells + 0.5) / resolution - 0.5
    values = paint(middles).astype(np.float32)
    return Voxelised(surface, VoxelAttributes(cells.astype(np.int32), values, 1 / resolution))
