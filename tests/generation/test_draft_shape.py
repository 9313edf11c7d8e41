"""A draft is a solid thing that follows its photo's outline, whatever the outline is."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from trellis_pipeline.errors import GenerationError
from trellis_pipeline.generation.draft.build import build_draft
from trellis_pipeline.generation.draft.field import solve
from trellis_pipeline.generation.draft.model import DraftModel, DraftOptions
from trellis_pipeline.generation.draft.shape import build_solid, guess
from trellis_pipeline.generation.draft.silhouette import trace
from trellis_pipeline.mesh.camera import box_of, orthographic_front
from trellis_pipeline.mesh.clean import is_closed_manifold, weld
from trellis_pipeline.mesh.glb_read import Primitive, parse_glb, read_primitives
from trellis_pipeline.mesh.raster import silhouette
from trellis_pipeline.mesh.types import Mesh

SMALL = DraftOptions(max_triangles=3000, texture_px=128)


def png(alpha: np.ndarray, rgb: tuple[int, int, int] = (180, 120, 60)) -> bytes:
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = rgb
    pixels[..., 3] = alpha
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def geometry(model: DraftModel) -> Primitive:
    (primitive,) = read_primitives(parse_glb(model.glb))
    return primitive


def is_solid(model: DraftModel) -> bool:
    primitive = geometry(model)
    return is_closed_manifold(weld(Mesh(primitive.positions, primitive.triangles)).triangles)


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size] + 0.5
    return x / size, y / size


def bottle(size: int = 160) -> np.ndarray:
    x, y = grid(size)
    half = np.where(y < 0.3, 0.08, np.where(y < 0.4, 0.08 + (y - 0.3) * 1.4, 0.22))
    return np.where(np.abs(x - 0.5) < half, 255, 0).astype(np.uint8)


def teapot(size: int = 160) -> np.ndarray:
    x, y = grid(size)
    body = ((x - 0.45) / 0.3) ** 2 + ((y - 0.55) / 0.38) ** 2 < 1
    ring = np.hypot(x - 0.78, y - 0.5)
    handle = (ring < 0.2) & (ring > 0.14)
    spout = (np.abs(y - 0.9 + x * 0.8) < 0.05) & (x < 0.3)
    return np.where((body | handle | spout) & (y < 0.9), 255, 0).astype(np.uint8)


def chair(size: int = 160) -> np.ndarray:
    x, y = grid(size)
    seat = (np.abs(y - 0.55) < 0.03) & (np.abs(x - 0.5) < 0.3)
    legs = (np.abs(np.abs(x - 0.5) - 0.28) < 0.006) & (y > 0.55)
    back = (
        (y < 0.55) & (np.abs(x - 0.5) < 0.3) & ((np.abs(x - 0.5) > 0.28) | (np.abs((y * 10) % 1 - 0.5) < 0.2))
    )
    return np.where(seat | legs | back, 255, 0).astype(np.uint8)


OUTLINES = {"bottle": bottle, "teapot": teapot, "chair": chair}


@pytest.mark.parametrize("outline", OUTLINES)
def test_a_draft_is_a_closed_surface_that_fills_the_outline_of_its_photo(outline):
    alpha = OUTLINES[outline](400)
    model = build_draft(png(alpha), DraftOptions(texture_px=256), {})
    assert is_solid(model)
    seen = geometry(model)
    view = orthographic_front(box_of(seen.positions), margin=0.0)
    drawn = silhouette(seen.positions, seen.triangles, view, width=512, height=512)
    rows, columns = np.nonzero(alpha)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    side = max(height, width)
    framed = np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    framed[top : top + height, left : left + width] = (
        alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0
    )
    wanted = np.asarray(Image.fromarray(framed).resize((512, 512)))
    overlap = np.count_nonzero(drawn & wanted) / np.count_nonzero(drawn | wanted)
    assert overlap >= (0.93 if outline == "chair" else 0.97)


def test_a_bottle_is_turned_round_and_a_boot_is_inflated():
    x, y = grid(128)
    boot = ((np.abs(x - 0.7) < 0.2) | (y > 0.7)) & (y < 0.9) & (x < 0.9)
    assert build_draft(png(bottle()), SMALL, {}).method == "lathe"
    assert build_draft(png(np.where(boot, 255, 0).astype(np.uint8)), SMALL, {}).method == "inflate"


def test_a_bottle_is_about_as_deep_as_wide():
    points = geometry(build_draft(png(bottle()), SMALL, {})).positions
    width, _, depth = np.ptp(points, axis=0)
    assert 0.75 < depth / width < 1.25


def test_a_long_strip_gets_a_round_cross_section():
    coverage = np.zeros((64, 256), np.float32)
    coverage[22:42, 2:254] = 1.0  # half width 10 cells
    thickness = np.sqrt(solve(coverage, np.zeros(coverage.shape, bool)))
    across = np.arange(22, 42) + 0.5 - 32
    assert np.allclose(thickness[22:42, 128], np.sqrt(100 - across**2), atol=0.15)


@pytest.mark.parametrize("most", [64, 300, 2000])
@pytest.mark.parametrize("outline", OUTLINES)
def test_the_triangle_limit_is_never_crossed(outline, most):
    model = build_draft(png(OUTLINES[outline](96)), DraftOptions(max_triangles=most, texture_px=64), {})
    assert model.triangles <= most
    assert len(geometry(model).triangles) == model.triangles
    assert is_solid(model)


def test_the_handle_of_a_teapot_stays_open():
    model = build_draft(png(teapot()), SMALL, {})
    solid = weld(Mesh(geometry(model).positions, geometry(model).triangles))
    edges = len(solid.triangles) * 3 // 2
    assert len(solid.vertices) - edges + len(solid.triangles) == 0  # Euler characteristic of one handle


def test_a_hair_thin_leg_still_carries_the_seat():
    alpha = np.zeros((1024, 1024), np.uint8)
    alpha[:200] = 255
    alpha[200:, 500:503] = 255
    points = geometry(build_draft(png(alpha), SMALL, {})).positions
    assert np.ptp(points, axis=0)[1] == pytest.approx(1.0, abs=0.01)


def test_an_object_with_a_level_foot_stands_on_a_face_and_not_on_an_edge():
    points = geometry(build_draft(png(bottle()), SMALL, {})).positions
    foot = points[points[:, 1] < 0.01]
    assert np.ptp(foot[:, 2]) > 0.7 * np.ptp(points[:, 2])


def noise(size: int, share: float) -> np.ndarray:
    return np.where(np.random.default_rng(7).random((size, size)) < share, 255, 0).astype(np.uint8)


def sieve(size: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    return np.where((x // 13 % 2 == 0) & (y // 13 % 2 == 0), 0, 255).astype(np.uint8)


HOSTILE = {
    "empty": np.zeros((256, 256), np.uint8),
    "one pixel": np.pad(np.full((1, 1), 255, np.uint8), 100),
    "one-pixel line": np.pad(np.full((256, 1), 255, np.uint8), ((0, 0), (127, 128))),
    "full square": np.full((256, 256), 255, np.uint8),
    "checkerboard": (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8),
    "coarse checkerboard": (np.indices((256, 256)) // 16).sum(0).astype(np.uint8) % 2 * 255,
    "thousands of specks": noise(1024, 0.02),
    "fog": noise(512, 0.5),
    "thousands of holes": sieve(1024),
    "faint": np.full((64, 64), 90, np.uint8),
    "half transparent": np.full((64, 64), 140, np.uint8),
    "tiny image": np.full((8, 8), 255, np.uint8),
}


HOPELESS = {"empty", "one pixel", "checkerboard", "thousands of specks", "faint"}


@pytest.mark.parametrize("crop", HOSTILE)
def test_a_hostile_crop_gives_a_solid_or_a_clear_refusal(crop):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if crop in HOPELESS:
            with pytest.raises(GenerationError, match="no solid object"):
                build_draft(png(HOSTILE[crop]), SMALL, {})
        else:
            model = build_draft(png(HOSTILE[crop]), SMALL, {})
            assert is_solid(model)
            assert model.triangles <= SMALL.max_triangles


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "not a readable PNG"),
        (b"\x89PNG\r\n\x1a\n", "not a readable PNG"),
        (png(np.full((64, 64), 255, np.uint8))[:90], "not a readable PNG"),
        (png(np.full((64, 32), 255, np.uint8)), "square"),
        (png(np.full((1, 1), 255, np.uint8)), "px wide"),
    ],
)
def test_what_is_not_a_crop_is_refused_with_the_reason(bad, reason):
    with pytest.raises(GenerationError, match=reason):
        build_draft(bad, SMALL, {})


def test_a_photo_without_transparency_is_refused_because_it_has_no_outline():
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    with pytest.raises(GenerationError, match="alpha"):
        build_draft(out.getvalue(), SMALL, {})


MASKS = hnp.arrays(
    np.uint8, st.integers(2, 24).map(lambda n: (n, n)), elements=st.sampled_from([0, 130, 255])
)


@given(blocks=MASKS, scale=st.integers(1, 9), seed=st.integers(0, 99), simple=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_mask_gives_a_closed_surface_or_a_clear_refusal(blocks, scale, seed, simple):
    alpha = np.kron(blocks, np.ones((scale, scale), np.uint8))
    try:
        outline = trace(alpha, 48, simple=simple)
    except GenerationError as refusal:
        if "no solid object" not in str(refusal):
            raise
        return
    mesh = build_solid(outline, guess(outline, np.random.default_rng(seed)))
    assert is_closed_manifold(weld(mesh).triangles)
    assert np.ptp(mesh.vertices, axis=0).min() > 0


@given(blocks=MASKS, most=st.integers(64, 4000))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_any_mask_that_has_an_object_becomes_a_model_within_its_limit(blocks, most):
    alpha = np.kron(np.pad(blocks, 1, constant_values=255), np.ones((4, 4), np.uint8))
    model = build_draft(png(alpha), DraftOptions(max_triangles=most, texture_px=64), {})
    assert is_solid(model)
    assert model.triangles <= most


def test_a_mug_is_round_although_it_has_a_handle_on_one_side():
    x, y = grid(160)
    ring = np.hypot(x - 0.72, y - 0.5)
    mug = (np.abs(x - 0.45) < 0.28) & (np.abs(y - 0.5) < 0.4) | (ring < 0.2) & (ring > 0.14) & (x > 0.7)
    model = build_draft(png(np.where(mug, 255, 0).astype(np.uint8)), SMALL, {})
    points = geometry(model).positions
    width, height, depth = np.ptp(points, axis=0)
    assert model.method == "lathe"
    assert 0.6 * height < depth < width
    handle = points[points[:, 0] > points[:, 0].max() - 0.05 * width]
    assert np.ptp(handle[:, 2]) < 0.3 * depth


def test_a_known_depth_turns_a_stool_instead_of_stretching_its_legs():
    alpha = chair(320)
    alpha[:162] = 0  # a seat on two hair-thin legs
    stool = build_draft(png(alpha), DraftOptions(texture_px=64, height_m=0.45, depth_m=0.5), {})
    points = geometry(stool).positions
    leg = points[points[:, 1] < 0.3]
    assert np.ptp(points[:, 2]) == pytest.approx(0.5, abs=1e-5)
    assert np.ptp(leg[:, 2]) < 0.1
