"""What colour is the object where the photo does not show it?

The front is the photo. Round the side and on the back there is only what the front suggests: its dominant
colours, in the same places, without its print. A mirrored copy would put mirrored logos on the back and a
stretched one streaks on the sides, so both get a calm colour field gathered from inside the outline, with a
grain as strong as the material's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

# Surface normals from here on (z component) begin to show the photo, and show nothing else.
PHOTO_FROM, PHOTO_FULL = 0.10, 0.42
GRAIN_SHARE = 0.55
GRAIN_MOST = 14.0
CALM_PX = 256  # the unseen sides carry no detail beyond this


@dataclass(frozen=True, slots=True)
class Palette:
    """Colour for every point of the object, sRGB 0..255.

    photo: (S, S, 3) uint8, the crop with its colours carried past the outline. calm: (c, c, 3) float32,
    for sides and back. grain: (c, c) float32, standard deviation of fine detail around each place.
    """

    photo: UInt8
    calm: Float32
    grain: Float32


def gather(rgba: UInt8, *, lathe: bool, rng: np.random.Generator) -> Palette:
    """Colours for the seen and the unseen sides of a crop.

    rgba: (S, S, 4) uint8, straight alpha. lathe: the object turns about a vertical axis, so bands of colour
    run around it. rng: varies how far colours are gathered.
    """
    import cv2

    size = rgba.shape[0]
    alpha = rgba[..., 3]
    pixels: Float32 = rgba[..., :3].astype(np.float32)
    rim = max(1, round(size / 400))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    body = cv2.erode((alpha >= 128).astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    # Edge pixels of a matte hold some background. Thin parts have nothing else, so they count a little.
    weight: Float32 = np.select(
        [body > 0, alpha >= 250, alpha >= 128], [np.float32(1.0), np.float32(0.05), np.float32(0.002)], 0.0
    ).astype(np.float32)
    photo = carry_outward(pixels, weight)

    c = min(CALM_PX, size)
    share = shrink(weight, c)
    mean = shrink(photo, c)
    breadth = float(rng.uniform(0.85, 1.2))
    if lathe:
        near = _dominant(mean, share, 0.10 * c * breadth, 0.008 * c)
        far = _dominant(mean, share, 0.22 * c * breadth, 0.014 * c)
    else:
        near = _dominant(mean, share, 0.02 * c * breadth, 0.02 * c * breadth)
        far = _dominant(mean, share, 0.12 * c * breadth, 0.12 * c * breadth)
    depth = cv2.distanceTransform((share > 0.3).astype(np.uint8), cv2.DIST_L2, 5) / (0.08 * c)
    inward = np.clip(depth, 0.0, 1.0)[..., None]
    mixed = np.asarray(near * (1 - inward) + far * inward, dtype=np.float32)
    calm = carry_outward(mixed, np.minimum(share * 4, 1.0).astype(np.float32))

    fine = photo - cv2.GaussianBlur(photo, (0, 0), max(1.0, size / 300))
    energy = shrink((fine**2).mean(axis=2) * weight, c)
    spread = 0.05 * c
    grain = np.sqrt(
        cv2.GaussianBlur(energy, (0, 0), spread) / np.maximum(cv2.GaussianBlur(share, (0, 0), spread), 1e-3)
    )
    return Palette(
        photo=np.clip(np.rint(photo), 0, 255).astype(np.uint8),
        calm=np.ascontiguousarray(calm, dtype=np.float32),
        grain=np.minimum(GRAIN_SHARE * grain, GRAIN_MOST).astype(np.float32),
    )


def carry_outward(image: Float32, weight: Float32) -> Float32:
    """Fill where weight is 0 with a smooth continuation of where it is 1 (pull-push, Gortler et al. 1996).

    image: (H, W, 3) float32. weight: (H, W) float32 in 0..1. Returns (H, W, 3) float32.
    """
    import cv2

    if min(weight.shape) <= 1 or weight.min() >= 1.0:
        total = max(float(weight.sum()), 1e-6)
        mean = (image * weight[..., None]).sum(axis=(0, 1)) / total
        return np.asarray(image * weight[..., None] + mean * (1 - weight[..., None]), dtype=np.float32)
    half = (max(1, (weight.shape[1] + 1) // 2), max(1, (weight.shape[0] + 1) // 2))
    thick = np.asarray(cv2.resize(weight, half, interpolation=cv2.INTER_AREA), dtype=np.float32)
    sums = cv2.resize(image * weight[..., None], half, interpolation=cv2.INTER_AREA)
    mean_colour = np.asarray(sums / np.maximum(thick, 1e-6)[..., None], dtype=np.float32)
    coarse = carry_outward(mean_colour, np.minimum(thick * 4, 1.0).astype(np.float32))
    up = cv2.resize(coarse, (weight.shape[1], weight.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image * weight[..., None] + up * (1 - weight[..., None]), dtype=np.float32)


def shrink(image: Float32, side: int) -> Float32:
    """Area average of (S, S) or (S, S, C) down to `side` cells a side."""
    import cv2

    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _dominant(mean: Float32, share: Float32, sigma_x: float, sigma_y: float) -> Float32:
    """Blur towards the colour that most of the neighbourhood has, so that print does not muddy it."""
    blurred = _weighted_blur(mean, share, sigma_x, sigma_y)
    for width in (60.0, 40.0):
        distance = ((mean - blurred) ** 2).sum(axis=2)
        trust = share * (np.exp(-distance / (2 * width**2)) + 0.02)
        blurred = _weighted_blur(mean, trust.astype(np.float32), sigma_x, sigma_y)
    return blurred


def _weighted_blur(image: Float32, weight: Float32, sigma_x: float, sigma_y: float) -> Float32:
    import cv2

    total = cv2.GaussianBlur(weight, (0, 0), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_CONSTANT)
    sums = cv2.GaussianBlur(
        image * weight[..., None], (0, 0), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(
        np.where(total[..., None] > 1e-4, sums / np.maximum(total, 1e-4)[..., None], image), dtype=np.float32
    )


@numba.njit(cache=True)
def _hash(x: int, y: int, z: int, seed: int) -> float:
    """A number in -1..1 for each lattice point (after Wang's 32-bit integer mix)."""
    h = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFF) / 32767.5 - 1.0


@numba.njit(cache=True)
def _noise(x: float, y: float, z: float, seed: int) -> float:
    ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    fx, fy, fz = x - ix, y - iy, z - iz
    total = 0.0
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                w = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * (fz if dz else 1 - fz)
                total += w * _hash(ix + dx, iy + dy, iz + dz, seed)
    return total


@numba.njit(cache=True)
def _paint(points, normal_z, photo, calm, grain, seed, low, high, out):  # type: ignore[no-untyped-def]
    size, c = photo.shape[0], calm.shape[0]
    for i in range(points.shape[0]):
        x, y = points[i, 0], 1.0 - points[i, 1]
        px = min(max(x * size - 0.5, 0.0), size - 1.001)
        py = min(max(y * size - 0.5, 0.0), size - 1.001)
        ix, iy = int(px), int(py)
        fx, fy = px - ix, py - iy
        cx = min(max(x * c - 0.5, 0.0), c - 1.001)
        cy = min(max(y * c - 0.5, 0.0), c - 1.001)
        jx, jy = int(cx), int(cy)
        gx, gy = cx - jx, cy - jy
        seen = min(max((normal_z[i] - low) / (high - low), 0.0), 1.0)
        seen = seen * seen * (3 - 2 * seen)
        speckle = 0.0
        if seen < 1.0:
            speckle = 0.6 * _noise(points[i, 0] * 420, points[i, 1] * 420, points[i, 2] * 420, seed)
            speckle += 0.9 * _noise(points[i, 0] * 170, points[i, 1] * 170, points[i, 2] * 170, seed + 1)
            speckle *= grain[jy, jx] * 1.6
        for k in range(3):
            value = 0.0
            if seen > 0.0:
                above = photo[iy, ix, k] * (1 - fx) + photo[iy, ix + 1, k] * fx
                below = photo[iy + 1, ix, k] * (1 - fx) + photo[iy + 1, ix + 1, k] * fx
                value += seen * (above * (1 - fy) + below * fy)
            if seen < 1.0:
                above = calm[jy, jx, k] * (1 - gx) + calm[jy, jx + 1, k] * gx
                below = calm[jy + 1, jx, k] * (1 - gx) + calm[jy + 1, jx + 1, k] * gx
                value += (1 - seen) * (above * (1 - gy) + below * gy + speckle)
            out[i, k] = np.uint8(min(max(value + 0.5, 0.0), 255.0))


def paint(points: Float32, normal_z: Float32, palette: Palette, *, seed: int) -> UInt8:
    """The colour of surface points.

    points: (N, 3) float32 in units of the crop's side: x right, y up from its lower edge, z towards the
    viewer. normal_z: (N,) float32, z component of the unit normal there. Returns (N, 3) uint8 sRGB.
    """
    out = np.empty((len(points), 3), np.uint8)
    _paint(
        np.ascontiguousarray(points, dtype=np.float32),
        np.ascontiguousarray(normal_z, dtype=np.float32),
        palette.photo,
        palette.calm,
        palette.grain,
        seed & 0xFFFF,
        PHOTO_FROM,
        PHOTO_FULL,
        out,
    )
    return out
