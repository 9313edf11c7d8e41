"""Fine voxels to triangles.

Every voxel holds one surface vertex and three flags. A flag says that the surface crosses one grid edge, the
one at the voxel's far corner along x, y or z. Four voxels share that edge, and the quad over their vertices
is a piece of the surface; it exists only if all four do.

No sign is stored, so quads are not wound alike: orientation is left to whoever repairs the mesh.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trellis_pipeline.trellis2.latent_decoder import SurfaceVoxels
from trellis_pipeline.trellis2.voxels import VoxelIndex

# For the edge along x, y, z: the four voxels around it, in a circle, as offsets from the one with the flag.
_AROUND_EDGE = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)

_CHUNK_ROWS = 1 << 18  # voxels whose quads are looked up at once


def dual_vertices(coords: Tensor, vertex: Tensor, lower: Tensor, upper: Tensor, cells: Tensor) -> Tensor:
    """Surface vertices in space: (M, 3) float32.

    coords: (M, 3) voxels of a box from `lower` to `upper` that is cut into `cells`, each (3,).
    vertex: (M, 3), position inside the voxel, in voxels.
    """
    return (coords.float() + vertex) * ((upper - lower) / cells) + lower


def dual_faces(coords: Tensor, crossed: Tensor, weight: Tensor | None = None) -> Tensor:
    """The triangles over the voxels' vertices, (2 Q, 3) int32, two for each quad.

    coords: (M, 3). crossed: (M, 3) bool. weight: (M,) positive; a quad is split between the two opposite
    corners whose product is larger. Without weights always between the first and the third.
    """
    around = torch.tensor(_AROUND_EDGE, dtype=coords.dtype, device=coords.device)
    index = VoxelIndex(torch.nn.functional.pad(coords, (1, 0)))
    parts = zip(coords.split(_CHUNK_ROWS), crossed.split(_CHUNK_ROWS), strict=True)
    return torch.cat([_faces(index, at, flags, around, weight) for at, flags in parts])


def _faces(
    index: VoxelIndex, coords: Tensor, crossed: Tensor, around: Tensor, weight: Tensor | None
) -> Tensor:
    """The triangles whose flags are in these voxels. weight: of all voxels."""
    voxel, axis = crossed.nonzero().unbind(1)
    wanted = coords[voxel, None] + around[axis]
    quads = index.find(torch.nn.functional.pad(wanted.flatten(0, 1), (1, 0))).unflatten(0, (-1, 4))
    quads = quads[(quads >= 0).all(dim=1)]
    faces = quads[:, [0, 1, 2, 0, 2, 3]]
    if weight is not None:
        w = weight[quads]
        first = w[:, 0] * w[:, 2] > w[:, 1] * w[:, 3]
        faces = torch.where(first[:, None], faces, quads[:, [0, 1, 3, 3, 1, 2]])
    return faces.reshape(-1, 3).int()


def extract_surface(coords: Tensor, voxels: SurfaceVoxels, resolution: int) -> tuple[Tensor, Tensor]:
    """The mesh of one sample in the cube from -0.5 to 0.5, z up.

    coords: (M, 3) of a grid with `resolution` cells on an edge. Returns vertices (M, 3) float32, one for each
    voxel whether used or not, and triangles (T, 3) int32.
    """
    half = torch.full((3,), 0.5, device=coords.device)
    cells = torch.full((3,), float(resolution), device=coords.device)
    vertices = dual_vertices(coords, voxels.vertex, -half, half, cells)
    return vertices, dual_faces(coords, voxels.crossed, voxels.weight)
