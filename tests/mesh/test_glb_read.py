"""GLBs written byte by byte, so that each of them can be wrong in exactly one way."""

from __future__ import annotations

import base64
import copy
import json
import mmap
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_container import MAX_JSON_BYTES
from trellis_pipeline.mesh.glb_read import (
    MAX_TRIANGLES,
    Primitive,
    image_bytes,
    parse_glb,
    read_primitives,
)

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 2, 0]], np.float32)


def pack(document: dict[str, Any], binary: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def quad(**changes: Any) -> tuple[dict[str, Any], bytes]:
    """A document that draws two triangles from 48 bytes of positions and 12 of 16-bit indices."""
    binary = POINTS.tobytes() + np.array([0, 1, 2, 2, 1, 3], np.uint16).tobytes()
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 12},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "type": "VEC3",
                "count": 4,
                "min": [0, 0, 0],
                "max": [1, 2, 0],
            },
            {"bufferView": 1, "componentType": 5123, "type": "SCALAR", "count": 6},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    document.update(changes)
    return document, binary


def read(document: dict[str, Any], binary: bytes) -> tuple[Primitive, ...]:
    return read_primitives(parse_glb(pack(document, binary)))


def one(document: dict[str, Any], binary: bytes) -> Primitive:
    (primitive,) = read(document, binary)
    return primitive


def corners(primitive: Primitive) -> list[list[list[float]]]:
    return primitive.positions[primitive.triangles].tolist()  # type: ignore[no-any-return]


# What a file may hold.


def test_positions_and_indices_come_back_as_written() -> None:
    primitive = one(*quad())
    assert np.array_equal(primitive.positions, POINTS)
    assert primitive.triangles.tolist() == [[0, 1, 2], [2, 1, 3]]
    assert primitive.positions.dtype == np.float32
    assert primitive.triangles.dtype == np.int32
    assert (primitive.uvs, primitive.normals, primitive.material) == (None, None, None)


def test_a_mapped_file_is_read_like_bytes(tmp_path: Any) -> None:
    path = tmp_path / "quad.glb"
    path.write_bytes(pack(*quad()))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        container = parse_glb(mapped)
        positions = read_primitives(container)[0].positions.copy()
        container.binary.release()
        del container
    assert np.array_equal(positions, POINTS)


@pytest.mark.parametrize(("component", "dtype"), [(5121, np.uint8), (5123, np.uint16), (5125, np.uint32)])
def test_every_index_type_gives_the_same_triangles(component: int, dtype: Any) -> None:
    document, _ = quad()
    binary = POINTS.tobytes() + np.array([0, 1, 2, 2, 1, 3], dtype).tobytes()
    document["buffers"][0]["byteLength"] = len(binary)
    document["bufferViews"][1]["byteLength"] = len(binary) - 48
    document["accessors"][1]["componentType"] = component
    assert one(document, binary).triangles.tolist() == [[0, 1, 2], [2, 1, 3]]


def test_without_indices_vertices_are_taken_in_order() -> None:
    document, binary = quad()
    del document["meshes"][0]["primitives"][0]["indices"]
    assert one(document, binary).triangles.tolist() == [[0, 1, 2]], "the fourth vertex completes no triangle"


@pytest.mark.parametrize(
    ("mode", "expected"), [(5, [[0, 1, 2], [1, 3, 2]]), (6, [[1, 2, 0], [2, 3, 0]])], ids=["strip", "fan"]
)
def test_strips_and_fans_become_triangles_wound_as_the_specification_says(mode: int, expected: Any) -> None:
    document, binary = quad()
    document["meshes"][0]["primitives"][0] = {"attributes": {"POSITION": 0}, "mode": mode}
    assert one(document, binary).triangles.tolist() == expected


def test_points_and_lines_are_left_out() -> None:
    document, binary = quad()
    document["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})
    assert len(read(document, binary)) == 1


def test_interleaved_vertices_are_taken_apart() -> None:
    uvs = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (4, 1))
    binary = np.concatenate([POINTS, normals, uvs], axis=1).tobytes()
    document, _ = quad(
        buffers=[{"byteLength": len(binary)}],
        bufferViews=[{"buffer": 0, "byteLength": len(binary), "byteStride": 32}],
        accessors=[
            {"bufferView": 0, "byteOffset": offset, "componentType": 5126, "type": kind, "count": 4}
            for offset, kind in ((0, "VEC3"), (12, "VEC3"), (24, "VEC2"))
        ],
        meshes=[
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "mode": 5, "material": 7}
                ]
            }
        ],
    )
    primitive = one(document, binary)
    assert np.array_equal(primitive.positions, POINTS)
    assert primitive.normals is not None
    assert np.array_equal(primitive.normals, normals)
    assert primitive.uvs is not None
    assert np.array_equal(primitive.uvs, uvs)
    assert primitive.material == 7


def test_normalized_integers_become_fractions() -> None:
    uvs = np.array([[0, 65535], [65535, 0], [32768, 0], [0, 0]], np.uint16)
    document, binary = quad()
    binary = binary + uvs.tobytes()
    document["buffers"][0]["byteLength"] = len(binary)
    document["bufferViews"].append({"buffer": 0, "byteOffset": 60, "byteLength": 16})
    document["accessors"].append(
        {"bufferView": 2, "componentType": 5123, "normalized": True, "type": "VEC2", "count": 4}
    )
    document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"] = 2
    result = one(document, binary).uvs
    assert result is not None
    assert result[:2].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert result[2, 0] == pytest.approx(32768 / 65535)


def test_quantized_positions_are_read_and_their_lowest_value_is_minus_one() -> None:
    points = np.array([[-128, 0, 127], [127, 0, 0], [0, 127, 0]], np.int8)
    document, _ = quad(
        buffers=[{"byteLength": 9}],
        bufferViews=[{"buffer": 0, "byteLength": 9}],
        accessors=[{"bufferView": 0, "componentType": 5120, "normalized": True, "type": "VEC3", "count": 3}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}}]}],
    )
    assert one(document, points.tobytes()).positions[0].tolist() == [-1.0, 0.0, 1.0]


def test_a_sparse_accessor_replaces_single_vertices() -> None:
    document, binary = quad()
    binary += struct.pack("<HH3f", 3, 0, 9.0, 8.0, 7.0)
    document["buffers"][0]["byteLength"] = len(binary)
    document["bufferViews"] += [
        {"buffer": 0, "byteOffset": 60, "byteLength": 2},
        {"buffer": 0, "byteOffset": 64, "byteLength": 12},
    ]
    document["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": 2, "componentType": 5123},
        "values": {"bufferView": 3},
    }
    positions = one(document, binary).positions
    assert positions[3].tolist() == [9, 8, 7]
    assert np.array_equal(positions[:3], POINTS[:3])


def test_transforms_of_all_ancestors_move_the_vertices() -> None:
    half_turn = [0, 1, 0, 0]  # around Y
    document, binary = quad(
        nodes=[
            {"children": [1], "translation": [10, 0, 0]},
            {"children": [2], "rotation": half_turn},
            {"mesh": 0, "scale": [2, 1, 1]},
        ]
    )
    assert one(document, binary).positions[3].tolist() == pytest.approx([8, 2, 0])


def test_a_matrix_is_stored_column_by_column() -> None:
    document, binary = quad(nodes=[{"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]}])
    assert one(document, binary).positions[0].tolist() == [5, 6, 7]


def test_a_mesh_drawn_twice_is_there_twice() -> None:
    document, binary = quad(
        nodes=[{"mesh": 0}, {"mesh": 0, "translation": [3, 0, 0]}], scenes=[{"nodes": [0, 1]}]
    )
    first, second = read(document, binary)
    assert np.array_equal(first.positions + np.array([3, 0, 0], np.float32), second.positions)


def test_a_mirroring_node_leaves_outside_outside() -> None:
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    scene.add_geometry(box, transform=np.diag([-2.0, 1.0, 1.0, 1.0]))
    (primitive,) = read_primitives(parse_glb(scene.export(file_type="glb")))
    assert trimesh.Trimesh(primitive.positions, primitive.triangles, process=False).volume == pytest.approx(2)


def test_normals_stay_perpendicular_under_uneven_scale() -> None:
    points = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)
    normals = np.tile(np.array([1, -1, 0], np.float32) / np.sqrt(np.float32(2)), (3, 1))
    document, _ = quad(
        buffers=[{"byteLength": 72}],
        bufferViews=[{"buffer": 0, "byteOffset": at, "byteLength": 36} for at in (0, 36)],
        accessors=[{"bufferView": at, "componentType": 5126, "type": "VEC3", "count": 3} for at in (0, 1)],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}}]}],
        nodes=[{"mesh": 0, "scale": [3, 1, 1]}],
    )
    primitive = one(document, points.tobytes() + normals.tobytes())
    assert primitive.normals is not None
    assert primitive.normals[0] @ (primitive.positions[1] - primitive.positions[0]) == pytest.approx(
        0, abs=1e-6
    )
    assert np.linalg.norm(primitive.normals[0]) == pytest.approx(1)


def test_without_scenes_the_roots_are_drawn() -> None:
    document, binary = quad(nodes=[{"mesh": 0}, {"children": [0], "translation": [0, 0, 4]}])
    del document["scenes"], document["scene"]
    assert one(document, binary).positions[0].tolist() == [0, 0, 4]


def test_what_trimesh_writes_is_read_back() -> None:
    sphere = trimesh.creation.icosphere(2)
    (primitive,) = read_primitives(parse_glb(sphere.export(file_type="glb")))
    assert np.array_equal(primitive.positions, sphere.vertices.astype(np.float32))
    assert np.array_equal(primitive.triangles, sphere.faces)


# Containers that are not what they say.


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (b"glTF", "4 bytes"),
        (b'{"asset":{"version":"2.0"}}', "packed into a GLB"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "instead of b'glTF'"),
        (struct.pack("<4sIIII", b"glTF", 1, 20, 0, 0x4E4F534A), "version 1"),
        (struct.pack("<4sIIII", b"glTF", 2, 999, 0, 0x4E4F534A), "truncated"),
        (pack(*quad()) + b"tail", "followed by other data"),
        (pack(*quad())[:-8], "truncated"),
        (struct.pack("<4sIIII", b"glTF", 2, 20, 0x7FFFFFFF, 0x4E4F534A), "claims 2147483647 bytes"),
        (struct.pack("<4sIIII", b"glTF", 2, 20, 0, 0x004E4942), "not its JSON"),
    ],
)
def test_a_broken_container_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        parse_glb(data)


def with_json(text: bytes) -> bytes:
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" * 200_000, "nested too deep"),
        (b"[1, 2]", "must be an object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": \xff}', "cannot be parsed"),
        (b'{"a": 1', "cannot be parsed"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be parsed"),
        (b" " * (MAX_JSON_BYTES + 1), "at most"),
    ],
    ids=["deep", "array", "nan", "not utf-8", "cut", "endless number", "huge"],
)
def test_json_that_would_hurt_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        parse_glb(with_json(text))


def test_a_binary_chunk_past_the_end_is_refused() -> None:
    data = bytearray(pack(*quad()))
    at = data.index(b"BIN\0") - 4
    data[at : at + 4] = struct.pack("<I", 2**31 - 4)
    with pytest.raises(ModelFileError, match="binary chunk claims"):
        parse_glb(bytes(data))


# Numbers that point outside.


def changed(path: str, value: Any) -> tuple[dict[str, Any], bytes]:
    """The quad with one value replaced; path as in `accessors.0.count`."""
    document, binary = quad()
    document = copy.deepcopy(document)
    *steps, last = path.split(".")
    target: Any = document
    for step in steps:
        target = target[int(step)] if isinstance(target, list) else target[step]
    target[int(last) if isinstance(target, list) else last] = value
    return document, binary


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("accessors.0.count", 5, "needs 60 bytes"),
        ("accessors.0.count", 2**31, "split or simplify|needs"),
        ("accessors.0.count", 2**70, "out of range"),
        ("accessors.0.count", -1, "out of range"),
        ("accessors.0.count", 1.5, "must be an integer"),
        ("accessors.0.count", True, "must be an integer"),
        ("accessors.0.count", None, "must be an integer"),
        ("accessors.0.byteOffset", 2**40, "needs"),
        ("accessors.0.byteOffset", -4, "out of range"),
        ("accessors.0.bufferView", 9, r"bufferViews\[9\]; the file has 2"),
        ("accessors.0.bufferView", -1, "out of range"),
        ("accessors.0.componentType", 5124, "not one of glTF's"),
        ("accessors.0.type", "VEC2", "3 components"),
        ("accessors.0.type", ["VEC3"], "must be one of"),
        ("accessors.1.componentType", 5126, "needs|unsigned"),
        ("bufferViews.0.byteLength", 2**33, "covers bytes"),
        ("bufferViews.0.byteOffset", 2**33, "covers bytes"),
        ("bufferViews.0.byteStride", 4, "byteStride of 4"),
        ("bufferViews.0.byteStride", 65536, "largest allowed"),
        ("bufferViews.0.buffer", 1, r"buffers\[1\]; the file has 1"),
        ("bufferViews.0", [], "must be an object"),
        ("buffers.0.byteLength", 2**40, "binary chunk has"),
        ("meshes.0.primitives.0.attributes.POSITION", 7, r"accessors\[7\]"),
        ("meshes.0.primitives.0.attributes.POSITION", "0", "must be an index"),
        ("meshes.0.primitives.0.indices", 7, r"accessors\[7\]"),
        ("meshes.0.primitives.0.mode", 9, "not a primitive mode"),
        ("meshes.0.primitives", {"0": 1}, "must be an array"),
        ("meshes.0.primitives.0", 3, "must be an object"),
        ("nodes.0.mesh", 3, r"meshes\[3\]"),
        ("nodes.0.translation", [1, 2], "3 numbers"),
        ("nodes.0.scale", [1, 2, "x"], "numbers only"),
        ("nodes.0.scale", [1, 2, 1e308], "not finite"),
        ("scene", 4, r"scenes\[4\]"),
        ("scenes.0.nodes", [5], r"nodes\[5\]"),
        ("scenes.0.nodes", [0, 0], "reached twice"),
    ],
)
def test_a_number_that_points_outside_is_refused_by_name(path: str, value: Any, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        read(*changed(path, value))


def test_an_index_past_the_last_vertex_is_refused() -> None:
    document, binary = quad()
    binary = binary[:48] + np.array([0, 1, 65535, 2, 1, 3], np.uint16).tobytes()
    with pytest.raises(ModelFileError, match="points at vertex 65535; there are 4"):
        read(document, binary)


def test_a_sparse_index_past_the_end_is_refused() -> None:
    document, binary = quad()
    binary += struct.pack("<HH3f", 4, 0, 9.0, 8.0, 7.0)
    document["buffers"][0]["byteLength"] = len(binary)
    document["bufferViews"] += [
        {"buffer": 0, "byteOffset": 60, "byteLength": 2},
        {"buffer": 0, "byteOffset": 64, "byteLength": 12},
    ]
    document["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": 2, "componentType": 5123},
        "values": {"bufferView": 3},
    }
    with pytest.raises(ModelFileError, match="replaces element 4 of 4"):
        read(document, binary)


def test_vertices_that_no_bytes_back_are_refused_before_they_are_made() -> None:
    document, binary = quad()
    del document["accessors"][0]["bufferView"]
    document["accessors"][0]["count"] = 10_000_000
    with pytest.raises(ModelFileError, match="without a bufferView"):
        read(document, binary)


def test_nodes_in_a_circle_are_refused() -> None:
    document, binary = quad(nodes=[{"children": [1]}, {"children": [0], "mesh": 0}])
    with pytest.raises(ModelFileError, match="reached twice"):
        read(document, binary)


def test_nodes_that_multiply_by_sharing_children_are_refused() -> None:
    nodes: list[dict[str, Any]] = [{"children": [index + 1, index + 1]} for index in range(60)]
    document, binary = quad(nodes=[*nodes, {"mesh": 0}])
    with pytest.raises(ModelFileError, match="reached twice"):
        read(document, binary)


def test_a_tower_of_nodes_is_refused() -> None:
    nodes: list[dict[str, Any]] = [{"children": [index + 1]} for index in range(5000)]
    document, binary = quad(nodes=[*nodes, {"mesh": 0}])
    with pytest.raises(ModelFileError, match="levels deep"):
        read(document, binary)


def test_a_small_file_that_draws_itself_endlessly_is_refused() -> None:
    count = 3_000
    document, _ = quad(nodes=[{"mesh": 0}] * 20_000, scenes=[{"nodes": list(range(20_000))}])
    document["accessors"][0]["count"] = count
    document["accessors"][1]["count"] = 3 * count
    document["bufferViews"][0]["byteLength"] = 12 * count
    document["bufferViews"][1] = {"buffer": 0, "byteOffset": 12 * count, "byteLength": 6 * count}
    document["buffers"][0]["byteLength"] = 18 * count
    with pytest.raises(ModelFileError, match=str(MAX_TRIANGLES)):
        read(document, bytes(18 * count))


def test_attributes_of_other_length_than_the_positions_are_refused() -> None:
    document, binary = quad()
    document["accessors"].append({"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 3})
    document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"] = 2
    with pytest.raises(ModelFileError, match="3 elements for 4 vertices"):
        read(document, binary)


@pytest.mark.parametrize("extension", ["EXT_meshopt_compression", "KHR_meshopt_compression"])
def test_meshopt_compression_is_named_with_the_way_out(extension: str) -> None:
    document, binary = quad()
    document["bufferViews"][0]["extensions"] = {extension: {"buffer": 0, "byteLength": 10}}
    with pytest.raises(ModelFileError, match=f"{extension}.*gltf-transform"):
        read(document, binary)


def test_draco_compression_is_named_with_the_way_out() -> None:
    document, binary = quad()
    del document["accessors"][0]["bufferView"]
    document["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    with pytest.raises(ModelFileError, match=r"KHR_draco_mesh_compression.*gltf-transform"):
        read(document, binary)


# Images.


def encoded(kind: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 10)).save(out, kind)
    return out.getvalue()


def pictured(data: bytes, image: dict[str, Any], texture: dict[str, Any]) -> bytes:
    return pack(
        {
            "asset": {"version": "2.0"},
            "buffers": [{"byteLength": len(data)}],
            "bufferViews": [{"buffer": 0, "byteLength": len(data)}],
            "images": [image],
            "textures": [texture],
        },
        data,
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_embedded_image_comes_back_as_it_is_with_its_true_type(kind: str) -> None:
    data = encoded(kind)
    glb = pictured(data, {"bufferView": 0, "mimeType": "image/png"}, {"source": 0})
    assert image_bytes(parse_glb(glb), 0) == (data, f"image/{kind.lower()}")


def test_the_webp_of_a_texture_is_preferred() -> None:
    data = encoded("WEBP")
    glb = pictured(data, {"bufferView": 0}, {"extensions": {"EXT_texture_webp": {"source": 0}}})
    assert image_bytes(parse_glb(glb), 0) == (data, "image/webp")


def test_a_data_uri_image_is_decoded() -> None:
    data = encoded("PNG")
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert image_bytes(parse_glb(pictured(b"....", {"uri": uri}, {"source": 0})), 0) == (data, "image/png")


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "../../etc/passwd",
        "texture.png",
        "data:image/png,plain",
        "data:image/png;base64,@@@",
        7,
    ],
)
def test_an_image_outside_of_the_file_is_never_followed(uri: Any) -> None:
    with pytest.raises(ModelFileError, match=r"uri|outside files are never followed"):
        image_bytes(parse_glb(pictured(b"....", {"uri": uri}, {"source": 0})), 0)


@pytest.mark.parametrize("uri", ["http://example.com/mesh.bin", "../mesh.bin", "file:///etc/passwd"])
def test_a_buffer_outside_of_the_file_is_never_followed(uri: str) -> None:
    with pytest.raises(ModelFileError, match="outside files are never followed"):
        read(*changed("buffers.0.uri", uri))


def test_geometry_in_a_data_uri_is_read() -> None:
    document, binary = quad()
    document["buffers"][0]["uri"] = (
        "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    )
    assert one(document, b"").triangles.tolist() == [[0, 1, 2], [2, 1, 3]]


@pytest.mark.parametrize("texture", [{}, {"source": 3}, {"source": "0"}])
def test_a_texture_without_an_image_is_refused(texture: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError):
        image_bytes(parse_glb(pictured(encoded("PNG"), {"bufferView": 0}, texture)), 0)


def test_an_image_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ModelFileError, match="unknown kind"):
        image_bytes(parse_glb(pictured(b"BM not a picture", {"bufferView": 0}, {"source": 0})), 0)
