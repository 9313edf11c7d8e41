"""Photo bytes to RGBA pixels, for files that nobody vouches for.

Shops receive photos from suppliers: camera JPEGs on their side, CMYK from print, 16-bit scans, files whose
name lies. Three formats are accepted, the pixel limit is checked on the header before a decoder runs, and
whatever was changed on the way to 8-bit sRGB is said in `notes`. Animated files give their first frame:
it is what a shop shows as the still, and refusing them would only make somebody save that frame by hand.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.errors import SourceImageError
from trellis_pipeline.imagery.headers import begins_like, guess_kind, read_header
from trellis_pipeline.mesh.image_header import ImageHeader

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
# Pillow refuses more than this by itself (Image.MAX_IMAGE_PIXELS), so a higher setting would not help.
PILLOW_MAX_PIXELS = 89_478_485


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A photo as 8-bit sRGB.

    rgba: (H, W, 4) uint8, straight (not premultiplied) alpha. has_alpha: some pixel is not opaque.
    format: "PNG", "JPEG" or "WEBP". mode: Pillow's name of the stored pixel mode, e.g. "RGB", "CMYK", "P".
    width, height: pixels after orientation. notes: what was changed on the way, in words.
    """

    rgba: NDArray[np.uint8]
    has_alpha: bool
    format: str
    mode: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


def decode_image(data: bytes, *, max_pixels: int = 64_000_000) -> DecodedImage:
    """Decode one PNG, JPEG or WebP file.

    max_pixels: width × height above which nothing is decoded; Pillow's own 89 megapixels bound it.
    Raises SourceImageError, and nothing else, for every input that is not a usable photo. The message does
    not name the product: the caller knows it.
    """
    header = _checked_header(data, min(max_pixels, PILLOW_MAX_PIXELS))
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns about oddities (corrupt EXIF, palette transparency) that are handled below.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                return _to_rgba(opened, header)
        except MemoryError:
            raise SourceImageError(
                f"not enough memory to decode {header.width} x {header.height} px; lower imagery.max_pixels"
            ) from None
        except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
            raise SourceImageError(f"damaged {header.format}: {_reason(error)}") from None


def _checked_header(data: bytes, max_pixels: int) -> ImageHeader:
    if not data:
        raise SourceImageError("the file is empty")
    header = read_header(data)
    if header is None:
        if damaged := begins_like(data):
            raise SourceImageError(f"damaged {damaged}: its header states no size")
        kind = guess_kind(data)
        raise SourceImageError("not a PNG, JPEG or WebP image" + (f"; it looks like {kind}" if kind else ""))
    if header.width * header.height > max_pixels:
        raise SourceImageError(
            f"image is {header.width} x {header.height} px; "
            f"the limit is {max_pixels / 1e6:g} megapixels (imagery.max_pixels)"
        )
    return header


def _reason(error: Exception) -> str:
    """One short line about a decoder's exception."""
    text = " ".join(str(error).split())
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "the file is truncated"
    if not text or "BytesIO" in text:  # "cannot identify image file <_io.BytesIO …>" tells a user nothing
        return "the decoder cannot read it"
    return text[:200]


def _to_rgba(opened: Image.Image, header: ImageHeader) -> DecodedImage:
    from PIL import Image, ImageOps

    notes: list[str] = []
    mode = opened.mode
    if opened.size != (header.width, header.height):
        raise ValueError(f"the header says {header.width} x {header.height} px, the decoder {opened.size}")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        opened.seek(0)
        notes.append(f"first frame of {frames}")
    opened.load()
    profile = opened.info.get("icc_profile")
    image: Image.Image = opened
    try:
        upright = ImageOps.exif_transpose(opened)
    except Exception:  # noqa: BLE001 - an unreadable EXIF block must not cost the photo
        notes.append("unreadable EXIF ignored")
    else:
        # exif_transpose always copies, so only the tag tells whether something was turned.
        if opened.getexif().get(0x0112, 1) in range(2, 9):
            notes.append("EXIF orientation applied")
        image = upright

    if header.bit_depth == 16:
        notes.append("16-bit reduced to 8")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    rgb = _to_srgb(image, profile, notes)
    if alpha is not None:
        rgb.putalpha(alpha)
    rgba = np.array(rgb.convert("RGBA"), dtype=np.uint8)
    height, width = rgba.shape[:2]
    has_alpha = bool((rgba[..., 3] != 255).any())
    return DecodedImage(rgba, has_alpha, header.format, mode, width, height, tuple(notes))


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Colours of `image` as an RGB image in sRGB. Falls back to Pillow's plain conversion, and says so."""
    # lcms knows these modes; palettes and grey with alpha have to be unfolded first.
    plain = (
        image
        if image.mode in ("L", "RGB", "CMYK")
        else image.convert("L" if image.mode in ("1", "LA") else "RGB")
    )
    if profile:
        from PIL import ImageCms

        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = " ".join(ImageCms.getProfileDescription(embedded).split()) or "an unnamed profile"
            if "srgb" in name.lower():
                return plain.convert("RGB")
            converted = ImageCms.profileToProfile(
                plain, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append("unusable colour profile ignored")
        else:
            if converted is not None:
                notes.append(f"colours converted from {name[:60]}")
                return converted
    if plain.mode == "CMYK":
        notes.append("CMYK converted without a profile")
    return plain.convert("RGB")
