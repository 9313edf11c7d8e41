"""How much studio light reaches a point: one small shadow map for each direction that light comes from.

Forty dim lamps, each with its own shadow, add up to what a photographer's tent does: soft shadows on the
floor, darker corners inside a shelf, brightness that falls off under a seat. The same maps serve every point
of the object and of the floor, from every camera.
"""

from __future__ import annotations

from typing import NamedTuple

import numba

from trellis_pipeline.mesh.camera import Float64
from trellis_pipeline.mesh.types import Float32
from trellis_pipeline.mesh.vectors import Vector, dot, inner


class Light(NamedTuple):
    """The studio as the kernels read it.

    boxes: see `studio.softboxes`. exposure: factor of `studio.radiance`. directions: (D, 3)
    towards the light, world. weights: (D,), see `studio.light_weights`. frame: (D, 3, 4) world to shadow map
    (column, row, depth). depth: (D, S, S) float32 shadow maps. turn: (2,) cosine and sine of its turn.
    """

    boxes: Float64
    exposure: float
    directions: Float64
    weights: Float64
    frame: Float64
    depth: Float32
    turn: Float64


@inner
def arriving(
    light: Light, point: Vector, geometric: Vector, normal: Vector, mirror: Vector
) -> tuple[float, float]:
    """Light on a matt white surface, and the share (0..1) of the mirror direction that is open.

    geometric: the triangle's own normal; its slant says how far the steps of a shadow map reach.
    """
    matt = seen = possible = 0.0
    for d in range(light.directions.shape[0]):
        towards = (light.directions[d, 0], light.directions[d, 1], light.directions[d, 2])
        cosine = max(dot(normal, towards), 0.0)
        lobe = max(dot(mirror, towards), 0.0) ** 3
        if cosine <= 0.0 and lobe < 0.05:
            continue
        lit = unshadowed(light.frame[d], light.depth[d], point, abs(dot(towards, geometric)))
        matt += light.weights[d] * cosine * lit
        seen += lobe * lit
        possible += lobe
    return matt, seen / possible if possible > 0.0 else 1.0


@inner
def unshadowed(frame: Float64, depth: Float32, point: Vector, cosine: float) -> float:
    """Share (0..1) of a 2 × 2 neighbourhood of a shadow map that lets the light through to a point.

    cosine: of the angle between the light and the surface's own normal, on whichever side.
    """
    size = depth.shape[0]
    column = dot((frame[0, 0], frame[0, 1], frame[0, 2]), point) + frame[0, 3] - 0.5
    row = dot((frame[1, 0], frame[1, 1], frame[1, 2]), point) + frame[1, 3] - 0.5
    if not (0.0 <= column < size - 1 and 0.0 <= row < size - 1):
        return 1.0
    # A map's texel is 2 / size wide in depth units; the more slanted the surface, the more depth it spans.
    away = dot((frame[2, 0], frame[2, 1], frame[2, 2]), point) + frame[2, 3]
    away -= (2.0 / size) * (1.6 / max(cosine, 0.2) - 0.6)
    left, top = int(column), int(row)
    fx, fy = column - left, row - top
    lit = 0.0
    for corner in range(4):
        dx, dy = corner & 1, corner >> 1
        share = (fx if dx else 1.0 - fx) * (fy if dy else 1.0 - fy)
        # Light fades out over a texel's depth instead of stopping: no steps where a shadow curves away.
        lit += share * min(max(1.0 - (away - depth[top + dy, left + dx]) * 0.5 * size, 0.0), 1.0)
    return lit


@numba.njit(cache=True, nogil=True, error_model="numpy")
def floor_light(where: Float64, light: Light, out: Float32) -> None:
    """Share of the light from above that reaches each floor point. where: (N, 3) world. out: (N,) 0..1."""
    for n in range(where.shape[0]):
        reaching = possible = 0.0
        point = (where[n, 0], where[n, 1], where[n, 2])
        for d in range(light.directions.shape[0]):
            share = light.weights[d] * light.directions[d, 1]
            if share > 0.0:
                possible += share
                reaching += share * unshadowed(light.frame[d], light.depth[d], point, light.directions[d, 1])
        out[n] = reaching / possible if possible > 0.0 else 1.0
