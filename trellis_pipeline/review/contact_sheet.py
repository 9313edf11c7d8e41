"""Contact sheets: many pictures of many products on one page, for documents and benchmarks.

A row per product, its pictures side by side at one size, so that a glance down a column compares products and
a glance along a row compares the photo with what was made of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import UInt8

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_PAPER = (255, 255, 255)
_CELL = (246, 246, 244)
_INK = (38, 38, 36)
_GAP = 8
_MAX_PIXELS = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One product. images: (H, W, 3 or 4) uint8 arrays or PNG, JPEG or WebP bytes; None leaves a gap."""

    label: str
    images: tuple[UInt8 | bytes | None, ...]


def contact_sheet(rows: Sequence[SheetRow], *, cell_px: int = 256, columns: Sequence[str] = ()) -> bytes:
    """Draw the rows as one PNG.

    cell_px: side of each square cell; pictures are scaled down to fit, never cut, and laid on light grey.
    columns: headings, one for each picture of a row, or none.

    Raises MeshError if there are no rows or no pictures, if an array is not a picture, or if the sheet would
    have more than 64 megapixels: split it then.
    """
    from PIL import Image, ImageDraw, ImageFont

    across = max((len(row.images) for row in rows), default=0)
    if across == 0:
        raise MeshError("a contact sheet needs at least one row with one picture")
    if cell_px < 16:
        raise MeshError(f"cells of {cell_px} px are too small; use at least 16")
    text_px = max(12, cell_px // 14)
    label_px, heading_px = text_px + 10, (text_px + 12 if columns else 0)
    width = _GAP + across * (cell_px + _GAP)
    height = heading_px + _GAP + len(rows) * (cell_px + label_px + _GAP)
    if width * height > _MAX_PIXELS:
        raise MeshError(f"a sheet of {width} x {height} px is too large; split the rows or use smaller cells")
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=text_px)
    for index, heading in enumerate(columns[:across]):
        place = (_GAP + index * (cell_px + _GAP) + cell_px // 2, heading_px // 2 + 4)
        pen.text(place, heading, fill=_INK, font=font, anchor="mm")
    top = heading_px + _GAP
    for row in rows:
        left = _GAP
        for image in row.images:
            pen.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), fill=_CELL)
            if image is not None:
                picture = _fitted(image, cell_px)
                place = (left + (cell_px - picture.width) // 2, top + (cell_px - picture.height) // 2)
                sheet.paste(picture, place, picture)
            left += cell_px + _GAP
        # Only the first line, and only what the font can draw: a label is a name, not a layout.
        label = " ".join(row.label.split())[: max(8, 2 * width // text_px)]
        pen.text((_GAP, top + cell_px + label_px // 2), label, fill=_INK, font=font, anchor="lm")
        top += cell_px + label_px + _GAP
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()


def _fitted(image: UInt8 | bytes, cell_px: int) -> PilImage:
    """The picture as RGBA, no larger than a cell."""
    from PIL import Image

    if isinstance(image, bytes):
        try:
            with Image.open(io.BytesIO(image), formats=["PNG", "JPEG", "WEBP"]) as opened:
                picture = opened.convert("RGBA")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise MeshError(f"a picture for the contact sheet cannot be decoded: {error}") from None
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in {3, 4}:
            raise MeshError(
                f"a picture must be (height, width, 3 or 4) uint8, not {array.shape} {array.dtype}"
            )
        picture = Image.fromarray(array).convert("RGBA")
    picture.thumbnail((cell_px, cell_px), Image.Resampling.LANCZOS)
    return picture
