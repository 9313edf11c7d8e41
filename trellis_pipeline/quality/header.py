"""The header tier: what a GLB says about itself, in well under a millisecond whatever its size.

Counts, bounding box, materials and texture sizes all stand in a few kilobytes of JSON and in the first
bytes of each image. Nothing here touches a vertex, so a catalog of thousands of models can be listed at
once. The price is trust: a file may lie, and `inspect_glb` holds these figures against the decoded geometry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_accessors import NORMALIZED_SCALE, data_uri_bytes
from trellis_pipeline.mesh.glb_container import GlbContainer, GlbHead, ReadBytes, parse_glb, parse_head
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, numbers
from trellis_pipeline.mesh.glb_read import MAX_PRIMITIVES, texture_image
from trellis_pipeline.mesh.glb_scene import primitive_counts, scene_meshes
from trellis_pipeline.mesh.image_header import read_image_header, sniff_mime
from trellis_pipeline.quality.record import TextureFacts, Vec3

MAX_IMAGES = 4096

_SLOTS = {
    "baseColorTexture": "baseColor",
    "metallicRoughnessTexture": "metallicRoughness",
    "normalTexture": "normal",
    "occlusionTexture": "occlusion",
    "emissiveTexture": "emissive",
}


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the header declares. Counts are as drawn by the default scene, instances included.

    bbox_min_m, bbox_max_m: world-space corners from the accessors' min and max, exact unless a node rotates
    by other than right angles (then they enclose more); None if no accessor states them.
    without_normals, without_uvs: drawn primitives that lack the attribute.
    """

    document: Json
    file_bytes: int
    triangles: int
    vertices: int
    meshes: int
    primitives: int
    draw_calls: int
    nodes: int
    materials: int
    textures: tuple[TextureFacts, ...]
    bbox_min_m: Vec3 | None
    bbox_max_m: Vec3 | None
    without_normals: int
    without_uvs: int
    generator: str
    extensions_used: tuple[str, ...]
    extensions_required: tuple[str, ...]


def read_header(source: bytes | memoryview | Path) -> HeaderFacts:
    """The header facts of a GLB in memory or on disk; of a file only the few pieces needed are read.

    Raises ModelFileError for a file, container or JSON that cannot be read, and for references out of bounds.
    """
    if isinstance(source, Path):
        try:
            return _file_facts(source)
        except OSError as error:
            raise ModelFileError(f"{source} cannot be read: {error.strerror or error}") from error
    return container_facts(parse_glb(source))


def container_facts(container: GlbContainer) -> HeaderFacts:
    """The header facts of a container that is already taken apart. Raises as `read_header` does."""
    start, size = container.binary_offset, len(container.binary)
    head = GlbHead(container.document, container.file_bytes, start, size)
    return _facts(head, lambda offset, length: container.binary[offset - start : offset - start + length])


def _file_facts(path: Path) -> HeaderFacts:
    if not path.is_file():  # opening a pipe would wait for its other end
        raise ModelFileError(f"{path} cannot be read: there is no such file")
    descriptor = os.open(path, os.O_RDONLY)

    def read(offset: int, length: int) -> bytes:
        piece = os.pread(descriptor, length, offset)
        if len(piece) != length:
            raise ModelFileError(f"{path} became shorter while it was read")
        return piece

    try:
        return _facts(parse_head(read, os.fstat(descriptor).st_size), read)
    finally:
        os.close(descriptor)


def _facts(head: GlbHead, read: ReadBytes) -> HeaderFacts:
    document = head.document
    meshes = members(document, "meshes", "document")
    primitives = 0
    for index, mesh in enumerate(meshes):
        if isinstance(mesh, dict):
            primitives += len(members(mesh, "primitives", f"meshes[{index}]"))
    drawn = _drawn(document)
    asset = child(document, "asset", "document") or {}
    return HeaderFacts(
        document=document,
        file_bytes=head.file_bytes,
        triangles=drawn.triangles,
        vertices=drawn.vertices,
        meshes=len(meshes),
        primitives=primitives,
        draw_calls=drawn.draw_calls,
        nodes=len(members(document, "nodes", "document")),
        materials=len(members(document, "materials", "document")),
        textures=_textures(head, read),
        bbox_min_m=drawn.low,
        bbox_max_m=drawn.high,
        without_normals=drawn.without_normals,
        without_uvs=drawn.without_uvs,
        generator=str(asset.get("generator", ""))[:200],
        extensions_used=_names(document, "extensionsUsed"),
        extensions_required=_names(document, "extensionsRequired"),
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    triangles: int
    vertices: int
    draw_calls: int
    without_normals: int
    without_uvs: int
    low: Vec3 | None
    high: Vec3 | None


def _drawn(document: Json) -> _Drawn:
    triangles = vertices = calls = bare = flat = visited = 0
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for mesh_index, matrix in scene_meshes(document):
        mesh = entry(document, "meshes", mesh_index, "node.mesh")
        for index, primitive in enumerate(members(mesh, "primitives", f"meshes[{mesh_index}]")):
            where = f"meshes[{mesh_index}].primitives[{index}]"
            if not isinstance(primitive, dict):
                raise ModelFileError(f"{where} must be an object")
            visited += 1
            if visited > MAX_PRIMITIVES:
                raise ModelFileError(f"the scene draws over {MAX_PRIMITIVES} primitives; join or split it")
            count, faces = primitive_counts(document, primitive, where)
            if faces == 0:
                continue
            triangles, vertices, calls = triangles + faces, vertices + count, calls + 1
            attributes = child(primitive, "attributes", where) or {}
            bare += "NORMAL" not in attributes
            flat += "TEXCOORD_0" not in attributes
            accessor = entry(document, "accessors", attributes["POSITION"], f"{where}.POSITION")
            corners = _corners(accessor, f"{where}.POSITION")
            if corners is not None:
                with np.errstate(over="ignore", invalid="ignore"):
                    world = corners @ matrix[:3, :3].T + matrix[:3, 3]
                low, high = np.minimum(low, world.min(axis=0)), np.maximum(high, world.max(axis=0))
    known = bool(np.isfinite(low).all() and np.isfinite(high).all())
    return _Drawn(
        triangles, vertices, calls, bare, flat, _vec3(low) if known else None, _vec3(high) if known else None
    )


def _corners(accessor: Json, where: str) -> Any:
    low, high = numbers(accessor, "min", 3, where), numbers(accessor, "max", 3, where)
    if low is None or high is None:
        return None
    scale = 1.0
    if accessor.get("normalized") is True:
        scale = NORMALIZED_SCALE.get(integer(accessor, "componentType", where), 1.0)
    ends = np.array([low, high]) / scale
    return np.array([[ends[i & 1, 0], ends[i >> 1 & 1, 1], ends[i >> 2, 2]] for i in range(8)])


def _textures(head: GlbHead, read: ReadBytes) -> tuple[TextureFacts, ...]:
    document = head.document
    slots = texture_slots(document)
    facts: list[TextureFacts] = []
    decoded: dict[int, bytes] = {}
    images = members(document, "images", "document")
    if len(images) > MAX_IMAGES:
        raise ModelFileError(f"the file has {len(images)} images; at most {MAX_IMAGES} are read")
    for index, image in enumerate(images):
        if not isinstance(image, dict):
            raise ModelFileError(f"images[{index}] must be an object")
        inner, length = _image_reader(image, f"images[{index}]", head, read, decoded)
        header = read_image_header(inner, length)
        mime = header.mime if header else sniff_mime(bytes(inner(0, min(length, 16))))
        width, height = (header.width, header.height) if header else (0, 0)
        facts.append(
            TextureFacts(
                slot="+".join(slots.get(index, ())) or "unused",
                width=width,
                height=height,
                mime=mime or str(image.get("mimeType", ""))[:100],
                bytes=length,
                vram_bytes=width * height * 4 * 4 // 3,
            )
        )
    return tuple(facts)


def texture_slots(document: Json) -> dict[int, tuple[str, ...]]:
    """For each image that a material uses, the names of its slots in order of first use."""
    slots: dict[int, list[str]] = {}
    for index, material in enumerate(members(document, "materials", "document")):
        if not isinstance(material, dict):
            raise ModelFileError(f"materials[{index}] must be an object")
        for name, info in texture_infos(material):
            image = texture_image(document, integer(info, "index", f"materials[{index}].{name}"))
            names = slots.setdefault(image, [])
            if name not in names:
                names.append(name)
    return {image: tuple(names) for image, names in slots.items()}


def texture_infos(material: Json) -> list[tuple[str, Json]]:
    """(slot, textureInfo object) of every texture a material refers to, its extensions' included."""
    found: list[tuple[str, Json]] = []
    extensions = material.get("extensions")
    groups = [material, material.get("pbrMetallicRoughness")]
    groups += list(extensions.values()) if isinstance(extensions, dict) else []
    for group in groups:
        if isinstance(group, dict):
            for key, value in group.items():
                if key.endswith("Texture") and isinstance(value, dict) and "index" in value:
                    found.append((_SLOTS.get(key, key.removesuffix("Texture")), value))
    return found


def _image_reader(
    image: Json, where: str, head: GlbHead, read: ReadBytes, decoded: dict[int, bytes]
) -> tuple[ReadBytes, int]:
    """Access to one image's encoded bytes, checked to lie inside the file.

    decoded: `data:` buffers already decoded, so that many images in one buffer cost one decoding.
    """
    if image.get("bufferView") is None:
        data = data_uri_bytes(image.get("uri", ""), where)[0]
        return (lambda offset, length: data[offset : offset + length]), len(data)
    view = entry(head.document, "bufferViews", image["bufferView"], f"{where}.bufferView")
    start = integer(view, "byteOffset", where, default=0)
    size = integer(view, "byteLength", where)
    buffer = integer(view, "buffer", where)
    owner = entry(head.document, "buffers", buffer, f"{where}.bufferView")
    if buffer != 0 or owner.get("uri") is not None:
        if buffer not in decoded:
            decoded[buffer] = data_uri_bytes(owner.get("uri", ""), f"buffers[{buffer}]")[0]
        part = memoryview(decoded[buffer])[start : start + size]
        if len(part) != size:
            raise ModelFileError(f"{where} lies outside of buffers[{buffer}]")
        return (lambda offset, length: part[offset : offset + length]), size
    if start + size > head.binary_bytes:
        raise ModelFileError(
            f"{where} covers bytes {start} to {start + size} of a binary chunk of {head.binary_bytes}"
        )
    base = head.binary_offset + start
    return (lambda offset, length: read(base + offset, min(length, size - offset))), size


def _names(document: Json, key: str) -> tuple[str, ...]:
    return tuple(str(name)[:200] for name in members(document, key, "document"))


def _vec3(values: Any) -> Vec3:
    return (float(values[0]), float(values[1]), float(values[2]))
