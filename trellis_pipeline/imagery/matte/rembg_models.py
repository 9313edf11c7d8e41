"""Any model of the `rembg` package, for those who installed it and let it download weights.

`rembg:isnet-general-use` and its siblings give finer outlines than u2netp. Their licences differ from this
project's and from one another, so none is bundled and none is a default.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.errors import ConfigError

PREFIX = "rembg:"


def object_probability(rgb: NDArray[np.uint8], model: str) -> NDArray[np.float32]:
    """Probability (H, W) float32 in 0..1 for (H, W, 3) uint8 sRGB by the rembg model of that name.

    Raises ConfigError if rembg is not installed or does not know the model.
    """
    from PIL import Image

    rembg, session = _session(model)
    mask = rembg.remove(Image.fromarray(rgb), session=session, only_mask=True)
    return (np.asarray(mask.convert("L")) / 255).astype(np.float32)


@functools.cache
def _session(model: str) -> tuple[Any, Any]:
    """rembg and one of its sessions, which load their weights once per process."""
    try:
        # Asked by distribution: the package with the u2netp weights installs a module `rembg` as well.
        importlib.metadata.version("rembg")
        import rembg
    except (importlib.metadata.PackageNotFoundError, ImportError):
        raise ConfigError(
            f'the matte method {PREFIX}{model} needs the package rembg: pip install "rembg[cpu]", '
            'or set imagery.matte = "auto"'
        ) from None
    try:
        return rembg, rembg.new_session(model)
    except ValueError as error:
        raise ConfigError(f"rembg has no model {model!r}: {error}") from None
