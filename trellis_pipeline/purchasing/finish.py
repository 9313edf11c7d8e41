"""From bought bytes to the file a shop takes: real size, birth certificate, preview.

The geometry and the textures stay as they came; only the GLB's JSON is rewritten. So this can be done again
at any time (a corrected height, a new title) without buying anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_read import parse_glb
from trellis_pipeline.quality.header import HeaderFacts, read_header

EXTRAS_KEY = "trellis_pipeline"

Dimensions = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class FinishedModel:
    """The GLB as it is published, with what its header says. preview_png: RGBA on transparent ground."""

    glb: bytes
    preview_png: bytes
    thumbnail: bytes
    triangles: int
    vertices: int
    max_texture_px: int


def finish_model(
    glb: bytes,
    certificate: Mapping[str, object],
    dimensions_m: Dimensions | None,
    *,
    preview_px: int = 512,
) -> FinishedModel:
    """Finish one model. Runs in a worker process.

    certificate: JSON-able facts, written to `asset.extras.trellis_pipeline`. dimensions_m: width, height and
    depth in metres; the first known of height, width, depth scales the model uniformly and stands it on the
    floor. None leaves geometry as it is, for generators that build to size.

    Raises ModelFileError when the GLB cannot be read or states no extent to scale by.
    """
    from trellis_pipeline.imagery.thumbnail import thumbnail_webp
    from trellis_pipeline.mesh.render import png_bytes, render_preview

    header = read_header(glb)
    finished = _rewrite(glb, header, certificate, dimensions_m)
    picture = render_preview(finished, px=preview_px)
    return FinishedModel(
        glb=finished,
        preview_png=png_bytes(picture),
        thumbnail=thumbnail_webp(picture),
        triangles=header.triangles,
        vertices=header.vertices,
        max_texture_px=max((max(t.width, t.height) for t in header.textures), default=0),
    )


def _rewrite(
    glb: bytes, header: HeaderFacts, certificate: Mapping[str, object], dimensions_m: Dimensions | None
) -> bytes:
    container = parse_glb(glb)
    document = container.document
    asset = document.setdefault("asset", {"version": "2.0"})
    extras = asset.get("extras")
    asset["extras"] = {**(extras if isinstance(extras, dict) else {}), EXTRAS_KEY: dict(certificate)}
    if dimensions_m is not None and any(dimensions_m):
        _scale(document, header, dimensions_m)
    return _pack(document, bytes(container.binary))


def _scale(document: dict[str, object], header: HeaderFacts, dimensions_m: Dimensions) -> None:
    """Hang the scene under one new node that scales it and moves its bottom centre to the origin."""
    if header.bbox_min_m is None or header.bbox_max_m is None:
        raise ModelFileError("the GLB does not state its extent (POSITION min and max), so it has no scale")
    low, high = header.bbox_min_m, header.bbox_max_m
    size = [top - bottom for bottom, top in zip(low, high, strict=True)]
    axis, wanted = next((a, d) for a in (1, 0, 2) if (d := dimensions_m[a]) is not None)
    if size[axis] <= 0:
        raise ModelFileError(
            f"the model is flat along axis {'xyz'[axis]}, so it cannot be scaled to {wanted} m"
        )
    factor = wanted / size[axis]
    offset = [-(low[0] + high[0]) / 2 * factor, -low[1] * factor, -(low[2] + high[2]) / 2 * factor]
    nodes, scenes = document.setdefault("nodes", []), document.setdefault("scenes", [{}])
    assert isinstance(nodes, list)
    assert isinstance(scenes, list)
    scene = scenes[int(str(document.get("scene", 0)))]
    nodes.append(
        {
            "name": "metres",
            "scale": [factor] * 3,
            "translation": offset,
            "children": scene.get("nodes", []),
        }
    )
    scene["nodes"] = [len(nodes) - 1]


def _pack(document: Mapping[str, object], binary: bytes) -> bytes:
    """A GLB container (specification §4.4): 12-byte header, JSON chunk, binary chunk, 4-byte alignment."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    if binary:
        body += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
