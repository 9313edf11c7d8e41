from __future__ import annotations

import json
import os
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.types import EncodedImage, Material, TexturedMesh
from trellis_pipeline.quality.inspect import MAX_FILE_BYTES, inspect_glb
from trellis_pipeline.quality.text import record_text

CONTROLLERS = Path(__file__).parents[1] / "js" / "node_modules" / "@webxr-input-profiles" / "assets" / "dist"

PROMISED_KEYS = {
    "triangles",
    "vertices",
    "meshes",
    "primitives",
    "materials",
    "textures",
    "max_texture_px",
    "file_bytes",
    "bbox_m",
    "watertight",
    "boundary_edges",
    "non_manifold_edges",
    "orientation_conflicts",
    "degenerate_faces",
    "duplicate_faces",
    "components",
    "findings",
}


def codes(data: bytes) -> set[str]:
    return {finding.code for finding in inspect_glb(data).findings}


def exported(mesh: trimesh.Trimesh) -> bytes:
    return bytes(mesh.export(file_type="glb", include_normals=True))


# Good models.


def test_a_good_model_gets_a_record_without_findings(plain_glb: bytes) -> None:
    record = inspect_glb(plain_glb)
    assert record.findings == ()
    assert record.watertight
    assert record.valid_gltf
    assert (record.triangles, record.components, record.boundary_edges) == (320, 1, 0)
    assert record.bbox_m == pytest.approx((2, 2, 2))
    assert record.file_bytes == len(plain_glb)


def test_the_json_has_the_promised_keys_and_is_plain_json(textured_glb: bytes) -> None:
    document = json.loads(json.dumps(inspect_glb(textured_glb).to_json_dict(), allow_nan=False))
    assert set(document) >= PROMISED_KEYS
    assert set(document["textures"][0]) == {"slot", "width", "height", "mime", "bytes", "vram_bytes"}
    assert document["max_texture_px"] == 64
    assert document["bbox_m"] == pytest.approx([0.4, 0.6, 0.2])


def test_a_path_gives_the_same_record_as_its_bytes(textured_glb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "box.glb"
    path.write_bytes(textured_glb)
    assert inspect_glb(path) == inspect_glb(textured_glb)


def test_with_the_crop_the_outline_is_compared(plain_glb: bytes) -> None:
    y, x = np.mgrid[:128, :128] + 0.5
    alpha = np.where((x - 64) ** 2 + (y - 64) ** 2 < 50**2, 255, 0).astype(np.uint8)
    silhouette = inspect_glb(plain_glb, crop_alpha=alpha).silhouette_iou
    assert silhouette is not None
    assert silhouette > 0.95
    assert inspect_glb(plain_glb).silhouette_iou is None


def test_the_text_says_the_same_in_words(textured_glb: bytes) -> None:
    text = record_text(inspect_glb(textured_glb), title="box.glb")
    assert text.startswith("box.glb\n")
    for part in (
        "12 triangles",
        "watertight",
        "40.0 cm x 60.0 cm x 20.0 cm",
        "baseColor: 64 x 32 px",
        "valid",
    ):
        assert part in text


def test_names_from_the_file_cannot_steer_the_terminal(plain_glb: bytes, edit: Any) -> None:
    def poison(document: Any, _: bytearray) -> None:
        document["asset"]["generator"] = "\x1b]0;owned\x07\x1b[2J\nvalid"

    text = record_text(inspect_glb(edit(plain_glb, poison)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\nvalid" not in text


# What a person wants to be told.


def test_an_open_model_is_told_how_open() -> None:
    sphere = trimesh.creation.icosphere(2)
    sphere.update_faces(np.arange(len(sphere.faces)) > 0)
    record = inspect_glb(exported(sphere))
    assert not record.watertight
    assert (record.boundary_edges, record.boundary_loops) == (3, 1)
    assert "open_surface" in {finding.code for finding in record.findings}


def test_a_model_turned_inside_out_is_an_error() -> None:
    sphere = trimesh.creation.icosphere(2)
    sphere.invert()
    record = inspect_glb(exported(sphere))
    assert "winding_inverted" in {finding.code for finding in record.errors}


@pytest.mark.parametrize(("size", "code"), [(500.0, "scale_large"), (0.004, "scale_small")])
def test_an_improbable_size_is_pointed_out(size: float, code: str) -> None:
    assert code in codes(exported(trimesh.creation.box(extents=[size] * 3)))


def test_crumbs_beside_the_product_are_pointed_out() -> None:
    crumb = trimesh.creation.box(extents=[0.02] * 3).apply_translation([2, 0, 0])
    assert "floaters" in codes(exported(trimesh.util.concatenate([trimesh.creation.icosphere(4), crumb])))


def test_large_unused_and_odd_sized_textures_are_pointed_out(textured_glb: bytes, edit: Any) -> None:
    def resize(document: Any, binary: bytearray) -> None:
        base = document["textures"][
            document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
        ]
        view = document["bufferViews"][document["images"][base["source"]]["bufferView"]]
        start = view.get("byteOffset", 0)
        binary[start + 16 : start + 24] = struct.pack(">II", 4096, 3000)
        del document["materials"][0]["pbrMetallicRoughness"]["metallicRoughnessTexture"]

    assert codes(edit(textured_glb, resize)) >= {
        "texture_large",
        "texture_not_power_of_two",
        "texture_unused",
    }


def test_missing_normals_and_texture_coordinates_are_pointed_out(textured_glb: bytes, edit: Any) -> None:
    def strip(document: Any, _: bytearray) -> None:
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        del attributes["NORMAL"], attributes["TEXCOORD_0"]

    assert codes(edit(textured_glb, strip)) >= {"normals_missing", "uvs_missing"}


def test_a_scene_that_draws_nothing_is_an_error(plain_glb: bytes, edit: Any) -> None:
    record = inspect_glb(edit(plain_glb, lambda document, _: document["nodes"][0].pop("mesh")))
    assert record.triangles == 0
    assert record.watertight is False
    assert "scene_empty" in {finding.code for finding in record.errors}


def test_the_same_complaint_a_hundred_times_is_made_ten_times_and_counted(
    textured_glb: bytes, edit: Any
) -> None:
    def repeat(document: Any, _: bytearray) -> None:
        document["images"] += [document["images"][0]] * 100

    findings = inspect_glb(edit(textured_glb, repeat)).findings
    unused = [finding.message for finding in findings if finding.code == "texture_unused"]
    assert len(unused) == 10
    assert unused[-1].endswith("(and 90 more like it)")


def test_what_this_project_writes_has_nothing_to_complain_about() -> None:
    sphere = trimesh.creation.icosphere(3)
    jpeg = BytesIO()
    Image.new("RGB", (256, 256), (90, 120, 40)).save(jpeg, "JPEG")
    image = EncodedImage(jpeg.getvalue(), "image/jpeg", 256, 256)
    positions = sphere.vertices.astype(np.float32)
    normals = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    uvs = (positions[:, :2] / 2 + 0.5).clip(0, 1)
    mesh = TexturedMesh(positions, normals, uvs, sphere.faces.astype(np.int32), Material(base_color=image))
    record = inspect_glb(write_glb(mesh))
    assert record.findings == ()
    assert record.watertight
    assert [(texture.slot, texture.width) for texture in record.textures] == [("baseColor", 256)]


# Bad files.


def spoil_positions(value: float) -> Any:
    def change(document: Any, binary: bytearray) -> None:
        primitive = document["meshes"][0]["primitives"][0]
        view = document["bufferViews"][
            document["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]
        ]
        start = view.get("byteOffset", 0)
        binary[start : start + 4] = struct.pack("<f", value)

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_numbers_give_a_record_that_says_so(
    value: float, plain_glb: bytes, edit: Any
) -> None:
    record = inspect_glb(edit(plain_glb, spoil_positions(value)))
    assert {"positions_not_finite", "gltf.not_finite"} <= {finding.code for finding in record.errors}
    assert not record.valid_gltf
    json.dumps(record.to_json_dict(), allow_nan=False)


@pytest.mark.parametrize("extension", ["EXT_meshopt_compression", "KHR_draco_mesh_compression"])
def test_compressed_geometry_gives_a_record_with_unknowns_and_the_way_out(
    extension: str, plain_glb: bytes, edit: Any
) -> None:
    def compress(document: Any, _: bytearray) -> None:
        document["extensionsUsed"] = document["extensionsRequired"] = [extension]
        primitive = document["meshes"][0]["primitives"][0]
        accessor = document["accessors"][primitive["attributes"]["POSITION"]]
        if "meshopt" in extension:
            document["bufferViews"][accessor["bufferView"]]["extensions"] = {extension: {}}
        else:
            primitive["extensions"] = {extension: {"bufferView": accessor.pop("bufferView")}}

    record = inspect_glb(edit(plain_glb, compress))
    assert record.watertight is None
    assert record.components is None
    assert record.triangles == 320, "the header still tells"
    (finding,) = (finding for finding in record.findings if finding.code == "geometry_compressed")
    assert extension in finding.message
    assert "gltf-transform" in finding.message


def test_a_truncated_accessor_gives_an_error_record(plain_glb: bytes, edit: Any) -> None:
    def overreach(document: Any, _: bytearray) -> None:
        document["accessors"][document["meshes"][0]["primitives"][0]["indices"]]["count"] = 10**6

    record = inspect_glb(edit(plain_glb, overreach))
    assert {"geometry_unreadable", "gltf.accessor_out_of_bounds"} <= {
        finding.code for finding in record.errors
    }
    assert record.watertight is None
    assert not record.valid_gltf


def test_a_missing_file_a_folder_and_an_endless_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.glb"):
        inspect_glb(tmp_path / "nowhere.glb")
    with pytest.raises(ModelFileError, match=re.escape(str(tmp_path))):
        inspect_glb(tmp_path)
    pipe = tmp_path / "pipe.glb"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileError, match=r"pipe\.glb"):
        inspect_glb(pipe)
    huge = tmp_path / "huge.glb"
    huge.touch()
    os.truncate(huge, MAX_FILE_BYTES + 1)
    with pytest.raises(ModelFileError, match="at most"):
        inspect_glb(huge)


def nothing_worse_than_a_refusal(data: bytes) -> None:
    try:
        record = inspect_glb(data, crop_alpha=np.full((16, 16), 255, np.uint8))
    except ModelFileError:
        return
    json.dumps(record.to_json_dict(), allow_nan=False)
    record_text(record)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_give_a_record_or_a_refusal(data: st.DataObject, textured_glb: bytes) -> None:
    spoilt = bytearray(textured_glb)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[at] = data.draw(st.integers(0, 255))
    nothing_worse_than_a_refusal(bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))]))
    nothing_worse_than_a_refusal(bytes(spoilt))


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.integers(-2, 40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(1e308),
    st.text(max_size=8),
    st.lists(st.integers(-2, 5) | st.floats(-1e39, 1e39), max_size=16),
    st.dictionaries(st.text(max_size=4), st.integers(0, 3), max_size=2),
)


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_strange_values_anywhere_in_the_json_give_a_record_or_a_refusal(
    data: st.DataObject, textured_glb: bytes, edit: Any
) -> None:
    def places(value: Any) -> list[tuple[Any, Any]]:
        keys: Any = (
            value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        )
        return [place for key in keys for place in ((value, key), *places(value[key]))]

    def change(document: Any, _: bytearray) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            owner, key = data.draw(st.sampled_from(places(document)))
            owner[key] = data.draw(STRANGE)

    nothing_worse_than_a_refusal(edit(textured_glb, change))


@pytest.mark.skipif(not CONTROLLERS.exists(), reason="needs real models: npm ci --prefix tests/js")
def test_models_of_real_products_get_a_record() -> None:
    paths = sorted(CONTROLLERS.glob("profiles/*/*.glb"))
    assert paths
    for path in paths:
        record = inspect_glb(path)
        assert record.triangles > 0, path
        assert record.bbox_m is not None, path
