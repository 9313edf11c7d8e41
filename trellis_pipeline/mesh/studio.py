"""The photo studio in which previews are taken: softboxes and a bright room, as formulas.

An environment picture would be a file to ship and minutes to prefilter. Here each light is a rectangle on the
sphere of directions whose edges widen with the surface's roughness, so the same few lines give the sharp
window on lacquer and the broad sheen on leather. The room turns with the camera, like a product on a
turntable: the back of a chair is lit as well as its front.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from trellis_pipeline.mesh.camera import Float64
from trellis_pipeline.mesh.vectors import inner

# Direction of the centre (x right, y up, z to the camera), half width, half height (tangents), radiance.
_SOFTBOXES = (
    ((-0.62, 0.62, 0.62), 0.50, 0.50, 4.6),  # key: large, from the upper left
    ((0.90, 0.30, 0.45), 0.42, 0.70, 1.7),  # fill: from the right
    ((0.05, 1.00, -0.10), 0.75, 0.55, 2.4),  # overhead
    ((-0.80, 0.35, -0.75), 0.16, 0.80, 4.2),  # rim strips, from behind on both sides
    ((0.85, 0.40, -0.70), 0.16, 0.80, 4.2),
)
SKY, HORIZON, FLOOR = 0.62, 0.50, 0.40
"""Radiance of the room above, around and below, before `EXPOSURE`."""

FACING_CAMERA = (0.0, 0.25, 0.97)
"""A white matt surface turned this way comes out at `WHITE`."""
WHITE = 0.96


def softboxes() -> Float64:
    """(N, 12) rows: centre direction (3), right (3), up (3), half width, half height, radiance."""
    rows = []
    for centre, half_width, half_height, radiance in _SOFTBOXES:
        axis = np.array(centre) / np.linalg.norm(centre)
        right = np.cross((0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (0.0, 0.0, -1.0), axis)
        right /= np.linalg.norm(right)
        rows.append([*axis, *right, *np.cross(axis, right), half_width, half_height, radiance])
    return np.array(rows)


def light_directions(count: int) -> Float64:
    """(count, 3) unit directions spread evenly over the sphere above y = -0.75, most light coming from above.

    A Fibonacci spiral: equal areas, no two directions in line.
    """
    index = np.arange(count) + 0.5
    height = 1.0 - 1.75 * index / count
    radius = np.sqrt(1.0 - height * height)
    angle = index * math.pi * (1.0 + math.sqrt(5.0))
    return np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], axis=1)


def turned(directions: Float64, azimuth: float) -> Float64:
    """World directions as the studio sees them when the camera stands at `azimuth` (radians)."""
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    return np.stack([cos * x - sin * z, y, sin * x + cos * z], axis=1)


def light_weights(boxes: Float64, directions: Float64) -> tuple[Float64, float]:
    """How much each of `directions` ((D, 3), studio space) lights a matt surface, and the exposure.

    A matt white surface with normal n has radiance Σ weight · max(0, n · direction). The exposure, already in
    the weights, is the factor by which `radiance` must be multiplied to match.
    """
    weights = np.array([radiance(boxes, x, y, z, 0.30) for x, y, z in directions])
    facing = np.array(FACING_CAMERA) / np.linalg.norm(FACING_CAMERA)
    arriving = float(np.sum(weights * np.maximum(directions @ facing, 0.0)))
    solid_angle = 1.75 * 2.0 * math.pi / len(directions)
    exposure = WHITE / (arriving * solid_angle / math.pi)
    return weights * (exposure * solid_angle / math.pi), exposure


@numba.njit(cache=True, nogil=True, error_model="numpy")
def radiance(boxes: Float64, x: float, y: float, z: float, blur: float) -> float:
    """Light from direction (x, y, z), studio space, blurred by `blur` (radians, about 1 σ)."""
    height = y / (1.0 + blur)
    total = HORIZON + (SKY - HORIZON) * height if y > 0.0 else HORIZON + (HORIZON - FLOOR) * height
    for i in range(boxes.shape[0]):
        facing = x * boxes[i, 0] + y * boxes[i, 1] + z * boxes[i, 2]
        if facing <= 0.05:
            continue
        across = (x * boxes[i, 3] + y * boxes[i, 4] + z * boxes[i, 5]) / facing
        along = (x * boxes[i, 6] + y * boxes[i, 7] + z * boxes[i, 8]) / facing
        edge = 0.03 + blur
        total += (
            boxes[i, 11]
            * _inside(across, boxes[i, 9], edge)
            * _inside(along, boxes[i, 10], edge)
            * min(1.0, facing * 4.0)
        )
    return total


@inner
def _inside(position: float, half: float, edge: float) -> float:
    """A box of half-width `half` convolved with a long-tailed kernel (like GGX's) of width `edge`."""
    a, b = (position + half) / edge, (position - half) / edge
    return 0.5 * (a / math.sqrt(1.0 + a * a) - b / math.sqrt(1.0 + b * b))


@inner
def neutral(r: float, g: float, b: float) -> tuple[float, float, float]:
    """Tone mapping: base colours below 0.8 keep hue and value, highlights roll off towards white.

    Formula and constants: Khronos, "PBR Neutral Tone Mapper", 2024 specification, with half of its toe. The
    toe takes away the reflection of a black surface; all of it would cost black products their shape.
    """
    smallest = min(r, g, b)
    offset = 0.5 * (smallest - 6.25 * smallest * smallest) if smallest < 0.08 else 0.02
    r, g, b = r - offset, g - offset, b - offset
    start = 0.8 - 0.02
    peak = max(r, g, b)
    if peak < start:
        return r, g, b
    span = 1.0 - start
    compressed = 1.0 - span * span / (peak + span - start)
    scale = compressed / peak
    mix = 1.0 - 1.0 / (0.15 * (peak - compressed) + 1.0)
    return (
        r * scale * (1.0 - mix) + compressed * mix,
        g * scale * (1.0 - mix) + compressed * mix,
        b * scale * (1.0 - mix) + compressed * mix,
    )
