"""One photo's bytes to one crop, in one call: what a worker process runs for each product.

Everything in and out is plain, picklable data, and the same bytes give the same crop on every machine with
the same libraries, because a crop's hash decides whether a model has to be bought again.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.imagery.crop import SOLID_ALPHA, cut, object_box, shrink
from trellis_pipeline.imagery.decode import DecodedImage, decode_image
from trellis_pipeline.imagery.matte.choose import make_matte
from trellis_pipeline.imagery.matte.edges import clean_colours
from trellis_pipeline.imagery.thumbnail import thumbnail_webp
from trellis_pipeline.imagery.triage import TriageFlag, TriageLimits, triage


@dataclass(frozen=True, slots=True)
class CropOptions:
    """How to cut out. max_pixels: limit on the photo. matte, weights: see `matte.choose.make_matte`."""

    max_pixels: int = 64_000_000
    matte: str = "auto"
    triage: TriageLimits = field(default_factory=TriageLimits)
    weights: Path | None = None

    def shaping(self) -> dict[str, Any]:
        """Everything that makes another crop. Where weights lie does not: they are the same everywhere."""
        return {name: value for name, value in asdict(self).items() if name != "weights"}


@dataclass(frozen=True, slots=True)
class CropResult:
    """The crop and what is worth recording about it.

    png: RGBA, width × height pixels, square, at most 1024 on a side. object_share: part of the photo's area
    that is object, 0..1. agreement: IoU of two mattes, None where only one was made. thumbnail: a tiny WebP,
    see `thumbnail`.
    source_*: the photo after EXIF orientation. notes: what decoding and matting had to decide.
    """

    png: bytes
    width: int
    height: int
    matte_method: str
    agreement: float | None
    flags: tuple[TriageFlag, ...]
    object_share: float
    source_width: int
    source_height: int
    source_format: str
    source_mode: str
    notes: tuple[str, ...]
    thumbnail: bytes


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What a photo is, before anything is done with it. thumbnail: a tiny WebP, see `thumbnail`."""

    width: int
    height: int
    mode: str
    format: str
    has_alpha: bool
    notes: tuple[str, ...]
    thumbnail: bytes


def inspect_photo(photo: bytes, *, max_pixels: int = 64_000_000) -> PhotoFacts:
    """Facts about a photo file. Raises SourceImageError if it is not a usable photo."""
    image = decode_image(photo, max_pixels=max_pixels)
    return PhotoFacts(
        width=image.width,
        height=image.height,
        mode=image.mode,
        format=image.format,
        has_alpha=image.has_alpha,
        notes=image.notes,
        thumbnail=thumbnail_webp(image.rgba),
    )


def make_crop(photo: bytes, options: CropOptions) -> CropResult:
    """Decode, shrink to 1024 px, cut out, crop to the object and triage one photo.

    Raises SourceImageError for an unusable file, MatteError if it shows no object, ConfigError for a matte
    method that does not exist or is not installed.
    """
    source = decode_image(photo, max_pixels=options.max_pixels)
    rgba = shrink(source.rgba)
    height, width = rgba.shape[:2]
    small = DecodedImage(
        rgba, bool((rgba[..., 3] != 255).any()), source.format, source.mode, width, height, source.notes
    )
    matte = make_matte(small, options.matte, weights=options.weights)
    # A file's own alpha comes with the colours its maker wanted; a matte of ours leaves a rim of background.
    rgb = rgba[..., :3] if matte.method == "alpha" else clean_colours(rgba[..., :3], matte.alpha)
    cut_out = np.dstack([rgb, matte.alpha])
    box = object_box(matte.alpha)
    crop = cut(cut_out, box)
    flags = triage(
        matte.alpha,
        limits=options.triage,
        scale=max(source.width, source.height) / max(width, height),
        agreement=matte.agreement,
    )
    return CropResult(
        png=_png(crop),
        width=crop.shape[1],
        height=crop.shape[0],
        matte_method=matte.method,
        agreement=matte.agreement,
        flags=flags,
        object_share=float((matte.alpha > SOLID_ALPHA).mean()),
        source_width=source.width,
        source_height=source.height,
        source_format=source.format,
        source_mode=source.mode,
        notes=source.notes + matte.notes,
        thumbnail=thumbnail_webp(crop),
    )


def _png(rgba: NDArray[np.uint8]) -> bytes:
    """RGBA as a PNG. Level 3 is a third of the default's time for a few percent more bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
