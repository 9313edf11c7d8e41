"""Writes a product as GLB: one mesh, one primitive a part, textures as JPEG. glTF 2.0, nothing optional."""

from __future__ import annotations

import io
import json
import struct

import numpy as np

from .parts import Finish, Made
from .shapes import corner_normals

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_ARRAY, _ELEMENTS = 34962, 34963


def linear(colour: str) -> tuple[float, float, float]:
    """An sRGB hex colour as linear RGB in 0..1 (IEC 61966-2-1)."""
    values = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    out = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return (float(out[0]), float(out[1]), float(out[2]))


def glb_bytes(made: Made, *, texture_px: int = 512) -> bytes:
    """The product as one binary glTF. Metres, Y up, +Z front, origin at the bottom centre.

    texture_px: longest side of a printed texture; it keeps the files small enough to commit.
    """
    chunks: list[bytes] = []
    views: list[dict[str, object]] = []
    accessors: list[dict[str, object]] = []
    document: dict[str, object] = {
        "asset": {"version": "2.0", "generator": "trellis-pipeline demo catalog", "copyright": "CC0-1.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": made.sku}],
    }

    def view(data: bytes, target: int | None) -> int:
        start = sum(len(c) for c in chunks)
        views.append(
            {"buffer": 0, "byteOffset": start, "byteLength": len(data)}
            | ({"target": target} if target else {})
        )
        chunks.append(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    def accessor(values: np.ndarray, kind: str, component: int, target: int) -> int:
        entry: dict[str, object] = {
            "bufferView": view(values.tobytes(), target),
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if kind == "VEC3" and not any(
            a.get("min") and a["bufferView"] == entry["bufferView"] for a in accessors
        ):
            entry |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        accessors.append(entry)
        return len(accessors) - 1

    finishes: list[Finish] = []
    primitives = []
    for part in made.parts:
        surface = part.surface
        corners = surface.triangles.ravel()
        table = np.concatenate(
            [
                surface.points[corners],
                np.round(corner_normals(surface).reshape(-1, 3), 4),
                np.round(surface.uvs.reshape(-1, 2) * part.finish.tiles, 5),
            ],
            axis=1,
        ).astype(np.float32)
        if part.finish.print is None:
            table = table[:, :6]
        unique, inverse = np.unique(table, axis=0, return_inverse=True)
        small = len(unique) < 65535
        indices = inverse.reshape(-1).astype(np.uint16 if small else np.uint32)
        attributes = {
            "POSITION": accessor(np.ascontiguousarray(unique[:, :3]), "VEC3", _FLOAT, _ARRAY),
            "NORMAL": accessor(_unit(unique[:, 3:6]), "VEC3", _FLOAT, _ARRAY),
        }
        if part.finish.print is not None:
            attributes["TEXCOORD_0"] = accessor(np.ascontiguousarray(unique[:, 6:]), "VEC2", _FLOAT, _ARRAY)
        if part.finish not in finishes:
            finishes.append(part.finish)
        primitives.append(
            {
                "attributes": attributes,
                "indices": accessor(indices, "SCALAR", _UINT16 if small else _UINT32, _ELEMENTS),
                "material": finishes.index(part.finish),
            }
        )
    images: list[dict[str, object]] = []
    materials = []
    for finish in finishes:
        surface_look: dict[str, object] = {
            "baseColorFactor": [*(round(c, 5) for c in linear(finish.colour)), 1.0],
            "metallicFactor": finish.metallic,
            "roughnessFactor": finish.roughness,
        }
        if finish.print is not None:
            picture = finish.print()
            picture.thumbnail((texture_px, texture_px))
            data = io.BytesIO()
            picture.save(data, "JPEG", quality=85)
            images.append({"bufferView": view(data.getvalue(), None), "mimeType": "image/jpeg"})
            surface_look["baseColorTexture"] = {"index": len(images) - 1}
        materials.append({"name": finish.name, "pbrMetallicRoughness": surface_look})
    document |= {"meshes": [{"name": made.sku, "primitives": primitives}], "materials": materials}
    if images:
        document |= {"images": images, "textures": [{"source": k} for k in range(len(images))]}
    body = b"".join(chunks)
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(body)}]}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(body))
    return (
        head
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(body), b"BIN\0")
        + body
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    long = vectors.astype(np.float64)
    return np.ascontiguousarray(long / np.linalg.norm(long, axis=1, keepdims=True), dtype=np.float32)
