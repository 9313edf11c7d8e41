"""What a product is made of: surfaces with a material, and the view its photo is taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from .shapes import Float, Surface


@dataclass(frozen=True, slots=True)
class Finish:
    """How a part looks.

    colour: sRGB hex, multiplied with `print` when there is one. bump: heights 0..1 of one tile, drawn in the
    photo only, `bump_m` metres deep; `tiles` (u, v) repeats both images. clearcoat and sheen, 0..1, likewise
    show in the photo only: the GLB keeps to the glTF core material.
    """

    name: str
    colour: str = "#ffffff"
    roughness: float = 0.5
    metallic: float = 0.0
    print: Callable[[], Image.Image] | None = None
    bump: Callable[[], Float] | None = None
    bump_m: float = 0.0
    tiles: tuple[float, float] = (1.0, 1.0)
    clearcoat: float = 0.0
    sheen: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """One closed surface and its finish."""

    surface: Surface
    finish: Finish


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera stands: degrees around the product (towards +X), degrees up, field of view."""

    azimuth: float = 0.0
    elevation: float = 8.0
    fov: float = 20.0


@dataclass(frozen=True, slots=True)
class Made:
    """One product of the catalog, as it is built."""

    sku: str
    title: str
    category: str
    parts: tuple[Part, ...]
    view: View
    photo: Literal["jpg", "png", "webp"] = "jpg"

    def bounds(self) -> tuple[Float, Float]:
        """The corners of the axis-aligned bounding box, metres."""
        points = np.vstack([part.surface.points for part in self.parts])
        return points.min(axis=0), points.max(axis=0)


def upright(uvs_from: Surface, across: int, upward: int, metres: float) -> Surface:
    """Project UVs straight along an axis: u along `across`, v against `upward`, one tile every `metres`."""
    p = uvs_from.points[uvs_from.triangles]
    uvs = np.stack([p[..., across] / metres + 0.5, 0.5 - p[..., upward] / metres], axis=-1)
    return Surface(uvs_from.points, uvs_from.triangles, uvs)
