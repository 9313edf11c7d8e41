"""From traced light to the picture in the shop: noise away, exposure, the true alpha, file formats."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .camera import Camera
from .parts import Made
from .render import Exposure
from .shapes import Float

UInt8 = npt.NDArray[np.uint8]


def silhouette(made: Made, camera: Camera, size: int, oversample: int = 4) -> UInt8:
    """The true alpha, (size, size) uint8: the share of each pixel that the product covers."""
    wide = size * oversample
    canvas = Image.new("1", (wide, wide), 0)
    draw = ImageDraw.Draw(canvas)
    half = np.tan(np.radians(camera.fov / 2))
    for part in made.parts:
        seen = (part.surface.points - camera.eye) @ camera.axes().T
        image = seen[:, :2] / -seen[:, 2:] / half
        pixels = np.stack([(image[:, 0] + 1) / 2, (1 - image[:, 1]) / 2], 1) * wide - 0.5
        for corner in pixels[part.surface.triangles].reshape(-1, 6).tolist():
            draw.polygon(corner, fill=1)
    filled = np.asarray(canvas, dtype=np.float32).reshape(size, oversample, size, oversample)
    return np.rint(filled.mean(axis=(1, 3)) * 255).astype(np.uint8)


def clean(shot: Exposure, alpha: UInt8) -> Float:
    """Remove the tracer's noise. Returns linear RGB, (size, size, 3).

    The paper carries nothing but soft light, so its blur may grow with the distance from the product. On the
    product the light without the print is filtered (colour over albedo), so that the print stays sharp.
    """
    cover = alpha > 0
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    window = np.s_[max(0, rows[0] - 12) : rows[-1] + 13, max(0, columns[0] - 12) : columns[-1] + 13]
    albedo = shot.albedo[window] + 0.04
    light = (shot.colour[window] / albedo).astype(np.float32)
    noise = (shot.variance[window] / albedo**2).astype(np.float32)
    guides = np.dstack([shot.normal[window] * 1.4, shot.albedo[window] * 3.0, cover[window] * 3.0])
    out = shot.colour.copy()
    out[window] = _non_local_means(light, noise, guides.astype(np.float32)) * albedo
    return np.where(cover[..., None], out, _smooth_paper(out.astype(np.float32), ~cover))


def _smooth_paper(picture: npt.NDArray[np.float32], paper: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    import cv2
    from scipy import ndimage

    weight = paper.astype(np.float32)
    away = ndimage.distance_transform_edt(paper)
    out = picture.copy()
    for sigma, reach in ((1.2, 0.5), (2.5, 4.0), (5.0, 12.0), (10.0, 30.0), (28.0, 80.0)):
        blurred = cv2.GaussianBlur(picture * weight[..., None], (0, 0), sigma)
        blurred /= np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-4)[..., None]
        share = np.clip((away - reach) / reach, 0, 1)[..., None].astype(np.float32)
        out = out * (1 - share) + blurred * share
    return out


def _non_local_means(
    light: npt.NDArray[np.float32],
    noise: npt.NDArray[np.float32],
    guides: npt.NDArray[np.float32],
    radius: int = 5,
    strength: float = 0.6,
) -> Float:
    """Non-local means that knows each pixel's variance (Rousselle et al. 2012, eq. 4) and its guides."""
    import cv2

    variance = cv2.GaussianBlur(noise, (0, 0), 1.5) + 1e-7
    total, weights = light.astype(np.float64), np.ones(light.shape[:2])
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx == dy == 0:
                continue
            other, other_variance = np.roll(light, (dy, dx), (0, 1)), np.roll(variance, (dy, dx), (0, 1))
            both = variance + other_variance
            unlike = ((light - other) ** 2 - variance - np.minimum(variance, other_variance)) / (
                strength**2 * both
            )
            patch = np.maximum(cv2.blur(unlike.mean(axis=2), (5, 5)), 0)
            patch += ((guides - np.roll(guides, (dy, dx), (0, 1))) ** 2).sum(axis=2) / 0.03
            weight = np.exp(-patch)
            total += other * weight[..., None]
            weights += weight
    return np.asarray(total / weights[..., None])


def expose(colour: Float, white: float) -> UInt8:
    """Linear light to 8-bit sRGB: `white` becomes 0.80 linear; what is brighter rolls off, unclipped."""
    x = colour / white * 0.80
    knee = 0.8
    over = np.maximum(x - knee, 0)
    x = np.where(x > knee, knee + (1 - knee) * (1 - np.exp(-over / (1 - knee))), x)
    x = np.clip(x, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def encode(picture: UInt8, alpha: UInt8, kind: Literal["jpg", "png", "webp"]) -> bytes:
    """The file's bytes. PNG gets the true alpha and the product's own colour at its rim."""
    data = io.BytesIO()
    if kind == "png":
        from scipy import ndimage

        near = ndimage.distance_transform_edt(alpha < 255, return_distances=False, return_indices=True)
        product = picture[near[0], near[1]]
        rgba = np.dstack([np.where((alpha > 0)[..., None], product, 0), alpha])
        Image.fromarray(rgba.astype(np.uint8), "RGBA").save(data, "PNG", optimize=True)
    elif kind == "webp":
        Image.fromarray(picture, "RGB").save(data, "WEBP", quality=88, method=6)
    else:
        Image.fromarray(picture, "RGB").save(data, "JPEG", quality=90, subsampling=0, optimize=True)
    return data.getvalue()
