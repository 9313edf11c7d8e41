"""The photo as the model was trained to see it: one object, cut out, filling a square on black.

A photo with a useful alpha channel is trusted; for any other the caller brings a matting function. The exact
arithmetic (the filter, where it rounds, that the square is one pixel short) follows the original, because
the encoder sees every pixel of it. What the line hands on was cut out by the same rule (`imagery.crop`); it
must not be cut out twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from trellis_pipeline.errors import MatteError

Matting = Callable[[Image.Image], Image.Image]
"""An RGB image to its matte: mode L, same size, 255 where the object is."""

MAX_EDGE_PX = 1024
OPAQUE_ABOVE = 204  # 0.8 of 255

# ImageNet statistics, which the encoder was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def cut_out(image: Image.Image, matting: Matting | None = None) -> Image.Image:
    """The object of a photo on black: a square RGB image, at most about 1024 pixels wide.

    image: any mode. matting: used where the image has no transparency.
    Raises MatteError if nothing is opaque, or if a matte is needed and there is no way to get one.
    """
    if "transparency" in image.info or image.mode in {"LA", "La", "RGBa", "PA"}:
        image = image.convert("RGBA")
    longest = max(image.size)
    if longest > MAX_EDGE_PX:
        scale = MAX_EDGE_PX / longest
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if not _alpha_is_useful(image):
        if matting is None:
            raise MatteError("the photo has no transparent background and no matting is configured")
        image = image.convert("RGB")
        image.putalpha(matting(image))
    square = image.crop(_square_around(np.asarray(image)[:, :, 3] > OPAQUE_ABOVE))
    rgba = np.asarray(square).astype(np.float32) / 255
    on_black = rgba[:, :, :3] * rgba[:, :, 3:]
    return Image.fromarray((on_black * 255).astype(np.uint8))


def encoder_input(square: Image.Image, size: int) -> Tensor:
    """A square RGB image as the encoder takes it: (1, 3, size, size) float32, normalised."""
    pixels = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS).convert("RGB"))
    scaled = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
    mean, std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]
    return ((scaled - mean) / std)[None]


def _alpha_is_useful(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)


def _square_around(opaque: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, upper, right, lower. May reach outside of the image, where it is transparent."""
    if not opaque.any():
        raise MatteError("nothing in the photo is opaque enough to be an object (alpha above 80 %)")
    columns, rows = np.flatnonzero(opaque.any(axis=0)), np.flatnonzero(opaque.any(axis=1))
    left, right, upper, lower = int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])
    half = max(right - left, lower - upper) // 2
    if half == 0:
        raise MatteError("the object in the photo is one pixel; is the alpha channel right?")
    middle_x, middle_y = (left + right) / 2, (upper + lower) / 2
    # Halves go to the even neighbour, as in Pillow's own crop.
    return round(middle_x - half), round(middle_y - half), round(middle_x + half), round(middle_y + half)
