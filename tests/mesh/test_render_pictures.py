"""Previews: what a shopper would notice, and what a hostile or odd GLB must not break."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trellis_pipeline.errors import MeshError, ModelFileError, TrellisError
from trellis_pipeline.mesh.render import VIEWS, preview_png, render_preview, render_views

BACKDROP = (255, 255, 255)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sphere(radius: float = 0.5, rings: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normals and triangles of a ball that stands on the floor."""
    polar, around = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1))
    normals = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], -1)
    at = np.arange(normals.shape[0] * normals.shape[1]).reshape(normals.shape[:2])
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    triangles = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    )
    normals = normals.reshape(-1, 3)
    return normals * radius + (0, radius, 0), normals, triangles


def quad(z: float = 0.0, half: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, texture coordinates and triangles of a square that faces the camera."""
    corners = np.array([(-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z)])
    return corners, np.array([(0, 1), (1, 1), (1, 0), (0, 0)]), np.array([(0, 1, 2), (0, 2, 3)])


def glb(*parts: dict[str, Any], images: tuple[bytes, ...] = (), mime: str = "image/png") -> bytes:
    """A GLB of parts: positions, triangles and optionally normals, uvs, material (as glTF JSON)."""
    blob = bytearray()
    document: dict[str, Any] = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}], "nodes": [], "meshes": [],
        "materials": [], "accessors": [], "bufferViews": [],
    }  # fmt: skip

    def view(data: bytes) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        document["bufferViews"].append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        blob.extend(data)
        return len(document["bufferViews"]) - 1

    def accessor(array: np.ndarray, kind: str, component: int) -> int:
        entry: dict[str, Any] = {"componentType": component, "count": len(array), "type": kind}
        flat = array if kind != "SCALAR" else array.reshape(-1)
        entry |= {"bufferView": view(flat.tobytes()), "count": len(flat)}
        if kind == "VEC3" and np.isfinite(array).all():
            entry |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        document["accessors"].append(entry)
        return len(document["accessors"]) - 1

    for part in parts:
        attributes = {"POSITION": accessor(np.asarray(part["positions"], "<f4"), "VEC3", 5126)}
        if "normals" in part:
            attributes["NORMAL"] = accessor(np.asarray(part["normals"], "<f4"), "VEC3", 5126)
        if "uvs" in part:
            attributes["TEXCOORD_0"] = accessor(np.asarray(part["uvs"], "<f4"), "VEC2", 5126)
        if "colors" in part:
            attributes["COLOR_0"] = accessor(np.asarray(part["colors"], "<f4"), "VEC4", 5126)
        primitive: dict[str, Any] = {
            "attributes": attributes,
            "indices": accessor(np.asarray(part["triangles"], "<u4"), "SCALAR", 5125),
        }
        if "material" in part:
            primitive["material"] = len(document["materials"])
            document["materials"].append(part["material"])
        document["scenes"][0]["nodes"].append(len(document["nodes"]))
        document["nodes"].append({"mesh": len(document["meshes"])})
        document["meshes"].append({"primitives": [primitive]})
    if images:
        document["images"] = [{"bufferView": view(data), "mimeType": mime} for data in images]
        document["textures"] = [{"source": n} for n in range(len(images))]
    document["buffers"] = [{"byteLength": len(blob)}]
    document = {key: value for key, value in document.items() if value != []}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob.extend(b"\0" * (-len(blob) % 4))
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def ball(
    color: tuple[float, ...] = (0.8, 0.8, 0.8), *, metallic: float = 0.0, roughness: float = 0.7
) -> bytes:
    positions, normals, triangles = sphere()
    pbr = {"baseColorFactor": [*color, 1.0][:4], "metallicFactor": metallic, "roughnessFactor": roughness}
    part = {"positions": positions, "normals": normals, "triangles": triangles}
    return glb({**part, "material": {"pbrMetallicRoughness": pbr}})


def card(material: dict[str, Any], *images: bytes, z: float = 0.0, uvs: np.ndarray | None = None) -> bytes:
    positions, corners, triangles = quad(z)
    part = {"positions": positions, "triangles": triangles, "uvs": corners if uvs is None else uvs}
    return glb({**part, "material": material}, images=images)


def middle(picture: np.ndarray, size: int = 8) -> np.ndarray:
    """Mean RGBA around the centre."""
    at = len(picture) // 2
    return picture[at - size : at + size, at - size : at + size].reshape(-1, 4).mean(0)


UNLIT = {"extensions": {"KHR_materials_unlit": {}}}


def test_a_preview_is_square_rgba_with_the_object_whole_and_centred() -> None:
    picture = render_preview(ball(), px=128)
    assert picture.shape == (128, 128, 4)
    assert picture.dtype == np.uint8
    solid = picture[..., 3] == 255
    rows, columns = np.where(solid.any(1))[0], np.where(solid.any(0))[0]
    for edges in (rows, columns):
        assert 8 <= edges[0] <= 14
        assert 8 <= 127 - edges[-1] <= 14


def test_the_same_file_gives_the_same_bytes() -> None:
    model = ball((0.5, 0.1, 0.1))
    assert preview_png(model, 96) == preview_png(model, 96)


def test_a_png_is_what_comes_out() -> None:
    picture = Image.open(io.BytesIO(preview_png(ball(), 64, background=BACKDROP)))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (64, 64))


@pytest.mark.parametrize("color", [(0.5, 0.02, 0.02), (0.02, 0.3, 0.05), (0.02, 0.05, 0.5)])
def test_a_product_keeps_its_colour(color: tuple[float, float, float]) -> None:
    picture = middle(render_preview(ball(color), px=96))[:3]
    assert int(np.argmax(picture)) == int(np.argmax(color))
    others = [value for n, value in enumerate(picture) if n != int(np.argmax(color))]
    assert max(picture) > 1.4 * max(others)


def test_brightness_is_that_of_a_shop_picture() -> None:
    white = middle(render_preview(ball((0.8, 0.8, 0.8)), px=96))[:3].mean()
    grey = middle(render_preview(ball((0.18, 0.18, 0.18)), px=96))[:3].mean()
    black = middle(render_preview(ball((0.01, 0.01, 0.01)), px=96))[:3].mean()
    assert 200 < white < 250
    assert 95 < grey < 150
    assert black < 55


def test_a_ball_is_shaded_not_flat() -> None:
    picture = render_preview(ball(), px=128).astype(float)
    light, dark = picture[30:50, 40:60, :3].mean(), picture[100:112, 60:70, :3].mean()
    assert light > dark + 40


def test_a_black_product_does_not_lose_its_shape() -> None:
    picture = render_preview(ball((0.005, 0.005, 0.005), roughness=0.3), px=128)
    inside = picture[20:108, 20:108, :3][picture[20:108, 20:108, 3] == 255]
    assert inside.max() > 90
    assert inside.std() > 8


def test_metal_mirrors_the_studio_and_matt_plastic_does_not() -> None:
    chrome = render_preview(ball((0.9, 0.9, 0.9), metallic=1.0, roughness=0.05), px=128)
    matt = render_preview(ball((0.9, 0.9, 0.9), roughness=1.0), px=128)

    def busy(picture: np.ndarray) -> float:
        grey = picture[40:90, 40:90, :3].mean(2)
        return float(np.abs(np.diff(grey, axis=1)).max())

    assert busy(chrome) > 4 * busy(matt)


def test_every_side_is_as_bright_as_the_front() -> None:
    pictures = render_views(ball(), ("front", "side", "back"), px=96)
    means = [middle(picture)[:3].mean() for picture in pictures]
    assert max(means) - min(means) < 12


def test_views_turn_around_the_object() -> None:
    positions, _, triangles = quad(0.0)
    positions[:, 0] *= 0.4
    red = {"pbrMetallicRoughness": {"baseColorFactor": [0.8, 0.0, 0.0, 1.0]}, **UNLIT}
    blue = {"pbrMetallicRoughness": {"baseColorFactor": [0.0, 0.0, 0.8, 1.0]}, **UNLIT}
    part = {"positions": positions, "triangles": triangles}
    back = {"positions": positions - (0, 0, 0.02), "triangles": triangles}
    model = glb({**part, "material": red}, {**back, "material": blue})
    front_view, back_view = render_views(model, ("front", "back"), px=96)
    assert middle(front_view, 3)[0] > 200 + middle(front_view, 3)[2]
    assert middle(back_view, 3)[2] > 200 + middle(back_view, 3)[0]


def test_views_share_one_scale() -> None:
    positions, normals, triangles = sphere()
    thin = glb({"positions": positions * (0.3, 1, 1), "normals": normals, "triangles": triangles})
    pictures = [picture[..., 3] == 255 for picture in render_views(thin, ("front", "side", "back"), px=96)]
    heights = [int(solid.any(1).sum()) for solid in pictures]
    widths = [int(solid.any(0).sum()) for solid in pictures]
    assert max(heights) - min(heights) <= 3
    assert widths[0] == widths[2]
    assert widths[1] > 3 * widths[0]


def test_the_picture_is_the_right_way_up_and_not_mirrored() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[:32, 32:] = (255, 0, 0), (0, 255, 0)
    image[32:, :32], image[32:, 32:] = (0, 0, 255), (255, 255, 255)
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **UNLIT}
    picture = render_preview(card(material, png(image)), px=96, view="front")
    assert tuple(picture[35, 35, :3]) == (255, 0, 0)
    assert tuple(picture[35, 60, :3]) == (0, 255, 0)
    assert tuple(picture[60, 35, :3]) == (0, 0, 255)
    assert tuple(picture[60, 60, :3]) == (255, 255, 255)


def test_unlit_colours_come_out_exactly() -> None:
    image = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **UNLIT}
    picture = render_preview(card(material, png(image)), px=64, view="front")
    assert np.abs(picture[32, 32, :3].astype(int) - (200, 120, 40)).max() <= 1


def test_fine_print_fades_to_its_mean_light_without_a_pattern() -> None:
    """A checkerboard finer than the pixels must come out as an even grey: 188, not 128, as light adds up."""
    board = (np.indices((2048, 2048)).sum(0) % 2 * 255).astype(np.uint8)
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **UNLIT}
    picture = render_preview(card(material, png(np.stack([board] * 3, -1))), px=64, view="front")
    inside = picture[20:44, 20:44, :3].astype(float)
    assert abs(inside.mean() - 188) < 3
    assert inside.std() < 2


def test_edges_are_smooth() -> None:
    """Along a slanted silhouette there are many shades of coverage, and each column falls off gradually."""
    alpha = render_preview(ball(), px=128, view="front")[:40, :, 3]
    partial = alpha[(alpha > 60) & (alpha < 250)]
    assert len(np.unique(partial)) >= 10


def test_there_is_a_soft_shadow_under_the_object_and_nowhere_else() -> None:
    alpha = render_preview(ball(), px=128)[..., 3].astype(int)
    shadow = np.where(alpha < 255, alpha, 0)
    assert shadow[100:, 30:100].max() > 40
    assert shadow[:40].max() <= 250
    assert (alpha[:8] == 0).all()
    assert np.abs(np.diff(shadow[118:, :], axis=1)).max() < 12


def test_on_a_background_nothing_is_transparent() -> None:
    picture = render_preview(ball(), px=64, background=(250, 240, 230))
    assert (picture[..., 3] == 255).all()
    assert tuple(picture[0, 0, :3]) == (250, 240, 230)


def test_a_mask_cuts_holes() -> None:
    image = np.full((64, 64, 4), 255, np.uint8)
    image[16:48, 16:48, 3] = 0
    pbr = {"baseColorTexture": {"index": 0}}
    cut = card({"pbrMetallicRoughness": pbr, "alphaMode": "MASK", **UNLIT}, png(image))
    whole = card({"pbrMetallicRoughness": pbr, **UNLIT}, png(image))
    assert render_preview(cut, px=64, view="front")[28, 32, 3] < 40
    assert render_preview(whole, px=64, view="front")[28, 32, 3] == 255


def test_glass_lets_through_what_stands_behind_it_in_the_right_order() -> None:
    def sheet(color: tuple[float, float, float], alpha: float, z: float) -> dict[str, Any]:
        positions, _, triangles = quad(z)
        material = {"pbrMetallicRoughness": {"baseColorFactor": [*color, alpha]}, **UNLIT}
        if alpha < 1:
            material["alphaMode"] = "BLEND"
        return {"positions": positions, "triangles": triangles, "material": material}

    wall, red, green = sheet((0, 0, 1), 1, -0.2), sheet((1, 0, 0), 0.5, 0.0), sheet((0, 1, 0), 0.5, 0.2)
    for parts in ((wall, red, green), (green, red, wall), (red, wall, green)):
        picture = render_preview(glb(*parts), px=64, view="front")
        # Linear light: half green, a quarter red, a quarter blue.
        assert np.abs(picture[32, 32].astype(int) - (137, 188, 137, 255)).max() <= 2


def test_vertex_colours_tint_the_parts_that_have_them() -> None:
    positions, _, triangles = quad()
    aside = np.array((0.5, 0.0, 0.0))
    left, right = positions - aside, positions + aside
    green = np.tile((0.0, 1.0, 0.0, 1.0), (4, 1))
    parts = (
        {"positions": left, "triangles": np.zeros((0, 3))},
        {"positions": left, "triangles": triangles, "material": UNLIT},
        {"positions": right, "triangles": triangles, "material": UNLIT, "colors": green},
    )
    picture = render_preview(glb(*parts), px=64, view="front")
    assert tuple(picture[32, 16]) == (255, 255, 255, 255)
    assert tuple(picture[32, 48]) == (0, 255, 0, 255)


def test_a_normal_map_changes_the_light() -> None:
    def lit(normal: tuple[int, int, int]) -> float:
        material = {"normalTexture": {"index": 0}, "pbrMetallicRoughness": {"metallicFactor": 0}}
        picture = render_preview(
            card(material, png(np.full((8, 8, 3), normal, np.uint8))), px=64, view="front"
        )
        return float(middle(picture)[:3].mean())

    flat, up, down = lit((128, 128, 255)), lit((128, 218, 218)), lit((128, 38, 218))
    assert up > flat > down


def test_both_sides_of_a_surface_are_drawn_and_lit() -> None:
    positions, _, triangles = quad()
    part = {"positions": positions, "triangles": triangles}
    there, behind = render_views(glb(part), ("front", "back"), px=64)
    assert middle(there)[3] == middle(behind)[3] == 255
    assert abs(middle(there)[:3].mean() - middle(behind)[:3].mean()) < 12


def test_inverted_normals_do_not_turn_a_model_black() -> None:
    positions, normals, triangles = sphere()
    good = glb({"positions": positions, "normals": normals, "triangles": triangles})
    for bad in (
        {"positions": positions, "normals": -normals, "triangles": triangles},
        {"positions": positions, "normals": normals, "triangles": triangles[:, ::-1]},
    ):
        difference = middle(render_preview(glb(bad), px=64)) - middle(render_preview(good, px=64))
        assert np.abs(difference).max() < 6


def test_a_model_without_normals_textures_or_materials_is_drawn() -> None:
    positions, _, triangles = sphere()
    picture = render_preview(glb({"positions": positions, "triangles": triangles}), px=64)
    assert 120 < middle(picture)[:3].mean() < 255


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
def test_size_and_place_in_the_world_do_not_change_the_picture(scale: float) -> None:
    positions, normals, triangles = sphere()
    near = {"positions": positions * scale, "normals": normals, "triangles": triangles}
    far = {
        "positions": (positions + np.array((3, -2, 5))) * scale,
        "normals": normals,
        "triangles": triangles,
    }
    plain = render_preview(ball((1, 1, 1)), px=48).astype(int)
    material = {
        "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 0.7}
    }
    for part in (near, far):
        picture = render_preview(glb({**part, "material": material}), px=48).astype(int)
        assert np.abs(picture - plain).mean() < 2


def test_loose_vertices_do_not_shrink_the_object() -> None:
    positions, normals, triangles = sphere()
    loose = glb({
        "positions": np.concatenate([positions, [(90.0, 90.0, 90.0)]]),
        "normals": np.concatenate([normals, [(0.0, 1.0, 0.0)]]),
        "triangles": triangles,
    })  # fmt: skip
    assert (render_preview(loose, px=64)[..., 3] == 255).mean() > 0.4


def test_textures_repeat_or_stop_at_the_edge_as_the_sampler_says() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **UNLIT}
    corners = np.array([(0, 1), (2, 1), (2, 0), (0, 0)], float)
    model = card(material, png(image), uvs=corners)
    assert render_preview(model, px=96, view="front")[48, 55, 0] > 250
    length = struct.unpack_from("<I", model, 12)[0]
    document = json.loads(model[20 : 20 + length])
    document["samplers"] = [{"wrapS": 33071, "wrapT": 33071}]
    document["textures"][0]["sampler"] = 0
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + model[20 + length :]
    clamped = struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
    assert render_preview(clamped, px=96, view="front")[48, 55, 0] < 5


def test_a_model_with_nothing_to_draw_is_an_error_that_says_so() -> None:
    positions, _, _ = quad()
    with pytest.raises(MeshError, match="no triangles"):
        render_preview(glb({"positions": positions, "triangles": np.zeros((0, 3))}))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_with_broken_coordinates_is_an_error_that_says_so(bad: float) -> None:
    positions, _, triangles = quad()
    positions[0, 0] = 7777.0
    model = glb({"positions": positions, "triangles": triangles}).replace(
        struct.pack("<f", 7777.0), struct.pack("<f", bad)
    )
    with pytest.raises((MeshError, ModelFileError), match=r"finite|not a number|NaN"):
        render_preview(model, px=32)


def test_a_texture_that_cannot_be_decoded_is_an_error_that_names_it() -> None:
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    image = png(np.zeros((64, 64, 3), np.uint8))
    for broken in (image[:60], image[:8] + b"\0" * 40):
        with pytest.raises(ModelFileError, match=r"textures\[0\]"):
            render_preview(card(material, broken), px=32)


def test_a_texture_that_claims_a_billion_pixels_is_refused_before_it_is_decoded() -> None:
    image = bytearray(png(np.zeros((1, 1, 3), np.uint8)))
    struct.pack_into(">II", image, 16, 50_000, 50_000)
    import zlib

    struct.pack_into(">I", image, 29, zlib.crc32(image[12:29]))
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    with pytest.raises(ModelFileError, match="2500000000 pixels"):
        render_preview(card(material, bytes(image)), px=32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e20])
@pytest.mark.parametrize("what", ["uvs", "normals", "colors"])
def test_attributes_that_are_no_numbers_leave_a_picture(what: str, bad: float) -> None:
    positions, uvs, triangles = quad()
    part: dict[str, Any] = {
        "positions": positions, "triangles": triangles, "uvs": np.array(uvs, float),
        "normals": np.tile((0.0, 0.0, 1.0), (4, 1)), "colors": np.ones((4, 4)),
        "material": {
            "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, "normalTexture": {"index": 0},
        },
    }  # fmt: skip
    part[what][1] = bad
    image = np.full((32, 32, 3), 200, np.uint8)
    picture = render_preview(glb(part, images=(png(image),)), px=48, view="front")
    assert picture.shape == (48, 48, 4)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_gives_a_picture_or_an_error_of_ours(changes: list[tuple[int, int]]) -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, "alphaMode": "BLEND"}
    data = bytearray(card(material, png(image)))
    for place, value in changes:
        data[12 + place % (len(data) - 12)] = value
    with contextlib.suppress(TrellisError):
        assert render_preview(bytes(data), px=16).shape == (16, 16, 4)


def test_garbage_is_not_a_model() -> None:
    with pytest.raises(ModelFileError):
        render_preview(b"garbage")


def test_unknown_views_and_sizes_are_refused_with_the_choice() -> None:
    with pytest.raises(MeshError, match="front, three_quarter"):
        render_preview(ball(), view="inside")
    for px in (0, 8, 100_000):
        with pytest.raises(MeshError, match="16 to 4096"):
            render_preview(ball(), px=px)
    assert list(VIEWS)[:2] == ["front", "three_quarter"]
