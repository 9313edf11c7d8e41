"""Reading any GLB, also one that was made to harm its reader.

Models come from generators, from suppliers and from the command line, so no count, offset, index or
reference in them is believed. The container is taken apart first (specification §4.4); geometry is decoded
only when asked for, into world space, within limits that are checked before memory is allocated.
Whatever is wrong ends as a ModelFileError that names the place.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_accessors import AccessorReader, data_uri_bytes
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, numbers, optional_integer
from trellis_pipeline.mesh.types import Float32, Int32

MAX_JSON_BYTES = 16 * 2**20
MAX_NODES = 100_000
MAX_DEPTH = 256
MAX_PRIMITIVES = 20_000
MAX_TRIANGLES = 20_000_000
MAX_VERTICES = 20_000_000

POINTS_AND_LINES = (0, 1, 2, 3)
TRIANGLES, TRIANGLE_STRIP, TRIANGLE_FAN = 4, 5, 6

_MAGIC = b"glTF"
_JSON_CHUNK = 0x4E4F534A
_BIN_CHUNK = 0x004E4942
_IDENTITY: npt.NDArray[np.float64] = np.eye(4)

Matrix = npt.NDArray[np.float64]
ReadBytes = Callable[[int, int], bytes | memoryview]


@dataclass(frozen=True, slots=True)
class GlbHead:
    """A GLB's JSON, and where its binary chunk lies: byte offset in the file and length (0, 0 if none)."""

    document: dict[str, Any]
    file_bytes: int
    binary_offset: int
    binary_bytes: int


@dataclass(frozen=True, slots=True)
class GlbContainer:
    """A GLB taken apart: its JSON, its binary chunk (a view, no copy; empty if none), its size.

    binary_offset: where in the file the binary chunk's data begins.
    """

    document: dict[str, Any]
    binary: memoryview
    file_bytes: int
    binary_offset: int = 0


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


def parse_head(read: ReadBytes, file_bytes: int) -> GlbHead:
    """Take the container apart through `read(offset, length)`, touching only its headers and its JSON.

    Raises ModelFileError for a bad magic or version, for lengths that contradict the file, and for JSON that
    is over MAX_JSON_BYTES, nested too deep or not an object.
    """
    if file_bytes < 20:
        raise ModelFileError(f"not a GLB: {file_bytes} bytes are less than its header")
    magic, version, length, json_bytes, json_type = struct.unpack("<4sIIII", read(0, 20))
    if magic != _MAGIC:
        hint = "; a text glTF must be packed into a GLB first" if magic.lstrip()[:1] == b"{" else ""
        raise ModelFileError(f"not a GLB: it begins with {magic!r} instead of b'glTF'{hint}")
    if version != 2:
        raise ModelFileError(f"GLB version {version} is not supported, only version 2")
    if length != file_bytes:
        verb = "truncated" if length > file_bytes else "followed by other data"
        raise ModelFileError(f"the GLB says it has {length} bytes, the file has {file_bytes}: it is {verb}")
    if json_type != _JSON_CHUNK:
        raise ModelFileError("the GLB's first chunk is not its JSON")
    if 20 + json_bytes > file_bytes:
        raise ModelFileError(f"the JSON chunk claims {json_bytes} bytes of a file of {file_bytes}")
    if json_bytes > MAX_JSON_BYTES:
        raise ModelFileError(f"the JSON chunk has {json_bytes} bytes; at most {MAX_JSON_BYTES} are read")
    document = _parse_json(bytes(read(20, json_bytes)))
    offset = 20 + json_bytes
    if offset == file_bytes:
        return GlbHead(document, file_bytes, 0, 0)
    if offset + 8 > file_bytes:
        raise ModelFileError("the GLB ends inside the header of its second chunk")
    chunk_bytes, chunk_type = struct.unpack("<II", read(offset, 8))
    if offset + 8 + chunk_bytes > file_bytes:
        raise ModelFileError(
            f"the binary chunk claims {chunk_bytes} bytes; {file_bytes - offset - 8} are left in the file"
        )
    if chunk_type != _BIN_CHUNK:  # unknown chunks are to be ignored, and BIN can only be the second
        return GlbHead(document, file_bytes, 0, 0)
    return GlbHead(document, file_bytes, offset + 8, chunk_bytes)


def parse_glb(data: bytes | memoryview | mmap.mmap) -> GlbContainer:
    """Take a GLB apart without reading its geometry.

    Raises ModelFileError as `parse_head` does. The result refers to `data` and keeps it alive.
    """
    view = memoryview(data).cast("B")
    head = parse_head(lambda offset, length: view[offset : offset + length], len(view))
    start = head.binary_offset
    return GlbContainer(head.document, view[start : start + head.binary_bytes], head.file_bytes, start)


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


def scene_meshes(document: Json) -> list[tuple[int, Matrix]]:
    """(mesh index, 4x4 float64 world matrix) of every node that draws a mesh in the default scene.

    Without a default the first scene is taken; without scenes, every node that is nobody's child. Raises
    ModelFileError if a node is reached twice (a cycle or a shared child: the specification demands a tree),
    lies deeper than MAX_DEPTH, or if there are more than MAX_NODES.
    """
    nodes = members(document, "nodes", "document")
    if len(nodes) > MAX_NODES:
        raise ModelFileError(f"the file has {len(nodes)} nodes; at most {MAX_NODES} are read")
    found: list[tuple[int, Matrix]] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, Matrix, int]] = [(root, _IDENTITY, 0) for root in _roots(document, nodes)]
    waiting.reverse()
    while waiting:
        index, parent, depth = waiting.pop()
        node = entry(document, "nodes", index, "a scene or a node")
        if index in seen:
            raise ModelFileError(f"nodes[{index}] is reached twice; nodes must form a tree")
        if depth > MAX_DEPTH:
            raise ModelFileError(f"nodes[{index}] lies more than {MAX_DEPTH} levels deep")
        seen.add(index)
        local = _local_matrix(node, f"nodes[{index}]")
        world = parent if local is None else _product(parent, local)
        mesh = optional_integer(node, "mesh", f"nodes[{index}]")
        if mesh is not None:
            found.append((mesh, world))
        children = members(node, "children", f"nodes[{index}]")
        waiting.extend((inner, world, depth + 1) for inner in reversed(children))
        if len(waiting) > 2 * MAX_NODES:
            raise ModelFileError("the nodes' children refer to the same nodes over and over")
    return found


def primitive_counts(document: Json, primitive: Json, where: str) -> tuple[int, int]:
    """(vertices, triangles) of one primitive as its accessors declare them; (0, 0) for points and lines."""
    mode = integer(primitive, "mode", where, default=TRIANGLES)
    if mode in POINTS_AND_LINES:
        return 0, 0
    if mode > TRIANGLE_FAN:
        raise ModelFileError(f"{where}.mode {mode} is not a primitive mode of glTF")
    attributes = child(primitive, "attributes", where) or {}
    if "POSITION" not in attributes:
        return 0, 0
    position = entry(document, "accessors", attributes["POSITION"], f"{where}.POSITION")
    vertices = integer(position, "count", f"{where}.POSITION")
    corners = vertices
    if primitive.get("indices") is not None:
        accessor = entry(document, "accessors", primitive["indices"], f"{where}.indices")
        corners = integer(accessor, "count", f"{where}.indices")
    return vertices, corners // 3 if mode == TRIANGLES else max(corners - 2, 0)


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


def sniff_mime(head: bytes) -> str | None:
    """The MIME type that an image's first 16 bytes show, None if they are not PNG, JPEG, WebP or KTX2."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"\xabKTX 20\xbb\r\n\x1a\n"):
        return "image/ktx2"
    return None


def _parse_json(data: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise ModelFileError("the GLB's JSON is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelFileError(f"the GLB's JSON cannot be parsed: {error}") from None
    if not isinstance(document, dict):
        raise ModelFileError("the GLB's JSON must be an object")
    return document


def _roots(document: Json, nodes: list[Any]) -> list[Any]:
    scenes = members(document, "scenes", "document")
    if scenes:
        chosen = integer(document, "scene", "document", default=0)
        scene = entry(document, "scenes", chosen, "document.scene")
        return members(scene, "nodes", f"scenes[{chosen}]")
    children: set[Any] = set()
    for index, node in enumerate(nodes):
        if isinstance(node, dict):
            inner = members(node, "children", f"nodes[{index}]")
            children.update(item for item in inner if isinstance(item, int))
    return [index for index in range(len(nodes)) if index not in children]


def _local_matrix(node: Json, where: str) -> Matrix | None:
    """A node's own transform, None for the identity (specification §3.5.3)."""
    flat = numbers(node, "matrix", 16, where)
    if flat is not None:
        return np.array(flat).reshape(4, 4).T  # stored column by column
    translation = numbers(node, "translation", 3, where)
    rotation = numbers(node, "rotation", 4, where)
    scale = numbers(node, "scale", 3, where)
    if translation is None and rotation is None and scale is None:
        return None
    matrix = np.eye(4)
    if rotation is not None:
        x, y, z, w = rotation
        matrix[:3, :3] = (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    if scale is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            matrix[:3, :3] *= np.array(scale)
    if translation is not None:
        matrix[:3, 3] = translation
    return matrix


def _product(parent: Matrix, local: Matrix) -> Matrix:
    if parent is _IDENTITY:
        return local
    with np.errstate(over="ignore", invalid="ignore"):
        product: Matrix = parent @ local
    return product


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
    if matrix is _IDENTITY or np.array_equal(matrix, _IDENTITY):
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
