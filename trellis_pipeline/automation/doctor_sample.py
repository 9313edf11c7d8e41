"""The one model that `doctor --live` buys: the picture that goes in, and what is seen of what comes out."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict

from trellis_pipeline.generation.runware.failures import clean_text
from trellis_pipeline.generation.runware.probe import Found


def plain_vase() -> bytes:
    """A plain vase on a transparent ground, as a PNG: simple, whole, and nobody's product."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    for step in range(64):  # light from the left
        shade = 1.0 - step / 128
        colour = (round(190 * shade), round(110 * shade), round(70 * shade), 255)
        inset = step * 2
        draw.ellipse((136 + inset, 190, 376, 450), fill=colour)
        draw.rectangle((206 + inset * 0.4, 80, 306, 230), fill=colour)
    draw.ellipse((190, 62, 322, 98), fill=(150, 86, 54, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def model_found(glb: bytes, triangles_asked: int) -> Found:
    """What a bought GLB is made of. Raises ModelFileError where it cannot be read."""
    from trellis_pipeline.quality.header import read_header

    header = read_header(glb)
    materials = [m for m in header.document.get("materials", []) if isinstance(m, dict)]
    modes = sorted({clean_text(str(material.get("alphaMode", "OPAQUE")), most=20) for material in materials})
    normal = any("normalTexture" in material for material in materials)
    textures = [f"{t.slot} {t.width} x {t.height} {t.mime}" for t in header.textures]
    extensions = ", ".join(header.extensions_used) or "none"
    return Found(
        (
            f"{header.triangles:,} triangles of {triangles_asked:,} asked for, {len(glb) / 1e6:.1f} MB",
            f"textures: {', '.join(textures) or 'none'}; {'a' if normal else 'no'} normal map",
            f"alphaMode {', '.join(modes) or 'none'}; extensions {extensions}",
        ),
        {
            "file_bytes": len(glb),
            "sha256": hashlib.sha256(glb).hexdigest(),
            "triangles": header.triangles,
            "triangles_asked": triangles_asked,
            "vertices": header.vertices,
            "alpha_modes": modes,
            "normal_map": normal,
            "textures": [asdict(texture) for texture in header.textures],
            "extensions_used": list(header.extensions_used),
            "generator": clean_text(header.generator, most=80),
        },
    )
