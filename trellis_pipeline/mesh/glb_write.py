"""GLB out: one textured mesh to one binary glTF 2.0 file, byte for byte repeatable.

General exporters decode and re-encode textures, leave out buffer view targets and stamp the file with
whatever their version writes. Here the image bytes go in as they are, every optional field that a
validator asks for is there, and the same mesh gives the same file, so that its hash can be its name.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, §3 the document, §4.4 the container.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import EncodedImage, Material, TexturedMesh

FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
WEBP = "EXT_texture_webp"
MAX_FILE_BYTES = 2**32 - 1  # the container counts its length in 32 bits
UNIT_TOLERANCE = 5e-4  # the Khronos validator allows a normal's length this far from 1
UV_TOLERANCE = 1e-4

Json = dict[str, object]


def write_glb(
    mesh: TexturedMesh,
    *,
    name: str = "model",
    extras: Mapping[str, object] | None = None,
    generator: str = "trellis-pipeline",
) -> bytes:
    """The mesh as a GLB file with one scene, node, mesh, primitive and material.

    name: of node and mesh. extras: JSON data for `asset.extras`; keys are sorted, so equal mappings give
    equal files. Images stand in the file as they were encoded; equal images are stored once. WebP images
    have no PNG or JPEG fallback here, so `EXT_texture_webp` is then declared as required. UVs are written
    with or without a texture.

    Raises MeshError for empty, misshapen or non-finite arrays, indices out of range, normals not of unit
    length, UVs outside 0..1, images whose bytes contradict their mime type, extras that are not JSON, and
    files of 4 GiB and more.
    """
    _check_geometry(mesh)
    index_type = np.uint16 if len(mesh.positions) <= 65535 else np.uint32  # 65535 itself restarts primitives
    body = _Body()
    accessors: list[Json] = [
        {
            "bufferView": body.add(mesh.triangles.astype(index_type).tobytes(), ELEMENT_ARRAY_BUFFER),
            "componentType": UNSIGNED_SHORT if index_type is np.uint16 else UNSIGNED_INT,
            "count": int(mesh.triangles.size),
            "type": "SCALAR",
        },
        {
            **_float_accessor(body, mesh.positions),
            "min": mesh.positions.min(axis=0).astype(np.float32).tolist(),
            "max": mesh.positions.max(axis=0).astype(np.float32).tolist(),
        },
        _float_accessor(body, mesh.normals),
        _float_accessor(body, mesh.uvs),
    ]
    primitive: Json = {
        "attributes": {"POSITION": 1, "NORMAL": 2, "TEXCOORD_0": 3},
        "indices": 0,
        "material": 0,
        "mode": 4,
    }
    asset: Json = {"version": "2.0", "generator": generator}
    if extras is not None:
        asset["extras"] = _plain_json(extras)
    document: Json = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "accessors": accessors,
    }
    document |= _material_fields(mesh.material, body)
    document["bufferViews"] = body.views
    document["buffers"] = [{"byteLength": len(body.data)}]
    return _container(document, bytes(body.data))


class _Body:
    """The binary chunk while it grows; every view starts on a multiple of four bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[Json] = []

    def add(self, content: bytes, target: int | None = None) -> int:
        """Append `content` and return the index of its buffer view."""
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)})
        if target is not None:
            self.views[-1]["target"] = target
        self.data += content
        self.data += bytes(-len(self.data) % 4)
        return len(self.views) - 1


def _float_accessor(body: _Body, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Json:
    view = body.add(np.ascontiguousarray(rows, dtype="<f4").tobytes(), ARRAY_BUFFER)
    return {"bufferView": view, "componentType": FLOAT, "count": len(rows), "type": f"VEC{rows.shape[1]}"}


def _material_fields(material: Material, body: _Body) -> Json:
    """`materials` and, if there are images, `images`, `textures`, `samplers` and extension declarations."""
    textures: dict[EncodedImage, int] = {}

    def texture(image: EncodedImage) -> Json:
        return {"index": textures.setdefault(image, len(textures))}

    pbr: Json = {"metallicFactor": float(material.metallic), "roughnessFactor": float(material.roughness)}
    if tuple(material.base_color_factor) != (1.0, 1.0, 1.0, 1.0):
        pbr["baseColorFactor"] = [float(c) for c in material.base_color_factor]
    entry: Json = {"name": material.name, "pbrMetallicRoughness": pbr}
    if material.base_color is not None:
        pbr["baseColorTexture"] = texture(material.base_color)
    if material.metallic_roughness is not None:
        pbr["metallicRoughnessTexture"] = texture(material.metallic_roughness)
        if material.occlusion_in_red:
            entry["occlusionTexture"] = texture(material.metallic_roughness)
    if material.normal is not None:
        entry["normalTexture"] = texture(material.normal)
    if material.alpha_mode != "OPAQUE":
        entry["alphaMode"] = material.alpha_mode
    if material.alpha_mode == "MASK":
        entry["alphaCutoff"] = float(material.alpha_cutoff)
    if material.double_sided:
        entry["doubleSided"] = True

    fields: Json = {"materials": [entry]}
    if not textures:
        return fields
    fields["textures"] = [
        {"sampler": 0, "extensions": {WEBP: {"source": source}}}
        if image.mime == "image/webp"
        else {"sampler": 0, "source": source}
        for image, source in textures.items()
    ]
    fields["images"] = [
        {"bufferView": body.add(_checked_image(image)), "mimeType": image.mime} for image in textures
    ]
    fields["samplers"] = [
        {
            "magFilter": LINEAR,
            "minFilter": LINEAR_MIPMAP_LINEAR,
            "wrapS": CLAMP_TO_EDGE,
            "wrapT": CLAMP_TO_EDGE,
        }
    ]
    if any(image.mime == "image/webp" for image in textures):
        fields["extensionsUsed"] = [WEBP]
        fields["extensionsRequired"] = [WEBP]
    return fields


def _container(document: Json, body: bytes) -> bytes:
    """Header, JSON chunk padded with spaces, binary chunk padded with zeros (specification §4.4)."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(body)
    if total > MAX_FILE_BYTES:
        raise MeshError(
            f"GLB would have {total} bytes; the format ends at {MAX_FILE_BYTES}. Use smaller textures"
        )
    header = struct.pack("<4sII", b"glTF", 2, total)
    return b"".join(
        (
            header,
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(body), b"BIN\0"),
            body,
        )
    )


def _check_geometry(mesh: TexturedMesh) -> None:
    vertex_count = len(mesh.positions)
    for field, rows, width in (
        ("positions", mesh.positions, 3),
        ("normals", mesh.normals, 3),
        ("uvs", mesh.uvs, 2),
    ):
        if rows.shape != (vertex_count, width):
            raise MeshError(f"{field} have shape {rows.shape}; expected ({vertex_count}, {width})")
        if not np.isfinite(rows).all():
            raise MeshError(f"{field} contain NaN or infinity")
    triangles = mesh.triangles
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise MeshError(f"triangles have shape {triangles.shape}; expected (T, 3)")
    if vertex_count == 0 or len(triangles) == 0:
        raise MeshError(f"nothing to write: {vertex_count} vertices, {len(triangles)} triangles")
    if triangles.min() < 0 or triangles.max() >= vertex_count:
        raise MeshError(
            f"triangles point at vertices {triangles.min()}..{triangles.max()}; there are {vertex_count}"
        )
    squared = np.einsum("ij,ij->i", mesh.normals, mesh.normals, dtype=np.float64)
    if np.abs(np.sqrt(squared) - 1).max() > UNIT_TOLERANCE:
        raise MeshError("normals are not of unit length; normals.vertex_normals makes them so")
    if mesh.uvs.min() < -UV_TOLERANCE or mesh.uvs.max() > 1 + UV_TOLERANCE:
        raise MeshError(f"uvs reach from {mesh.uvs.min():.4g} to {mesh.uvs.max():.4g}; the atlas is 0..1")


def _checked_image(image: EncodedImage) -> bytes:
    data = image.data
    looks_like = {
        "image/png": data[:8] == b"\x89PNG\r\n\x1a\n",
        "image/jpeg": data[:3] == b"\xff\xd8\xff",
        "image/webp": data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    }
    if not looks_like.get(image.mime, False):
        raise MeshError(f"an image says it is {image.mime}, but its first bytes are {data[:12]!r}")
    return data


def _plain_json(extras: Mapping[str, object]) -> object:
    try:
        return json.loads(json.dumps(dict(extras), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise MeshError(f"extras cannot be written as JSON: {problem}") from problem
