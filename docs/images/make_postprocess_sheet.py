"""Draws postprocess.jpg: true models, cut into voxels as a decoder leaves them, and made into models again.

python docs/images/make_postprocess_sheet.py
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions
from trellis_pipeline.mesh.postprocess.pipeline import postprocess
from trellis_pipeline.mesh.render import render_preview
from trellis_pipeline.review.contact_sheet import SheetRow, contact_sheet

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from voxel_models import Voxelised, voxelise_glb  # noqa: E402

TARGET = Path(__file__).with_name("postprocess.jpg")
SKUS = ("TEAPOT-CELADON-09", "STOOL-OAK-45", "ROBOT-TIN-7", "BOOT-RAIN-YELLOW-38")
RESOLUTION = 512
CELL_PX = 256


def made_again(voxels: Voxelised, *, remesh: bool) -> bytes:
    """The GLB that the post-process makes of a decoder's output."""
    options = PostprocessOptions(max_triangles=100_000, texture_px=2048, remesh=remesh)
    return write_glb(postprocess(voxels.surface, voxels.voxels, options).mesh)


def picture(glb: bytes) -> bytes:
    """A render as PNG."""
    png = io.BytesIO()
    Image.fromarray(render_preview(glb, px=CELL_PX)).save(png, "PNG")
    return png.getvalue()


def main() -> None:
    """Write the sheet: one row for each product."""
    rows = []
    for sku in SKUS:
        path = ROOT / f"catalogs/demo/truth/{sku}.glb"
        voxels = voxelise_glb(path, RESOLUTION)
        models = (
            path.read_bytes(),
            made_again(voxels, remesh=False),
            made_again(voxels, remesh=True),
        )
        rows.append(SheetRow(label=sku, images=tuple(map(picture, models))))
    sheet = contact_sheet(rows, cell_px=CELL_PX, columns=("true model", "without remesh", "remeshed"))
    Image.open(io.BytesIO(sheet)).convert("RGB").save(TARGET, quality=85)


if __name__ == "__main__":
    main()
