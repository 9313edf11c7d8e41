"""Textures for sampling: chains of halved images in one array, and the filter that reads them.

A 2048 px texture on a 512 px picture shimmers unless each pixel averages all texels it covers. Mip levels do
that once, beforehand; they are averaged in linear light, because averaging sRGB numbers darkens fine print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.types import Float32, UInt8
from trellis_pipeline.mesh.vectors import inner

REPEAT, MIRROR, CLAMP = 0, 1, 2
_MAX_LEVELS = 16
_ENCODE_STEPS = 1 << 14
_MAX_TAPS = 4
_MAX_UV = 1e9


@dataclass(frozen=True, slots=True)
class Texture:
    """A decoded image. pixels: (H, W, 4) uint8. srgb: whether RGB is sRGB-encoded (alpha never is).

    wrap: (horizontal, vertical), each `REPEAT`, `MIRROR` or `CLAMP`.
    """

    pixels: UInt8
    srgb: bool
    wrap: tuple[int, int] = (REPEAT, REPEAT)


class TextureSet(NamedTuple):
    """All textures of a scene as the kernels read them.

    texels: (N, 4) uint8, all levels of all textures. levels: (textures, 16, 3) int64: offset, width, height.
    info: (textures, 4) int64: number of levels, horizontal wrap, vertical wrap, row of `decode`.
    decode: (2, 256) float32: byte to linear value for plain and for sRGB data.
    """

    texels: UInt8
    levels: npt.NDArray[np.int64]
    info: npt.NDArray[np.int64]
    decode: Float32


def srgb_to_linear(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """sRGB in 0..1 to linear light in 0..1 (IEC 61966-2-1)."""
    v = np.asarray(values, dtype=np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Linear light to sRGB, both 0..1; values outside are clipped (IEC 61966-2-1)."""
    v = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1.0 / 2.4) - 0.055)


def texture_set(textures: Sequence[Texture]) -> TextureSet:
    """Build the mip chains of `textures` and lay them out in one array."""
    plain = np.arange(256) / 255.0
    decode = np.stack([plain, srgb_to_linear(plain)]).astype(np.float32)
    steps = np.linspace(0.0, 1.0, _ENCODE_STEPS)
    encode = np.stack([np.rint(steps * 255), np.rint(linear_to_srgb(steps) * 255)]).astype(np.uint8)
    levels = np.zeros((len(textures), _MAX_LEVELS, 3), np.int64)
    info = np.zeros((len(textures), 4), np.int64)
    total = 0
    for index, texture in enumerate(textures):
        height, width = texture.pixels.shape[:2]
        count = 0
        while count < _MAX_LEVELS:
            levels[index, count] = (total, width, height)
            total, count = total + width * height, count + 1
            if width == 1 and height == 1:
                break
            width, height = max(width // 2, 1), max(height // 2, 1)
        info[index] = (count, texture.wrap[0], texture.wrap[1], int(texture.srgb))
    texels = np.empty((max(total, 1), 4), np.uint8)
    for index, texture in enumerate(textures):
        start, width, height = levels[index, 0]
        texels[start : start + width * height] = texture.pixels.reshape(-1, 4)
        row = int(info[index, 3])
        for level in range(1, int(info[index, 0])):
            _halve(texels, levels[index, level - 1], levels[index, level], decode[row], encode[row])
    return TextureSet(texels=texels, levels=levels, info=info, decode=decode)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _halve(
    texels: UInt8,
    source: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    decode: Float32,
    encode: UInt8,
) -> None:
    start, width, height = source[0], source[1], source[2]
    out, narrow, low = target[0], target[1], target[2]
    for row in range(low):
        top = start + min(2 * row, height - 1) * width
        bottom = start + min(2 * row + 1, height - 1) * width
        for column in range(narrow):
            left, right = min(2 * column, width - 1), min(2 * column + 1, width - 1)
            for channel in range(3):
                mean = 0.25 * (
                    decode[texels[top + left, channel]]
                    + decode[texels[top + right, channel]]
                    + decode[texels[bottom + left, channel]]
                    + decode[texels[bottom + right, channel]]
                )
                texels[out, channel] = encode[int(mean * (_ENCODE_STEPS - 1) + 0.5)]
            alpha = (
                int(texels[top + left, 3])
                + int(texels[top + right, 3])
                + int(texels[bottom + left, 3])
                + int(texels[bottom + right, 3])
            )
            texels[out, 3] = (alpha + 2) >> 2
            out += 1


@inner
def _wrapped(index: int, size: int, mode: int) -> int:
    if 0 <= index < size:
        return index
    if mode == CLAMP:
        return 0 if index < 0 else size - 1
    if mode == MIRROR:
        index %= 2 * size
        return index if index < size else 2 * size - 1 - index
    return index % size


@inner
def _bilinear(
    textures: TextureSet, t: int, level: int, u: float, v: float, weight: float, out: npt.NDArray[np.float64]
) -> None:
    """Add `weight` times the RGBA at (u, v) in one level to `out` (4,)."""
    start, width, height = textures.levels[t, level]
    x, y = u * width - 0.5, v * height - 0.5
    left, top = math.floor(x), math.floor(y)
    for corner in range(4):
        dx, dy = corner & 1, corner >> 1
        share = (x - left if dx else left + 1.0 - x) * (y - top if dy else top + 1.0 - y) * weight
        column = _wrapped(left + dx, width, textures.info[t, 1])
        row = _wrapped(top + dy, height, textures.info[t, 2])
        texel = start + row * width + column
        for channel in range(3):
            out[channel] += share * textures.decode[textures.info[t, 3], textures.texels[texel, channel]]
        out[3] += share * textures.decode[0, textures.texels[texel, 3]]


@inner
def sample(textures: TextureSet, t: int, uv: npt.NDArray[np.float64], out: npt.NDArray[np.float64]) -> None:
    """Filtered RGBA (linear) of texture `t`, written to `out` (4,).

    uv: (6,) u, v, their change per pixel to the right, and their change per pixel down. Trilinear along the
    narrow axis of the pixel's footprint, with up to 4 taps along its long axis, so that a slanted label stays
    readable.
    """
    width, height = textures.levels[t, 0, 1], textures.levels[t, 0, 2]
    for n in range(6):
        # Written so that "not a number" fails too: what is no place in the image must not become an index.
        if not abs(uv[n]) < _MAX_UV:
            uv[:] = 0.0
    right, down = math.hypot(uv[2] * width, uv[3] * height), math.hypot(uv[4] * width, uv[5] * height)
    longest, shortest = max(right, down), min(right, down)
    taps = max(1, min(_MAX_TAPS, math.ceil(longest / max(shortest, 1e-6) - 0.25)))
    last = textures.info[t, 0] - 1
    lod = min(max(math.log2(max(longest / taps, 1e-6)), 0.0), float(last))
    fine = int(lod)
    axis = 2 if right > down else 4
    out[:4] = 0.0
    for tap in range(taps):
        shift = (tap + 0.5) / taps - 0.5
        u, v = uv[0] + uv[axis] * shift, uv[1] + uv[axis + 1] * shift
        for level in range(2):
            share = (lod - fine if level else fine + 1.0 - lod) / taps
            if share > 0.0:
                _bilinear(textures, t, min(fine + level, last), u, v, share, out)
