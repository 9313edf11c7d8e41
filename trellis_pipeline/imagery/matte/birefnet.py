"""BiRefNet: outlines down to hair and wire, from a network of 973 MB that the user fetches.

`trellis-pipeline weights fetch --matte` brings the file: an export to ONNX of the authors' network for
general use (Zheng et al., "Bilateral Reference for High-Resolution Dichotomous Image Segmentation", 2024,
MIT). It has the architecture of the original pipeline's matte, whose own weights allow no commercial use. It
sees 1024 × 1024 pixels and answers with logits.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.errors import WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.published import MATTE_FILES

SIDE = 1024
# ImageNet statistics, as in the network's training code.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_STEEP = 30.0  # logits beyond this are 0 or 1 in float32


def network_path(weights: Path) -> Path:
    """Where the network lies below the weights folder."""
    return weights / MATTE_FILES[0].place


def object_probability(rgb: NDArray[np.uint8], network: Path) -> NDArray[np.float32]:
    """Probability (H, W) float32 in 0..1 that a pixel of (H, W, 3) uint8 sRGB belongs to the object.

    Raises WeightsMissing if the network is not there, WeightsInvalid if it is not this network.
    """
    from PIL import Image

    height, width = rgb.shape[:2]
    # Pillow's filters widen when they shrink, as those do that the network was trained behind.
    square = Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(square, dtype=np.float32) / 255 - MEAN) / STD
    session = _session(network)
    # The network's earlier outputs, where an export has them, are coarser.
    answer = session.run(
        [session.get_outputs()[-1].name],
        {session.get_inputs()[0].name: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])},
    )[0]
    if answer.shape != (1, 1, SIDE, SIDE):
        raise WeightsInvalid(f"{network} answers with shape {answer.shape}; it is not BiRefNet")
    logits = np.clip(np.asarray(answer[0, 0], dtype=np.float32), -_STEEP, _STEEP)
    share = Image.fromarray(1 / (1 + np.exp(-logits)))
    resized = np.asarray(share.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(resized, 0, 1)


@functools.lru_cache(maxsize=1)
def _session(network: Path) -> Any:
    """One inference session per process: it takes seconds to load and gigabytes to keep."""
    import onnxruntime

    if not network.is_file():
        raise WeightsMissing(
            f'{network} does not exist, and imagery.matte = "birefnet" needs it; run '
            "`trellis-pipeline weights fetch --matte`"
        )
    options = onnxruntime.SessionOptions()
    # Sums over several threads differ in their last digits, and a crop has to be the same everywhere.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsInvalid(
            f"{network} is damaged or not an ONNX network; `trellis-pipeline weights fetch --matte` mends it"
        ) from error
