"""A written GLB is valid, repeatable, readable by others, and never made from nonsense."""

import dataclasses
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.encode import encode_jpeg, encode_png, encode_webp
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.types import EncodedImage, Material, Mesh, TexturedMesh
from trellis_pipeline.mesh.unwrap import unwrap

NODE_MODULES = Path(__file__).parents[1] / "js" / "node_modules"
ENCODERS = {"jpeg": encode_jpeg, "png": encode_png, "webp": encode_webp}


def picture(px: int = 64, shade: int = 0) -> np.ndarray:
    ramp = np.arange(px, dtype=np.uint8) * (256 // px)
    return np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(shade)), axis=-1)


def textured(shape: trimesh.Trimesh | None = None, **material) -> TexturedMesh:
    shape = shape or trimesh.creation.icosphere(subdivisions=2)
    mesh = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    flat = unwrap(mesh, texture_px=256, padding_px=2)
    normals = vertex_normals(mesh)[flat.source_vertex]
    return TexturedMesh(flat.positions, normals, flat.uvs, flat.triangles, Material(**material))


@pytest.fixture(scope="module")
def ball() -> TexturedMesh:
    return textured(base_color=encode_jpeg(picture()))


def document(glb: bytes) -> dict:
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])


def body(glb: bytes) -> bytes:
    return glb[20 + struct.unpack_from("<I", glb, 12)[0] + 8 :]


def view(glb: bytes, index: int) -> bytes:
    at = document(glb)["bufferViews"][index]
    return body(glb)[at["byteOffset"] : at["byteOffset"] + at["byteLength"]]


def test_another_reader_finds_the_same_geometry_and_picture(ball, tmp_path):
    path = tmp_path / "ball.glb"
    path.write_bytes(write_glb(ball, name="ball"))
    scene = trimesh.load_scene(path)
    (found,) = scene.geometry.values()
    assert list(scene.geometry) == ["ball"]
    assert np.array_equal(found.vertices.astype(np.float32), ball.positions)
    assert np.array_equal(found.faces, ball.triangles)
    assert np.allclose(found.vertex_normals, ball.normals, atol=1e-6)
    assert np.allclose(found.visual.uv, ball.uvs * (1, -1) + (0, 1), atol=1e-6)  # trimesh counts v upwards
    assert found.visual.material.baseColorTexture.size == (64, 64)


def test_the_same_model_gives_the_same_bytes_whatever_the_order_of_its_notes(ball):
    first = write_glb(ball, extras={"draft": True, "sku": "CHAIR-7"})
    second = write_glb(ball, extras={"sku": "CHAIR-7", "draft": True})
    assert first == second
    assert document(first)["asset"]["extras"] == {"draft": True, "sku": "CHAIR-7"}


def test_every_length_in_the_container_fits_and_views_start_on_four_bytes(ball):
    glb = write_glb(ball, name="håndtag")
    magic, version, total = struct.unpack_from("<4sII", glb)
    assert (magic, version, total) == (b"glTF", 2, len(glb))
    assert document(glb)["buffers"][0]["byteLength"] == len(body(glb))
    assert len(glb) % 4 == 0
    assert all(v["byteOffset"] % 4 == 0 for v in document(glb)["bufferViews"])
    assert document(glb)["nodes"][0]["name"] == "håndtag"


@pytest.mark.parametrize("kind", ENCODERS)
def test_picture_bytes_stand_in_the_file_untouched(kind):
    image = ENCODERS[kind](picture())
    glb = write_glb(textured(base_color=image))
    found = document(glb)["images"][0]
    assert found["mimeType"] == f"image/{kind}"
    assert view(glb, found["bufferView"]) == image.data


def test_webp_without_a_fallback_is_declared_as_required():
    glb = write_glb(textured(base_color=encode_webp(picture())))
    assert document(glb)["extensionsRequired"] == ["EXT_texture_webp"]
    assert document(glb)["extensionsUsed"] == ["EXT_texture_webp"]
    assert document(glb)["textures"][0]["extensions"]["EXT_texture_webp"] == {"source": 0}
    assert "source" not in document(glb)["textures"][0]


def test_no_extension_is_declared_when_none_is_used(ball):
    assert not {"extensionsUsed", "extensionsRequired"} & set(document(write_glb(ball)))


def test_a_picture_used_twice_is_stored_once():
    orm = encode_png(picture())
    mesh = textured(base_color=orm, metallic_roughness=orm, occlusion_in_red=True)
    found = document(write_glb(mesh))
    assert len(found["images"]) == len(found["textures"]) == 1
    assert found["materials"][0]["occlusionTexture"] == {"index": 0}


def test_material_factors_survive_the_trip(tmp_path):
    mesh = textured(
        name="chrome", base_color_factor=(0.5, 0.25, 1, 0.5), metallic=1.0, roughness=0.25,
        alpha_mode="MASK", alpha_cutoff=0.25, double_sided=True,
    )  # fmt: skip
    (material,) = document(write_glb(mesh))["materials"]
    assert material == {
        "name": "chrome",
        "pbrMetallicRoughness": {
            "baseColorFactor": [0.5, 0.25, 1, 0.5],
            "metallicFactor": 1,
            "roughnessFactor": 0.25,
        },
        "alphaMode": "MASK",
        "alphaCutoff": 0.25,
        "doubleSided": True,
    }


@pytest.mark.parametrize(("vertices", "component_type"), [(65535, 5123), (65536, 5125)])
def test_indices_are_as_narrow_as_the_vertex_count_allows(vertices, component_type):
    rows = np.linspace(0, 1, vertices, dtype=np.float32)
    mesh = TexturedMesh(
        np.column_stack([rows, rows**2, rows**3]),
        np.tile(np.float32([0, 1, 0]), (vertices, 1)),
        np.column_stack([rows, rows]),
        np.array([[0, 1, vertices - 1]], np.int32),
        Material(),
    )
    glb = write_glb(mesh)
    index = document(glb)["accessors"][0]
    assert index["componentType"] == component_type
    stored = np.frombuffer(view(glb, 0), np.uint16 if component_type == 5123 else np.uint32)
    assert stored.tolist() == [0, 1, vertices - 1]


def test_the_stated_bounds_are_exactly_those_of_the_positions(ball):
    position = document(write_glb(ball))["accessors"][1]
    assert position["min"] == ball.positions.min(axis=0).astype(float).tolist()
    assert position["max"] == ball.positions.max(axis=0).astype(float).tolist()


def spoiled(mesh: TexturedMesh, field: str, value: float) -> TexturedMesh:
    rows = getattr(mesh, field).copy()
    rows[3, 1] = value
    return dataclasses.replace(mesh, **{field: rows})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: spoiled(m, "positions", np.nan), "positions contain NaN"),
        (lambda m: spoiled(m, "positions", np.inf), "positions contain NaN or infinity"),
        (lambda m: spoiled(m, "normals", np.nan), "normals contain NaN"),
        (lambda m: spoiled(m, "normals", 5), "normals are not of unit length"),
        (lambda m: spoiled(m, "uvs", -np.inf), "uvs contain NaN or infinity"),
        (lambda m: spoiled(m, "uvs", 1.5), "uvs reach"),
        (lambda m: spoiled(m, "triangles", 10**6), "triangles point at vertices 0..1000000"),
        (lambda m: spoiled(m, "triangles", -1), "triangles point at vertices -1"),
        (lambda m: dataclasses.replace(m, triangles=m.triangles[:0]), "nothing to write"),
        (lambda m: dataclasses.replace(m, uvs=m.uvs[:-1]), "uvs have shape"),
        (lambda m: dataclasses.replace(m, uvs=np.c_[m.uvs, m.uvs]), "uvs have shape"),
        (lambda m: dataclasses.replace(m, normals=m.normals[:-1]), "normals have shape"),
        (lambda m: dataclasses.replace(m, triangles=m.triangles.reshape(-1)), "triangles have shape"),
        (
            lambda m: dataclasses.replace(
                m, positions=m.positions[:0], normals=m.normals[:0], uvs=m.uvs[:0], triangles=m.triangles[:0]
            ),
            "nothing to write: 0 vertices",
        ),
        (
            lambda m: dataclasses.replace(
                m, material=Material(base_color=EncodedImage(b"GIF89a......", "image/png", 1, 1))
            ),
            "says it is image/png",
        ),
    ],
)
def test_nonsense_is_refused_by_name(ball, spoil, message):
    with pytest.raises(MeshError, match=message):
        write_glb(spoil(ball))


@pytest.mark.parametrize("extras", [{"seconds": float("nan")}, {"path": Path("x")}])
def test_notes_that_are_no_json_are_refused(ball, extras):
    with pytest.raises(MeshError, match="extras cannot be written as JSON"):
        write_glb(ball, extras=extras)


@pytest.mark.slow
def test_the_khronos_validator_has_nothing_to_say(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (NODE_MODULES / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not installed: npm ci --prefix tests/js")
    jpeg = encode_jpeg(picture())
    files = {
        **{kind: textured(base_color=encode(picture())) for kind, encode in ENCODERS.items()},
        "bare": textured(),
        "full": textured(
            base_color=jpeg, metallic_roughness=encode_png(picture(shade=9)),
            occlusion_in_red=True, alpha_mode="MASK", double_sided=True,
        ),
        "wide indices": textured(trimesh.creation.icosphere(subdivisions=6), base_color=jpeg),
    }  # fmt: skip
    for name, mesh in files.items():
        glb = write_glb(mesh, name=name, extras={"draft": True, "sku": "Stühle/7", "dims": [1, 2.5, None]})
        (tmp_path / f"{name}.glb").write_bytes(glb)
    script = f"""
        const validator = require({json.dumps(str(NODE_MODULES / "gltf-validator"))});
        const fs = require("fs");
        const files = fs.readdirSync(".").filter(name => name.endsWith(".glb"));
        Promise.all(files.map(async name => {{
            const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(name)));
            return [name, report.issues.messages.map(issue => issue.code)];
        }})).then(found => console.log(JSON.stringify(Object.fromEntries(found))));
    """
    done = subprocess.run([node, "-e", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        **{f"{name}.glb": [] for name in files},
        "bare.glb": ["UNUSED_OBJECT"],  # an information: UVs without a texture, kept for whoever adds one
    }
