"""The two shapes that travel through mesh work: bare geometry, and geometry ready to be written.

Plain arrays in frozen records keep every step a function from data to data. Coordinates are glTF's:
right-handed, Y up, +Z towards the viewer of the source photo, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Bare geometry. vertices: (V, 3) float32. triangles: (T, 3) int32, counter-clockwise from outside."""

    vertices: Float32
    triangles: Int32


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it will stand in the file. mime: image/png, image/jpeg or image/webp."""

    data: bytes
    mime: Literal["image/png", "image/jpeg", "image/webp"]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Material:
    """glTF 2.0 metallic-roughness material (specification §3.9.2).

    base_color_factor: linear RGBA. metallic, roughness: factors in 0..1, multiplied with
    `metallic_roughness` (G = roughness, B = metallic; R = occlusion when `occlusion_in_red`).
    """

    name: str = "material"
    base_color: EncodedImage | None = None
    metallic_roughness: EncodedImage | None = None
    normal: EncodedImage | None = None
    occlusion_in_red: bool = False
    base_color_factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 0.0
    roughness: float = 1.0
    alpha_mode: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = False


@dataclass(frozen=True, slots=True)
class TexturedMesh:
    """One drawable mesh, its vertices already split along UV seams.

    positions: (V, 3) float32, metres. normals: (V, 3) float32, unit length. uvs: (V, 2) float32 in 0..1,
    origin at the image's top left (glTF). triangles: (T, 3) int32, counter-clockwise from outside.
    """

    positions: Float32
    normals: Float32
    uvs: Float32
    triangles: Int32
    material: Material
