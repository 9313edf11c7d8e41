"""From traced light to the picture in the shop: noise away, exposure, the true alpha, file formats."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .camera import Camera
from .parts import Made
from .shapes import Float

UInt8 = npt.NDArray[np.uint8]


def silhouette(made: Made, camera: Camera, size: int, oversample: int = 4) -> UInt8:
    """The true alpha, (size, size) uint8: the share of each pixel that the product covers, drawn from its triangles."""
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


def clean(colour: Float, alpha: UInt8, features: dict[str, Float]) -> Float:
    """Remove the tracer's noise from linear RGB. The paper is smoothed widely, the product only along itself.

    The paper carries nothing but soft light, so its blur may grow with the distance from the product; within the
    product, weights from normals, depth, albedo and the picture itself keep edges and print.
    """
    import cv2
    from scipy import ndimage

    picture = colour.astype(np.float32)
    paper = (alpha == 0).astype(np.float32)
    away = ndimage.distance_transform_edt(paper > 0)
    smooth = picture.copy()
    for sigma, reach in ((1.5, 1.0), (3.0, 5.0), (6.0, 16.0), (12.0, 40.0)):
        weight = cv2.GaussianBlur(paper, (0, 0), sigma)[..., None]
        blurred = cv2.GaussianBlur(picture * paper[..., None], (0, 0), sigma) / np.maximum(weight, 1e-4)
        share = np.clip((away - reach) / reach, 0, 1)[..., None].astype(np.float32)
        smooth = smooth * (1 - share) + blurred * share
    guides = np.dstack([features["normal"] * 2.0, features["albedo"] * 4.0, features["depth"][..., None] * 0])
    inside = _joint_filter(np.log1p(4 * picture), guides.astype(np.float32))
    inside = np.expm1(inside) / 4
    cover = (alpha > 0)[..., None]
    return np.where(cover, inside, smooth).astype(np.float64)


def _joint_filter(picture: npt.NDArray[np.float32], guides: npt.NDArray[np.float32], radius: int = 4) -> Float:
    """A cross-bilateral filter whose colour weight compares 3 x 3 patches (non-local means, Buades et al. 2005)."""
    import cv2

    total = np.zeros_like(picture)
    weights = np.zeros(picture.shape[:2], np.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            moved = np.roll(picture, (dy, dx), (0, 1))
            unlike = cv2.blur(((picture - moved) ** 2).sum(axis=2), (3, 3)) / 0.012
            unlike += ((guides - np.roll(guides, (dy, dx), (0, 1))) ** 2).sum(axis=2) / 0.02
            weight = np.exp(-unlike)
            total += moved * weight[..., None]
            weights += weight
    return total / weights[..., None]


def expose(colour: Float, white: float) -> UInt8:
    """Linear light to 8-bit sRGB: `white` becomes 0.86 linear, and what is brighter rolls off instead of clipping."""
    x = colour / white * 0.86
    knee = 0.8
    over = np.maximum(x - knee, 0)
    x = np.where(x > knee, knee + (1 - knee) * (1 - np.exp(-over / (1 - knee))), x)
    x = np.clip(x, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def encode(picture: UInt8, alpha: UInt8, kind: Literal["jpg", "png", "webp"]) -> bytes:
    """The file's bytes. PNG gets the true alpha, its rim filled with the product's own colour; the others keep the paper."""
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
