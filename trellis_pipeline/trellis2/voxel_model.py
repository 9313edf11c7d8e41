"""What a generation ends in, as plain arrays: whoever works on with it needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class VoxelModel:
    """A surface and its material, in the cube from -0.5 to 0.5, z up.

    vertices: (M, 3) float32, one for each voxel. triangles: (T, 3) int32, not wound alike, may have holes.
    coords: (M, 3) int32, the voxels of a grid with `resolution` cells on an edge; voxel i spans
    i / resolution - 0.5 to (i + 1) / resolution - 0.5. attributes: (M, 6) float32, base colour (sRGB),
    metallic, roughness, alpha; 0..1 but for overshoots.
    """

    vertices: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]
    coords: npt.NDArray[np.int32]
    attributes: npt.NDArray[np.float32]
    resolution: int
    seed: int
