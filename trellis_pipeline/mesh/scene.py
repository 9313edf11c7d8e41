"""A GLB as the renderer wants it: all primitives in one set of arrays, materials as rows of numbers.

Reading and drawing are kept apart, so the kernels see plain arrays only and everything that a file may leave
out (normals, texture coordinates, materials, samplers) has been given its default here.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError, ModelFileError
from trellis_pipeline.mesh import shading
from trellis_pipeline.mesh.camera import Box, Float64, box_of
from trellis_pipeline.mesh.glb_accessors import AccessorReader, accessor_format
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, numbers
from trellis_pipeline.mesh.glb_read import GlbContainer, Primitive, image_bytes, parse_glb, read_primitives
from trellis_pipeline.mesh.glb_scene import primitive_counts, scene_meshes
from trellis_pipeline.mesh.texels import CLAMP, MIRROR, REPEAT, Texture, TextureSet, texture_set
from trellis_pipeline.mesh.types import Float32, Int32, UInt8

_MAX_TEXTURE_PIXELS = 64 * 2**20
_WRAP = {33071: CLAMP, 33648: MIRROR, 10497: REPEAT}
_ALPHA_MODES = {"OPAQUE": shading.OPAQUE, "MASK": shading.MASK, "BLEND": shading.BLEND}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Everything to draw. positions, normals: (V, 3). uvs: (V, 2). colors: (V, 4) linear. All float32.

    faces: (T, 3) int32, those of opaque materials first: `opaque` of them. casters: those that throw shadows.
    face_material: (T,) int32 rows of `materials` (numbers) and `slots` (textures), see `shading`.
    used: (V,) the vertices that a triangle uses. box: their bounding box, metres.
    """

    positions: Float32
    normals: Float32
    uvs: Float32
    colors: Float32
    faces: Int32
    casters: Int32
    face_material: Int32
    opaque: int
    materials: Float64
    slots: npt.NDArray[np.int64]
    textures: TextureSet
    used: npt.NDArray[np.bool_]
    box: Box


def read_scene(glb: bytes, *, texture_px: int) -> Scene:
    """Read a GLB for drawing.

    texture_px: longest side of texture that the picture can show; larger JPEGs are decoded smaller.
    Raises ModelFileError for a file that cannot be read, MeshError if it has nothing to draw.
    """
    container = parse_glb(glb)
    primitives = [p for p in read_primitives(container) if len(p.triangles) and len(p.positions)]
    if not primitives:
        raise MeshError("the model has no triangles, so there is nothing to draw")
    materials, slots, textures = _materials(container, texture_px)
    offsets = np.cumsum([0] + [len(p.positions) for p in primitives])
    rows = [len(materials) - 1 if p.material is None else p.material for p in primitives]
    if max(rows) >= len(materials):
        raise ModelFileError(f"a primitive names materials[{max(rows)}]; there are {len(materials) - 1}")
    colors = _colors(container)
    order = sorted(
        range(len(primitives)), key=lambda n: materials[rows[n], shading.ALPHA_MODE] != shading.OPAQUE
    )
    faces = np.concatenate([primitives[n].triangles + np.int32(offsets[n]) for n in order]).astype(np.int32)
    face_material = np.repeat(
        np.array([rows[n] for n in order], np.int32), [len(primitives[n].triangles) for n in order]
    )
    modes = materials[face_material, shading.ALPHA_MODE]
    used = np.zeros(offsets[-1], np.bool_)
    used[faces.ravel()] = True
    positions = np.concatenate([p.positions for p in primitives])
    box = box_of(positions[used])
    return Scene(
        positions=positions,
        normals=np.concatenate([_normals(p) for p in primitives]),
        uvs=np.concatenate([_uvs(p) for p in primitives]),
        colors=np.concatenate([_four(c, len(p.positions)) for p, c in zip(primitives, colors, strict=True)]),
        faces=faces,
        casters=np.ascontiguousarray(faces[modes != shading.BLEND]),
        face_material=face_material,
        opaque=int(np.count_nonzero(modes == shading.OPAQUE)),
        materials=materials,
        slots=slots,
        textures=textures,
        used=used,
        box=box,
    )


def _normals(primitive: Primitive) -> Float32:
    """Stored normals; zeros, which mean flat shading, where there are none (specification §3.7.2.1)."""
    if primitive.normals is not None:
        return primitive.normals
    return np.zeros((len(primitive.positions), 3), np.float32)


def _colors(container: GlbContainer) -> list[Float32 | None]:
    """The vertex colours (linear) of the same primitives that `read_primitives` gives, in its order."""
    document, found = container.document, []
    reader = AccessorReader(document, container.binary)
    for index, _ in scene_meshes(document):
        for n, primitive in enumerate(members(document["meshes"][index], "primitives", f"meshes[{index}]")):
            where = f"meshes[{index}].primitives[{n}]"
            vertices, triangles = primitive_counts(document, primitive, where)
            if not (vertices and triangles):
                continue
            name = (child(primitive, "attributes", where) or {}).get("COLOR_0")
            width = (
                0 if name is None else accessor_format(entry(document, "accessors", name, where), where)[1]
            )
            found.append(reader.floats(name, f"{where}.COLOR_0", width=width) if width in {3, 4} else None)
    return found


def _four(colors: Float32 | None, count: int) -> Float32:
    """(count, 4) float32: the colours with alpha, white where there are none."""
    full = np.ones((count, 4), np.float32)
    if colors is not None and len(colors) == count:
        full[:, : colors.shape[1]] = colors
    return full


def _uvs(primitive: Primitive) -> Float32:
    if primitive.uvs is not None:
        return primitive.uvs
    return np.zeros((len(primitive.positions), 2), np.float32)


def _materials(container: GlbContainer, texture_px: int) -> tuple[Float64, npt.NDArray[np.int64], TextureSet]:
    """Rows of all materials, the default material last, and the textures they use."""
    document = container.document
    entries = [*members(document, "materials", "document"), {}]
    numbers_ = np.zeros((len(entries), shading.MATERIAL_COLUMNS))
    slots = np.full((len(entries), 5), -1, np.int64)
    known: dict[tuple[int, bool], int] = {}
    textures: list[Texture] = []

    def slot(owner: Json, key: str, where: str, *, srgb: bool) -> int:
        info = child(owner, key, where)
        if info is None:
            return -1
        index = integer(info, "index", f"{where}.{key}")
        if (index, srgb) not in known:
            known[index, srgb] = len(textures)
            textures.append(_texture(container, index, srgb=srgb, texture_px=texture_px))
        return known[index, srgb]

    for row, material in enumerate(entries):
        where = f"materials[{row}]"
        if not isinstance(material, dict):
            raise ModelFileError(f"{where} must be an object")
        pbr = child(material, "pbrMetallicRoughness", where) or {}
        numbers_[row, :4] = numbers(pbr, "baseColorFactor", 4, where) or (1.0, 1.0, 1.0, 1.0)
        numbers_[row, shading.METALLIC] = _number(pbr, "metallicFactor", where, 1.0)
        numbers_[row, shading.ROUGHNESS] = _number(pbr, "roughnessFactor", where, 1.0)
        mode = str(material.get("alphaMode", "OPAQUE"))
        numbers_[row, shading.ALPHA_MODE] = _ALPHA_MODES.get(mode, shading.OPAQUE)
        numbers_[row, shading.ALPHA_CUTOFF] = _number(material, "alphaCutoff", where, 0.5)
        normal = child(material, "normalTexture", where) or {}
        numbers_[row, shading.NORMAL_SCALE] = _number(normal, "scale", where, 1.0)
        occlusion = child(material, "occlusionTexture", where) or {}
        numbers_[row, shading.OCCLUSION] = _number(occlusion, "strength", where, 1.0)
        emissive = numbers(material, "emissiveFactor", 3, where) or (0.0, 0.0, 0.0)
        numbers_[row, shading.EMISSIVE : shading.EMISSIVE + 3] = emissive
        extensions = child(material, "extensions", where) or {}
        numbers_[row, shading.UNLIT] = float("KHR_materials_unlit" in extensions)
        slots[row, shading.BASE_TEXTURE] = slot(pbr, "baseColorTexture", where, srgb=True)
        slots[row, shading.METALLIC_TEXTURE] = slot(pbr, "metallicRoughnessTexture", where, srgb=False)
        slots[row, shading.NORMAL_TEXTURE] = slot(material, "normalTexture", where, srgb=False)
        slots[row, shading.OCCLUSION_TEXTURE] = slot(material, "occlusionTexture", where, srgb=False)
        if any(emissive):
            slots[row, shading.EMISSIVE_TEXTURE] = slot(material, "emissiveTexture", where, srgb=True)
    return numbers_, slots, texture_set(textures)


def _number(owner: Json, key: str, where: str, default: float) -> float:
    value = owner.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ModelFileError(f"{where}.{key} must be a finite number")
    return float(value)


def _texture(container: GlbContainer, index: int, *, srgb: bool, texture_px: int) -> Texture:
    data, mime = image_bytes(container, index)
    texture = entry(container.document, "textures", index, "a material")
    wrap = (REPEAT, REPEAT)
    if texture.get("sampler") is not None:
        sampler = entry(container.document, "samplers", texture["sampler"], f"textures[{index}].sampler")
        wrap = (
            _WRAP.get(sampler.get("wrapS", 10497), REPEAT),
            _WRAP.get(sampler.get("wrapT", 10497), REPEAT),
        )
    return Texture(_decoded(data, mime, f"textures[{index}]", texture_px), srgb, wrap)


def _decoded(data: bytes, mime: str, where: str, texture_px: int) -> UInt8:
    """(H, W, 4) uint8 pixels of an encoded image."""
    from PIL import Image

    formats = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
    if mime not in formats:
        raise ModelFileError(f"{where} is {mime}, which cannot be drawn; PNG, JPEG and WebP can")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[formats[mime]]) as image:
                if image.width * image.height > _MAX_TEXTURE_PIXELS:
                    raise ModelFileError(
                        f"{where} is {image.width} x {image.height} px; at most {_MAX_TEXTURE_PIXELS} pixels "
                        "are drawn"
                    )
                if max(image.size) > texture_px:
                    image.draft("RGB", (texture_px, texture_px))
                return np.asarray(image.convert("RGBA"))
    except ModelFileError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ModelFileError(f"{where} cannot be decoded: {error}") from None
