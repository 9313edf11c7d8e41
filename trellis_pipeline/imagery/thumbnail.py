"""A picture of a product small enough to stand inside every event's metadata.

Dagster's UI shows an inline picture only where its markdown is shorter than 1,000 characters; anything
longer becomes a link to click. 700 bytes of WebP stay below that in base64, and a hundred thousand of them
do not burden an event log.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 700
# Tried in turn, (longest side in pixels, WebP quality): the first that fits is taken.
_TRIES = (*((px, quality) for px in (96, 80, 64, 48) for quality in (45, 30, 18)), (32, 5), (16, 1))


def thumbnail_webp(rgba_or_bytes: NDArray[np.uint8] | bytes) -> bytes:
    """A WebP of at most 96 pixels a side and `MAX_BYTES`, transparent parts white.

    Takes (H, W, 4) or (H, W, 3) uint8, or the bytes of an image that our own code wrote; photos of unknown
    origin go through `decode_image` first.
    """
    image = _on_white(rgba_or_bytes)
    encoded = b""
    for px, quality in _TRIES:
        small = image.copy()
        small.thumbnail((px, px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality, method=6)
        encoded = buffer.getvalue()
        if len(encoded) <= MAX_BYTES:
            break
    return encoded


def _on_white(source: NDArray[np.uint8] | bytes) -> Image.Image:
    if isinstance(source, bytes):
        with Image.open(io.BytesIO(source), formats=("PNG", "JPEG", "WEBP")) as opened:
            image = opened.convert("RGBA")
    else:
        image = Image.fromarray(source).convert("RGBA")
    # Once to a moderate size, so that the tries below do not each start from the full photo.
    image.thumbnail((192, 192), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
