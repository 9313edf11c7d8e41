"""What stands in a draft's file: an honest label, true measures, and the same bytes for the same wish."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from trellis_pipeline.errors import MeshError
from trellis_pipeline.generation.draft.build import build_draft
from trellis_pipeline.generation.draft.model import DraftModel, DraftOptions
from trellis_pipeline.mesh.glb_read import image_bytes, parse_glb, read_primitives


def crop(size: int = 160, *, turned: bool = False) -> bytes:
    """A vase with a red print on blue, or a lopsided jug."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    half = 0.2 + 0.12 * np.sin(y * 5)
    middle = 0.5 + (0.12 * np.sin(y * 6) if turned else 0.0)
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., :3] = (40, 70, 190)
    pixels[np.hypot(x - 0.5, y - 0.5) < 0.1, :3] = (230, 30, 30)
    pixels[..., 3] = np.where(np.abs(x - middle) < half, 255, 0)
    pixels[pixels[..., 3] == 0, :3] = (0, 255, 0)  # what a careless matte leaves behind
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def document(model: DraftModel) -> dict:
    (length,) = struct.unpack_from("<I", model.glb, 12)
    return json.loads(model.glb[20 : 20 + length])


def box(model: DraftModel) -> tuple[np.ndarray, np.ndarray]:
    (primitive,) = read_primitives(parse_glb(model.glb))
    return primitive.positions.min(axis=0), primitive.positions.max(axis=0)


def texture(model: DraftModel) -> np.ndarray:
    data, _ = image_bytes(parse_glb(model.glb), 0)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def colours(model: DraftModel) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the triangles' centres (height 1), and the texture's colour there."""
    (primitive,) = read_primitives(parse_glb(model.glb))
    centre = primitive.positions[primitive.triangles].mean(axis=1)
    uv = primitive.uvs[primitive.triangles].mean(axis=1)
    image = texture(model)
    return centre, image[(uv[:, 1] * image.shape[0]).astype(int), (uv[:, 0] * image.shape[1]).astype(int)]


SMALL = DraftOptions(max_triangles=3000, texture_px=256)


def with_size(**dimensions: float) -> DraftOptions:
    return DraftOptions(max_triangles=2000, texture_px=64, **dimensions)


@pytest.fixture(scope="module")
def vase() -> DraftModel:
    return build_draft(crop(), SMALL, {"sku": "VASE-1"})


def test_the_file_says_that_it_is_a_draft_and_keeps_what_the_caller_wrote(vase):
    asset = document(vase)["asset"]
    assert asset["extras"]["sku"] == "VASE-1"
    assert "not a generated model" in asset["extras"]["draft"]["what"]
    assert asset["extras"]["draft"]["seed"] == 0
    assert asset["extras"]["draft"]["method"] == vase.method
    assert "draft" in document(vase)["materials"][0]["name"]
    assert "draft" in document(vase)["meshes"][0]["name"]


def test_the_same_wish_gives_the_same_bytes(vase):
    assert build_draft(crop(), SMALL, {"sku": "VASE-1"}).glb == vase.glb


@pytest.mark.parametrize("turned", [False, True])
def test_another_seed_gives_another_body(turned):
    wishes = [DraftOptions(max_triangles=2000, texture_px=64, seed=seed) for seed in (0, 1, 2**63)]
    depths = {round(build_draft(crop(turned=turned), wish, {}).depth_ratio, 3) for wish in wishes}
    assert len(depths) == 3
    assert max(depths) / min(depths) < 2.0


def test_with_no_dimensions_the_longest_side_is_one_metre(vase):
    low, high = box(vase)
    assert (high - low).max() == pytest.approx(1.0, abs=1e-5)


def test_the_height_sets_the_scale_and_the_origin_is_the_bottom_centre():
    low, high = box(build_draft(crop(), with_size(height_m=0.3, width_m=9.0), {}))
    assert high[1] - low[1] == pytest.approx(0.3, abs=1e-6)
    assert low[1] == 0.0
    assert low[[0, 2]] == pytest.approx(-high[[0, 2]], abs=1e-6)


def test_the_width_sets_the_scale_when_there_is_no_height():
    low, high = box(build_draft(crop(), with_size(width_m=0.2), {}))
    assert high[0] - low[0] == pytest.approx(0.2, abs=1e-6)


def test_a_lone_depth_sets_the_scale_and_keeps_the_proportions():
    low, high = box(build_draft(crop(), with_size(depth_m=0.2), {}))
    free_low, free_high = box(build_draft(crop(), with_size(), {}))
    assert high[2] - low[2] == pytest.approx(0.2, abs=1e-6)
    assert (high - low) / 0.2 == pytest.approx((free_high - free_low) / (free_high - free_low)[2], rel=1e-4)


def test_a_depth_beside_another_dimension_replaces_the_guess():
    model = build_draft(crop(), with_size(height_m=1.0, depth_m=0.05), {})
    low, high = box(model)
    assert high[2] - low[2] == pytest.approx(0.05, abs=1e-6)
    assert high[1] - low[1] == pytest.approx(1.0, abs=1e-6)
    assert model.depth_ratio == pytest.approx(0.05, rel=1e-3)
    assert document(model)["asset"]["extras"]["draft"]["depth"] == "given"


@pytest.mark.parametrize("limit", [64, 100, 512, 1000, 8192])
def test_the_texture_is_a_power_of_two_within_the_limit_and_no_larger_than_the_photo_deserves(limit):
    model = build_draft(crop(), DraftOptions(max_triangles=2000, texture_px=limit), {})
    height, width, _ = texture(model).shape
    assert height == width == model.texture_px <= limit
    assert model.texture_px & (model.texture_px - 1) == 0
    assert model.texture_px <= 512  # the photo has 160 px


def test_the_front_is_the_photo(vase):
    where, colour = colours(vase)
    print_area = (np.hypot(where[:, 0], where[:, 1] - 0.5) < 0.07) & (where[:, 2] > 0.1)
    assert print_area.sum() > 5
    assert np.abs(colour[print_area] - (230, 30, 30)).max() < 40


def test_the_back_has_the_colours_of_the_front_but_not_its_print(vase):
    where, colour = colours(vase)
    behind = where[:, 2] < -0.1
    assert behind.sum() > 50
    assert (colour[behind, 2] > colour[behind, 0] + 40).all()  # blue everywhere, no red disc


def test_the_background_does_not_shine_through_at_the_outline(vase):
    _, colour = colours(vase)
    assert (colour[:, 1] < 110).all()  # the background is pure green


@pytest.mark.parametrize(
    "options",
    [
        DraftOptions(max_triangles=10),
        DraftOptions(texture_px=1),
        DraftOptions(height_m=0.0),
        DraftOptions(width_m=float("nan")),
        DraftOptions(depth_m=float("inf")),
    ],
)
def test_impossible_limits_and_dimensions_are_refused(options):
    with pytest.raises(MeshError):
        build_draft(crop(), options, {})
