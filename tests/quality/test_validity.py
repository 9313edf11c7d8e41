"""Valid files stay free of findings; each way to break one is found, and the Khronos validator agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trellis_pipeline.mesh.glb_read import parse_glb
from trellis_pipeline.quality.record import Finding
from trellis_pipeline.quality.validity import MAX_FINDINGS, check_structure
from trellis_pipeline.quality.validity_data import check_data

Change = Callable[[Any, bytearray], Any]

KHRONOS = Path(__file__).parents[1] / "js" / "node_modules" / "gltf-validator"


def findings(data: bytes) -> tuple[Finding, ...]:
    container = parse_glb(data)
    rules = check_structure(container)
    return rules if any(item.severity == "error" for item in rules) else rules + check_data(container)


def view_of(document: Any, attribute: str) -> Any:
    primitive = document["meshes"][0]["primitives"][0]
    accessor = primitive["indices"] if attribute == "indices" else primitive["attributes"][attribute]
    return document["bufferViews"][document["accessors"][accessor]["bufferView"]]


def accessor_of(document: Any, attribute: str) -> Any:
    primitive = document["meshes"][0]["primitives"][0]
    return document["accessors"][
        primitive["indices"] if attribute == "indices" else primitive["attributes"][attribute]
    ]


def poke(attribute: str, value: Any, dtype: str) -> Change:
    """Overwrite the first number of an attribute's data."""

    def change(document: Any, binary: bytearray) -> None:
        start = view_of(document, attribute).get("byteOffset", 0)
        data = np.array([value], dtype).tobytes()
        binary[start : start + len(data)] = data

    return change


def put(path: str, value: Any) -> Change:
    """Set one value of the document; path as in `meshes.0.primitives.0.mode`. `...` as value deletes it."""

    def change(document: Any, _: bytearray) -> None:
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
        for step in steps:
            document = document[step] if isinstance(document, list) else document.setdefault(step, {})
        if value is ...:
            del document[last]
        else:
            document[last] = value

    return change


def on(get: Callable[[Any, str], Any], attribute: str, key: str, value: Any) -> Change:
    """Set `key` of an attribute's accessor or bufferView."""
    return lambda document, _: get(document, attribute).__setitem__(key, value)


def unreadable_image(document: Any, binary: bytearray) -> None:
    start = document["bufferViews"][document["images"][0]["bufferView"]].get("byteOffset", 0)
    binary[start : start + 8] = b"not a PNG"[:8]


def child_of_two(document: Any, _: bytearray) -> None:
    document["nodes"] = [{"children": [2]}, {"children": [2]}, {"mesh": 0}]
    document["scenes"] = [{"nodes": [0, 1]}]


def own_ancestor(document: Any, _: bytearray) -> None:
    document["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]
    document["scenes"] = [{}]


BROKEN: dict[str, tuple[Change, str]] = {
    "version missing": (put("asset", {}), "asset_version"),
    "version 3": (put("asset.version", "3.0"), "asset_version"),
    "version a number": (put("asset.version", 2.0), "asset_version"),
    "buffer longer than the chunk": (put("buffers.0.byteLength", 10**7), "buffer_length"),
    "buffer at a URL": (put("buffers.0.uri", "https://example.com/a.bin"), "malformed"),
    "view past the buffer": (on(view_of, "POSITION", "byteLength", 10**7), "view_out_of_bounds"),
    "view of no buffer": (on(view_of, "POSITION", "buffer", 4), "malformed"),
    "view stride not of 4": (on(view_of, "POSITION", "byteStride", 14), "view_stride"),
    "accessor past the view": (on(accessor_of, "POSITION", "count", 9999), "accessor_out_of_bounds"),
    "accessor of no elements": (on(accessor_of, "indices", "count", 0), "accessor_count"),
    "accessor of unknown type": (on(accessor_of, "POSITION", "type", "VEC9"), "malformed"),
    "accessor of unknown component": (on(accessor_of, "POSITION", "componentType", 5127), "malformed"),
    "accessor not aligned": (on(accessor_of, "POSITION", "byteOffset", 2), "accessor_alignment"),
    "floats called normalized": (on(accessor_of, "POSITION", "normalized", True), "accessor_normalized"),
    "min of two numbers": (on(accessor_of, "POSITION", "min", [0, 0]), "malformed"),
    "positions without min": (
        lambda document, _: accessor_of(document, "POSITION").pop("min"),
        "position_bounds",
    ),
    "min not true": (on(accessor_of, "POSITION", "min", [-9, -9, -9]), "bounds_untrue"),
    "max not true": (on(accessor_of, "POSITION", "max", [9, 9, 9]), "bounds_untrue"),
    "position not a number": (poke("POSITION", np.nan, "<f4"), "not_finite"),
    "normal infinite": (poke("NORMAL", np.inf, "<f4"), "not_finite"),
    "normal of length 5": (poke("NORMAL", 5.0, "<f4"), "normal_length"),
    "index past the vertices": (poke("indices", 60000, "<u4"), "index_out_of_range"),
    "indices as floats": (on(accessor_of, "indices", "componentType", 5126), "indices_format"),
    "normals as texture coordinates": (
        lambda document, _: document["meshes"][0]["primitives"][0]["attributes"].update(
            NORMAL=document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]
        ),
        "attribute_format",
    ),
    "attributes of different lengths": (on(accessor_of, "NORMAL", "count", 35), "attribute_counts"),
    "mesh without primitives": (put("meshes.0.primitives", []), "mesh_empty"),
    "primitive mode 7": (put("meshes.0.primitives.0.mode", 7), "primitive_mode"),
    "material that is not there": (put("meshes.0.primitives.0.material", 3), "malformed"),
    "texture that is not there": (
        put("materials.0.pbrMetallicRoughness.baseColorTexture.index", 9),
        "malformed",
    ),
    "factor above 1": (put("materials.0.pbrMetallicRoughness.metallicFactor", 1.5), "material_factor"),
    "image without type": (put("images.0.mimeType", ...), "image_mime"),
    "image of another type": (put("images.0.mimeType", "image/jpeg"), "image_mime"),
    "image that is none": (unreadable_image, "image_unreadable"),
    "texture of no image": (put("textures.0.source", 8), "malformed"),
    "mesh that is not there": (put("nodes.0.mesh", 5), "malformed"),
    "rotation not of length 1": (put("nodes.0.rotation", [1, 1, 0, 0]), "node_transform"),
    "matrix and translation": (
        lambda document, _: document["nodes"][0].update(
            matrix=np.eye(4).reshape(-1).tolist(), scale=[2, 2, 2]
        ),
        "node_transform",
    ),
    "child of two": (child_of_two, "node_hierarchy"),
    "own ancestor": (own_ancestor, "node_hierarchy"),
    "scene that is not there": (put("scene", 2), "malformed"),
    "node twice in a scene": (put("scenes.0.nodes", [0, 0]), "scene_nodes"),
    "extension not declared": (
        put("materials.0.extensions", {"KHR_materials_unlit": {}}),
        "extension_undeclared",
    ),
    "extension required, not used": (
        put("extensionsRequired", ["KHR_materials_unlit"]),
        "extension_undeclared",
    ),
    "samplers not a list": (put("textures.0.sampler", 5), "malformed"),
}

WARNED: dict[str, tuple[Change, str]] = {
    "view target unknown": (on(view_of, "POSITION", "target", 7), "view_target"),
    "alpha mode unknown": (put("materials.0.alphaMode", "GLASS"), "material_alpha"),
}
# An image no program can show is an error here; the Khronos validator warns.
STRICTER = {"image that is none"}


def test_files_of_another_writer_are_valid(plain_glb: bytes, textured_glb: bytes) -> None:
    assert findings(plain_glb) == ()
    assert findings(textured_glb) == ()


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_found(name: str, textured_glb: bytes, edit: Any) -> None:
    change, code = BROKEN[name]
    found = findings(edit(textured_glb, change))
    assert f"gltf.{code}" in {item.code for item in found if item.severity == "error"}, found


@pytest.mark.parametrize("name", WARNED)
def test_values_that_viewers_ignore_are_warnings(name: str, textured_glb: bytes, edit: Any) -> None:
    change, code = WARNED[name]
    found = findings(edit(textured_glb, change))
    assert [(item.code, item.severity) for item in found] == [(f"gltf.{code}", "warning")]


def test_a_required_extension_nobody_reads_is_an_error(textured_glb: bytes, edit: Any) -> None:
    def require(document: Any, _: bytearray) -> None:
        document["extensionsUsed"] = document["extensionsRequired"] = ["VENDOR_secret_sauce"]

    assert any("VENDOR_secret_sauce" in item.message for item in findings(edit(textured_glb, require)))


def test_bytes_nobody_uses_are_a_warning_only(plain_glb: bytes, edit: Any) -> None:
    found = findings(edit(plain_glb, lambda _, binary: binary.extend(b"\0" * 64)))
    assert [(item.code, item.severity) for item in found] == [("gltf.buffer_unused", "warning")]


def test_thousands_of_faults_are_reported_as_some(plain_glb: bytes, edit: Any) -> None:
    def flood(document: Any, _: bytearray) -> None:
        document["accessors"] += [{"componentType": 1}] * 5000

    assert len(findings(edit(plain_glb, flood))) == MAX_FINDINGS


@pytest.mark.slow
@pytest.mark.skipif(
    not KHRONOS.exists() or not shutil.which("node"), reason="needs node and `npm install` in tests/js"
)
def test_the_khronos_validator_agrees_on_every_file(
    textured_glb: bytes, plain_glb: bytes, edit: Any, tmp_path: Path
) -> None:
    files = {"plain": plain_glb, "textured": textured_glb}
    files |= {name: edit(textured_glb, change) for name, (change, _) in (BROKEN | WARNED).items()}
    for name, data in files.items():
        (tmp_path / f"{name}.glb").write_bytes(data)
    script = """
        const fs = require("fs"), path = require("path"), validator = require(process.argv[1]);
        (async () => {
          const result = {};
          for (const file of fs.readdirSync(process.argv[2])) {
            const bytes = new Uint8Array(fs.readFileSync(path.join(process.argv[2], file)));
            const options = {externalResourceFunction: () => Promise.reject("external")};
            const report = await validator.validateBytes(bytes, options);
            result[path.parse(file).name] = report.issues.numErrors;
          }
          console.log(JSON.stringify(result));
        })();
    """
    answer = subprocess.run(
        ["node", "-e", script, str(KHRONOS), str(tmp_path)], check=True, capture_output=True, timeout=120
    )
    theirs = {name: errors == 0 for name, errors in json.loads(answer.stdout).items()}
    ours = {
        name: not any(item.severity == "error" for item in findings(data)) for name, data in files.items()
    }
    assert {name for name in files if ours[name] != theirs[name]} == STRICTER
    assert not any(ours[name] for name in STRICTER)
