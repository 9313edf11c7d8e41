"""What goes into a draft and what comes out, as plain records.

They stand apart from the work so that naming them costs no import of compiled libraries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """max_triangles, texture_px: upper limits. seed: another seed is another candidate.

    width_m, height_m, depth_m: the product's real dimensions in metres, as far as they are known.
    """

    max_triangles: int = 100_000
    texture_px: int = 2048
    seed: int = 0
    width_m: float | None = None
    height_m: float | None = None
    depth_m: float | None = None


@dataclass(frozen=True, slots=True)
class DraftModel:
    """glb: the file. method: lathe or inflate. depth_ratio: depth over the larger of width and height."""

    glb: bytes
    triangles: int
    vertices: int
    texture_px: int
    method: str
    depth_ratio: float
