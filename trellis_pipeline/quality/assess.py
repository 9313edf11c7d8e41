"""A model held against the crop it was made from, bytes in and record out: what a worker process runs."""

from __future__ import annotations

import io

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.quality.inspect import inspect_glb
from trellis_pipeline.quality.record import QualityRecord


def assess(glb: bytes, crop_png: bytes) -> QualityRecord:
    """The quality record of `glb`, silhouette included. crop_png: the RGBA crop.

    Raises ModelFileError for a GLB or a crop that cannot be read.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(crop_png), formats=("PNG",)) as crop:
            alpha = np.asarray(crop.convert("RGBA").getchannel("A"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"the crop cannot be read ({error}); materialize product_crops again") from None
    return inspect_glb(glb, crop_alpha=alpha)
