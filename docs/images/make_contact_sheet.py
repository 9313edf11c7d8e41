"""Draws demo.jpg, the contact sheet in the README, from what a demo run left in its output folder.

python docs/images/make_contact_sheet.py OUTPUT/demo
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from trellis_pipeline.mesh.render import render_preview
from trellis_pipeline.review.contact_sheet import SheetRow, contact_sheet

TARGET = Path(__file__).with_name("demo.jpg")
CELL_PX = 190
PRODUCTS_PER_ROW = 2


def product_pictures(folder: Path) -> tuple[bytes, bytes, bytes]:
    """The photo, the draft as the line rendered it, and the draft from behind, as image bytes."""
    photo = next(folder.glob("photo.*")).read_bytes()
    back = Image.fromarray(render_preview((folder / "model.glb").read_bytes(), px=256, view="back"))
    png = io.BytesIO()
    back.save(png, "PNG")
    return photo, (folder / "preview.png").read_bytes(), png.getvalue()


def main(output: Path) -> None:
    """Write the sheet as a JPEG small enough for a README."""
    folders = sorted(path for path in (output / "products").iterdir() if (path / "model.glb").is_file())
    rows = []
    for start in range(0, len(folders), PRODUCTS_PER_ROW):
        chosen = folders[start : start + PRODUCTS_PER_ROW]
        pictures = tuple(picture for folder in chosen for picture in product_pictures(folder))
        rows.append(SheetRow(label="   |   ".join(folder.name for folder in chosen), images=pictures))
    headings = ("photo", "draft", "draft, back") * PRODUCTS_PER_ROW
    sheet = contact_sheet(rows, cell_px=CELL_PX, columns=headings)
    with Image.open(io.BytesIO(sheet)) as picture:
        picture.convert("RGB").save(TARGET, quality=82, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
