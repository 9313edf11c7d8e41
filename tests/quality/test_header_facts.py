from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import trimesh

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.quality.header import read_header


def test_counts_box_and_textures_are_read_from_the_header(textured_glb: bytes) -> None:
    facts = read_header(textured_glb)
    assert (facts.triangles, facts.vertices, facts.draw_calls, facts.meshes) == (12, 36, 1, 1)
    assert facts.bbox_min_m == pytest.approx((-0.2, -0.3, -0.1))
    assert facts.bbox_max_m == pytest.approx((0.2, 0.3, 0.1))
    sizes = {texture.slot: (texture.width, texture.height, texture.mime) for texture in facts.textures}
    assert sizes == {"baseColor": (64, 32, "image/png"), "metallicRoughness": (16, 16, "image/png")}
    assert facts.textures[0].vram_bytes == 64 * 32 * 4 * 4 // 3
    assert (facts.without_normals, facts.without_uvs) == (0, 0)


def test_no_vertex_is_touched(textured_glb: bytes, edit: Any) -> None:
    def ruin_geometry(document: Any, binary: bytearray) -> None:
        pictures = {image["bufferView"] for image in document["images"]}
        for index, view in enumerate(document["bufferViews"]):
            if index not in pictures:
                start = view.get("byteOffset", 0)
                binary[start : start + view["byteLength"]] = b"\xff" * view["byteLength"]

    assert read_header(edit(textured_glb, ruin_geometry)).textures == read_header(textured_glb).textures


def test_a_file_on_disk_gives_the_same_as_its_bytes(textured_glb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "box.glb"
    path.write_bytes(textured_glb)
    assert read_header(path) == read_header(textured_glb)


def test_a_file_of_two_gigabytes_needs_no_more_reading_than_a_small_one(
    plain_glb: bytes, edit: Any, tmp_path: Path
) -> None:
    def claim_more(document: Any, binary: bytearray) -> None:
        document["extras"] = "x" * (-len(binary) % 4)

    head = bytearray(edit(plain_glb, claim_more))
    size = 2 * 10**9
    at = head.index(b"BIN\0") - 4
    head[8:12] = size.to_bytes(4, "little")
    head[at : at + 4] = (size - at - 8).to_bytes(4, "little")
    path = tmp_path / "sparse.glb"
    path.write_bytes(head)
    os.truncate(path, size)
    assert read_header(path).triangles == 320


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"missing\.glb cannot be read"):
        read_header(tmp_path / "missing.glb")
    with pytest.raises(ModelFileError, match=re.escape(str(tmp_path))):
        read_header(tmp_path)


def test_instances_are_counted_and_placed_as_drawn() -> None:
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    for index in range(3):
        scene.add_geometry(
            box, geom_name="box", transform=trimesh.transformations.translation_matrix([2 * index, 0, 0])
        )
    facts = read_header(scene.export(file_type="glb"))
    assert (facts.primitives, facts.draw_calls, facts.triangles) == (facts.meshes, 3, 36)
    assert facts.bbox_max_m == pytest.approx((4.5, 0.5, 0.5))


def test_one_image_in_two_slots_is_one_texture(textured_glb: bytes, edit: Any) -> None:
    def share(document: Any, _: bytearray) -> None:
        material = document["materials"][0]
        material["occlusionTexture"] = material["pbrMetallicRoughness"]["metallicRoughnessTexture"]

    slots = [texture.slot for texture in read_header(edit(textured_glb, share)).textures]
    assert sorted(slots) == ["baseColor", "occlusion+metallicRoughness"]


def test_an_image_no_material_uses_is_marked_unused(textured_glb: bytes, edit: Any) -> None:
    def forget(document: Any, _: bytearray) -> None:
        del document["materials"][0]["pbrMetallicRoughness"]["metallicRoughnessTexture"]

    slots = [texture.slot for texture in read_header(edit(textured_glb, forget)).textures]
    assert sorted(slots) == ["baseColor", "unused"]


def test_an_image_past_the_end_of_the_file_is_refused(textured_glb: bytes, edit: Any) -> None:
    def stretch(document: Any, _: bytearray) -> None:
        document["bufferViews"][document["images"][0]["bufferView"]]["byteLength"] = 10**9

    with pytest.raises(ModelFileError, match="binary chunk"):
        read_header(edit(textured_glb, stretch))


def test_drawing_the_same_primitives_without_end_is_refused(plain_glb: bytes, edit: Any) -> None:
    def multiply(document: Any, _: bytearray) -> None:
        document["meshes"][0]["primitives"] *= 3000
        document["nodes"] = [{"mesh": 0}] * 3000
        document["scenes"] = [{"nodes": list(range(3000))}]
        document["scene"] = 0

    with pytest.raises(ModelFileError, match="over 20000 primitives"):
        read_header(edit(plain_glb, multiply))
