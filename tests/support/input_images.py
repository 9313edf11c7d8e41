"""Pictures as a generator is handed them."""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from trellis_pipeline.generation.generator import InputImage


def as_input(image: Image.Image) -> InputImage:
    """As a PNG, with its hash."""
    file = io.BytesIO()
    image.save(file, "PNG")
    png = file.getvalue()
    return InputImage(png, hashlib.sha256(png).hexdigest())
