"""Reading any GLB, also one that was made to harm its reader.

Models come from generators, from suppliers and from the command line, so no count, offset, index or
reference in them is believed. The container is taken apart first (`glb_container`); geometry is decoded
only when asked for, into world space, within limits that are checked before memory is allocated.
Whatever is wrong ends as a ModelFileError that names the place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_accessors import AccessorReader, data_uri_bytes
from trellis_pipeline.mesh.glb_container import GlbContainer, parse_glb
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, optional_integer
from trellis_pipeline.mesh.glb_scene import (
    IDENTITY,
    TRIANGLE_STRIP,
    TRIANGLES,
    Matrix,
    primitive_counts,
    scene_meshes,
)
from trellis_pipeline.mesh.image_header import sniff_mime
from trellis_pipeline.mesh.types import Float32, Int32

# Whoever reads geometry or images starts from the container.
__all__ = [
    "GlbContainer",
    "Primitive",
    "image_bytes",
    "parse_glb",
    "read_primitives",
    "texture_image",
]

MAX_PRIMITIVES = 20_000
MAX_TRIANGLES = 20_000_000
MAX_VERTICES = 20_000_000


@dataclass(frozen=True, slots=True)
class Primitive:
    """One draw call in world space. The arrays may be read-only views of the file.

    positions: (V, 3) float32, metres. triangles: (T, 3) int32, counter-clockwise from outside, each index
    below V. uvs: (V, 2) float32, first set. normals: (V, 3) float32, as stored, turned into world space.
    material: index into the document's materials.
    """

    positions: Float32
    triangles: Int32
    uvs: Float32 | None
    normals: Float32 | None
    material: int | None


def read_primitives(container: GlbContainer) -> tuple[Primitive, ...]:
    """Every triangle primitive of the default scene, in world space, repeated for each instance.

    Points and lines are left out. Indexed or not; lists, strips and fans; interleaved, sparse, quantized and
    normalized accessors. A node that mirrors (negative determinant) has its triangles turned so that they
    still face outwards.

    Raises ModelFileError for anything out of bounds, for more than MAX_TRIANGLES, MAX_VERTICES or
    MAX_PRIMITIVES in total, and for geometry compressed with Draco or meshopt.
    """
    document = container.document
    reader = AccessorReader(document, container.binary)
    found: list[Primitive] = []
    drawn = vertices = triangles = 0
    for mesh_index, matrix in scene_meshes(document):
        mesh = entry(document, "meshes", mesh_index, "node.mesh")
        for index, primitive in enumerate(members(mesh, "primitives", f"meshes[{mesh_index}]")):
            where = f"meshes[{mesh_index}].primitives[{index}]"
            if not isinstance(primitive, dict):
                raise ModelFileError(f"{where} must be an object")
            vertex_count, triangle_count = primitive_counts(document, primitive, where)
            drawn, vertices, triangles = drawn + 1, vertices + vertex_count, triangles + triangle_count
            if drawn > MAX_PRIMITIVES or vertices > MAX_VERTICES or triangles > MAX_TRIANGLES:
                raise ModelFileError(
                    f"the scene has over {MAX_PRIMITIVES} primitives, {MAX_VERTICES} vertices or "
                    f"{MAX_TRIANGLES} triangles; split or simplify it"
                )
            if triangle_count:
                found.append(_in_world(_read_primitive(reader, document, primitive, where), matrix))
    return tuple(found)


def texture_image(document: Json, texture_index: int) -> int:
    """The image index of a texture: its WebP, KTX2 or AVIF source where it has one, else the plain one."""
    where = f"textures[{texture_index}]"
    texture = entry(document, "textures", texture_index, "a material")
    extensions = child(texture, "extensions", where) or {}
    for name in ("EXT_texture_webp", "KHR_texture_basisu", "EXT_texture_avif"):
        extension = child(extensions, name, where)
        if extension is not None and "source" in extension:
            return integer(extension, "source", f"{where}.{name}")
    return integer(texture, "source", where)


def image_bytes(container: GlbContainer, texture_index: int) -> tuple[bytes, str]:
    """The encoded image of a texture and its MIME type, recognised by content before declaration.

    Raises ModelFileError if it lies outside the file (http:, file: and relative URIs are never followed),
    is out of bounds, or of a kind neither declared nor recognised.
    """
    index = texture_image(container.document, texture_index)
    image = entry(container.document, "images", index, f"textures[{texture_index}].source")
    where = f"images[{index}]"
    declared: object = image.get("mimeType")
    data: bytes
    if image.get("bufferView") is not None:
        reader = AccessorReader(container.document, container.binary)
        data = bytes(reader.view_bytes(image["bufferView"], f"{where}.bufferView")[0])
    elif "uri" in image:
        data, uri_mime = data_uri_bytes(image["uri"], where)
        declared = declared or uri_mime
    else:
        raise ModelFileError(f"{where} has neither a bufferView nor a uri")
    mime = sniff_mime(data[:16]) or declared
    if not isinstance(mime, str) or not mime:
        raise ModelFileError(f"{where} is of an unknown kind: it begins with {data[:8]!r}")
    return data, mime


def _read_primitive(reader: AccessorReader, document: Json, primitive: Json, where: str) -> Primitive:
    attributes = child(primitive, "attributes", where) or {}
    extensions = child(primitive, "extensions", where) or {}
    position = entry(document, "accessors", attributes["POSITION"], f"{where}.POSITION")
    if "KHR_draco_mesh_compression" in extensions and position.get("bufferView") is None:
        raise ModelFileError(
            f"{where} is compressed with KHR_draco_mesh_compression, which is not decoded here; "
            "write an uncompressed copy first, for example with `gltf-transform copy IN.glb OUT.glb`"
        )
    positions = reader.floats(attributes["POSITION"], f"{where}.POSITION", width=3)
    count = len(positions)
    if primitive.get("indices") is None:
        corners: npt.NDArray[np.int32] = np.arange(count, dtype=np.int32)
    else:
        corners = reader.indices(primitive["indices"], f"{where}.indices", vertex_count=count)
    mode = integer(primitive, "mode", where, default=TRIANGLES)
    optional: dict[str, Float32 | None] = {}
    for name, width in (("TEXCOORD_0", 2), ("NORMAL", 3)):
        optional[name] = None
        if attributes.get(name) is not None:
            values = reader.floats(attributes[name], f"{where}.{name}", width=width)
            if len(values) != count:
                raise ModelFileError(f"{where}.{name} has {len(values)} elements for {count} vertices")
            optional[name] = values
    return Primitive(
        positions=positions,
        triangles=_triangulated(corners, mode),
        uvs=optional["TEXCOORD_0"],
        normals=optional["NORMAL"],
        material=optional_integer(primitive, "material", where),
    )


def _triangulated(corners: npt.NDArray[np.int32], mode: int) -> Int32:
    """Triangles of a list, strip or fan (specification §3.7.2.1); corners that complete none are dropped."""
    if mode == TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    first = np.arange(len(corners) - 2)
    if mode == TRIANGLE_STRIP:
        odd = first % 2
        picks = np.stack([first, first + 1 + odd, first + 2 - odd], axis=1)
    else:
        picks = np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)
    return np.ascontiguousarray(corners[picks], dtype=np.int32)


def _in_world(primitive: Primitive, matrix: Matrix) -> Primitive:
    if matrix is IDENTITY or np.array_equal(matrix, IDENTITY):
        return primitive
    linear = matrix[:3, :3]
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a wild transform yields infinities: topology reports them
        positions = (primitive.positions @ linear.T + matrix[:3, 3]).astype(np.float32)
        mirrored = bool(np.linalg.det(linear) < 0)
        normals = primitive.normals
        if normals is not None:
            # The cofactor matrix is det(M) M^-T: right for normals, and defined where M is singular.
            a, b, c = linear
            cofactor = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
            turned = normals @ (-cofactor if mirrored else cofactor).T
            length = np.linalg.norm(turned, axis=1, keepdims=True)
            normals = np.divide(turned, length, out=np.zeros_like(turned), where=length > 0).astype(
                np.float32
            )
    triangles = primitive.triangles
    if mirrored:
        triangles = np.ascontiguousarray(triangles[:, ::-1])
    return Primitive(positions, triangles, primitive.uvs, normals, primitive.material)
