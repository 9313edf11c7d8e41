"""Small pictures of a product, stored inline in every event's metadata: each kilobyte counts."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 40_000
LIGHT, DARK = 255, 238  # the two greys of the checkerboard behind transparent pixels
CHECK_PX = 8


def thumbnail_png(rgba_or_bytes: NDArray[np.uint8] | bytes, px: int = 160) -> bytes:
    """A PNG of at most `px` × `px` pixels and 40 kB, transparent parts on a light checkerboard.

    Takes (H, W, 4) or (H, W, 3) uint8, or the bytes of an image that our own code wrote; photos of unknown
    origin go through `decode_image` first. Stored with a palette, a third of the true-colour size.
    """
    image = _on_checker(rgba_or_bytes, px)
    encoded = b""
    for colours in (128, 64, 32, 16):
        encoded = _encode(image.quantize(colours, method=Image.Quantize.MEDIANCUT), "PNG", optimize=True)
        if len(encoded) <= MAX_BYTES:
            break
    return encoded


def thumbnail_jpeg(rgba_or_bytes: NDArray[np.uint8] | bytes, px: int = 160) -> bytes:
    """The same as a JPEG, about half the size of the PNG."""
    return _encode(_on_checker(rgba_or_bytes, px), "JPEG", quality=82, optimize=True)


def _on_checker(source: NDArray[np.uint8] | bytes, px: int) -> Image.Image:
    if isinstance(source, bytes):
        with Image.open(io.BytesIO(source), formats=("PNG", "JPEG", "WEBP")) as opened:
            image = opened.convert("RGBA")
    else:
        image = Image.fromarray(source).convert("RGBA")
    image.thumbnail((px, px), Image.Resampling.LANCZOS)
    y, x = np.mgrid[0 : image.height, 0 : image.width] // CHECK_PX
    checker = np.where((x + y) % 2 == 0, LIGHT, DARK).astype(np.uint8)
    board = Image.fromarray(checker).convert("RGBA")
    return Image.alpha_composite(board, image).convert("RGB")


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()
