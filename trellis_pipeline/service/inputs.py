"""From `inputs.image` to the crop a generator takes: stored, looked up or fetched, then cut out if need be.

A picture that already is a square RGBA PNG passes byte for byte, so that a client which made its own crop
gets exactly that crop generated. Anything else is any photo, and is cropped the way the pipeline does it.
"""

from __future__ import annotations

import hashlib

from trellis_pipeline.errors import FieldFault, RequestInvalid, SourceImageError
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.imagery.headers import guess_kind, read_header
from trellis_pipeline.service.options import ServiceOptions

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
# PNG specification §11.2.2: the colour type is byte 25 of the file, and 6 is truecolour with alpha.
_COLOUR_TYPE_AT, _RGBA = 25, 6


def check_picture(picture: bytes, options: ServiceOptions, path: str) -> str:
    """The MIME type of a picture that may be kept.

    path: of the parameter, for the fault. Raises RequestInvalid for what is no PNG, JPEG or WebP, or too big.
    """
    header = read_header(picture)
    if header is None:
        kind = guess_kind(picture)
        raise _fault(path, "is not a PNG, JPEG or WebP image" + (f"; it looks like {kind}" if kind else ""))
    if len(picture) > options.max_image_bytes:
        raise _fault(path, f"is {len(picture)} bytes; the limit is {options.max_image_bytes}")
    if not 0 < header.width * header.height <= options.max_pixels:
        raise _fault(
            path, f"is {header.width} x {header.height} px; the limit is {options.max_pixels} pixels"
        )
    return _MIME[header.format]


def _fault(path: str, message: str) -> RequestInvalid:
    return RequestInvalid([FieldFault(path, message, "invalidImage")])


def is_crop(picture: bytes) -> bool:
    """Whether this is a square 8-bit RGBA PNG, judged by its header."""
    header = read_header(picture)
    return (
        header is not None
        and header.format == "PNG"
        and header.width == header.height
        and header.bit_depth == 8
        and picture[_COLOUR_TYPE_AT] == _RGBA
    )


def to_crop(picture: bytes, max_pixels: int) -> InputImage:
    """The crop of a picture. Slow for photos (a matte is made), so it belongs into a thread or a worker.

    Raises SourceImageError for a file that cannot be decoded, MatteError where nothing stands out in it.
    """
    if not is_crop(picture):
        from trellis_pipeline.imagery.make_crop import CropOptions, make_crop

        if read_header(picture) is None:
            raise SourceImageError("not a PNG, JPEG or WebP image")
        picture = make_crop(picture, CropOptions(max_pixels=max_pixels)).png
    return InputImage(picture, hashlib.sha256(picture).hexdigest())
