"""Which surface point lies under which texel, and what the empty ones are filled with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import fill_gutter, rasterize_atlas, texel_positions, texel_values

SQUARE = np.float32([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
TWO = np.int32([[0, 1, 2], [0, 2, 3]])


def test_a_square_of_two_triangles_covers_its_texels_once_and_touches_the_next_ring():
    raster = rasterize_atlas(SQUARE, TWO, 16)
    assert raster.overlap_texels == 0
    assert not raster.overlapping.any()
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    assert raster.covered[inside].all()
    ring = np.zeros((16, 16), bool)
    ring[3:13, 3:13] = True
    assert not raster.covered[~ring].any()
    assert raster.covered[
        3, 4:12
    ].all()  # the outline runs along these texels, half a texel from their centres


def test_row_zero_is_the_top_of_the_image():
    raster = rasterize_atlas(np.float32([[0, 0], [0.5, 0], [0, 0.25]]), np.int32([[0, 1, 2]]), 32)
    assert raster.covered[0, :15].all()
    assert not raster.covered[10:].any()


def test_either_winding_gives_the_same_points():
    one = rasterize_atlas(SQUARE, TWO, 33)
    other = rasterize_atlas(SQUARE, TWO[:, ::-1].copy(), 33)
    positions = np.column_stack([SQUARE, SQUARE[:, 0]])
    first, second = texel_positions(one, TWO, positions), texel_positions(other, TWO[:, ::-1], positions)
    assert np.array_equal(first[0], second[0])
    assert np.allclose(first[1], second[1], atol=1e-6)


def test_points_interpolate_exactly_inside_and_stop_at_the_outline():
    px = 64
    raster = rasterize_atlas(SQUARE, TWO, px)
    flat, found = texel_values(raster, TWO, SQUARE)
    centres = np.column_stack([flat % px + 0.5, flat // px + 0.5]) / px
    inside = ((centres > 0.25) & (centres < 0.75)).all(axis=1)
    assert np.allclose(found[inside], centres[inside], atol=1e-6)
    assert np.allclose(found, np.clip(centres, 0.25, 0.75), atol=1e-6)
    assert np.array_equal(flat, np.flatnonzero(raster.covered))


def test_a_sliver_that_contains_no_texel_centre_still_gets_texels():
    sliver = np.float32([[0.1, 0.5], [0.9, 0.5], [0.5, 0.5005]])
    raster = rasterize_atlas(sliver, np.int32([[0, 1, 2]]), 16)
    assert raster.covered.sum() >= 12
    assert raster.overlap_texels == 0


def test_charts_on_top_of_each_other_are_counted_and_named():
    uvs = np.concatenate([SQUARE, SQUARE + np.float32(0.125), SQUARE * np.float32(0.2)])
    triangles = np.concatenate([TWO, TWO + 4, TWO + 8]).astype(np.int32)
    raster = rasterize_atlas(uvs, triangles, 16)
    assert raster.overlap_texels == 6 * 6
    assert raster.overlapping.tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize("corner_first", [0, 1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_edges_that_run_right_through_texel_centres_belong_to_one_side(corner_first, turned):
    px = 16
    rows = np.r_[0, np.arange(1, px, 2) + 0.5, px] / px
    count = len(rows)
    uvs = np.stack(np.meshgrid(rows, rows), -1).reshape(-1, 2).astype(np.float32)
    at = np.arange(count**2).reshape(count, count)
    a, b, c, d = (
        at[i : count - 1 + i, j : count - 1 + j].ravel() for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))
    )
    triangles = np.concatenate([np.column_stack([a, b, c]), np.column_stack([a, c, d])]).astype(np.int32)
    triangles = np.roll(triangles, corner_first, axis=1)
    triangles = triangles[:, ::-1].copy() if turned else triangles
    raster = rasterize_atlas(uvs, triangles, px)
    assert raster.overlap_texels == 0
    _, found = texel_values(raster, triangles, uvs)
    centres = (np.stack(np.meshgrid(np.arange(px), np.arange(px)), -1).reshape(-1, 2) + 0.5) / px
    assert np.allclose(found, centres, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    grid=arrays(np.float32, (6, 6, 2), elements=st.floats(-0.0625, 0.0625, width=32)),
    px=st.integers(5, 60),
)
def test_triangles_that_share_edges_never_overlap_and_leave_no_gap(grid, px):
    spot = np.stack(np.meshgrid(np.linspace(0, 1, 6), np.linspace(0, 1, 6)), -1)
    spot[1:-1, 1:-1] += grid[1:-1, 1:-1]
    at = np.arange(36).reshape(6, 6)
    a, b, c, d = (at[i : 5 + i, j : 5 + j].ravel() for i, j in ((0, 0), (0, 1), (1, 1), (1, 0)))
    triangles = np.concatenate([np.column_stack([a, b, c]), np.column_stack([a, c, d])]).astype(np.int32)
    raster = rasterize_atlas(spot.reshape(-1, 2).astype(np.float32), triangles, px)
    assert raster.overlap_texels == 0
    assert raster.covered.all()
    assert raster.barycentrics.min() >= 0
    assert raster.barycentrics.sum(axis=2).max() <= 1 + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    uvs=arrays(np.float32, (9, 2), elements=st.floats(0, 1, width=32)),
    triangles=arrays(np.int32, (6, 3), elements=st.integers(0, 8)),
)
def test_any_triangles_are_rasterised_with_weights_that_sum_to_one(uvs, triangles):
    raster = rasterize_atlas(uvs, triangles, 24)
    flat, found = texel_values(raster, triangles, uvs)
    centres = np.column_stack([flat % 24 + 0.5, flat // 24 + 0.5])
    assert np.abs(found * 24 - centres).max(initial=0) <= 0.75 + 1e-3


@pytest.mark.parametrize(
    ("uvs", "px", "message"),
    [
        (SQUARE + 1, 16, "uvs reach"),
        (SQUARE * np.float32("nan"), 16, "finite"),
        (SQUARE[:, :1], 16, "shape"),
        (SQUARE, 0, "0 px"),
        (SQUARE, 40000, "40000 px"),
    ],
)
def test_layouts_that_cannot_be_rasterised_are_refused(uvs, px, message):
    with pytest.raises(MeshError, match=message):
        rasterize_atlas(uvs, TWO, px)


def test_empty_texels_take_the_colour_of_the_nearest_painted_one():
    image = np.zeros((32, 32, 3), np.uint8)
    covered = np.zeros((32, 32), bool)
    covered[4:8, 4:8] = covered[20:28, 20:28] = True
    image[4:8, 4:8], image[20:28, 20:28] = (255, 0, 0), (0, 0, 255)
    filled = fill_gutter(image, covered)
    assert filled[0, 0].tolist() == [255, 0, 0]
    assert filled[31, 31].tolist() == [0, 0, 255]
    assert filled[10, 10].tolist() == [255, 0, 0]
    assert np.array_equal(filled[covered], image[covered])
    assert image[0, 0].tolist() == [0, 0, 0]  # the input is left alone


def test_colour_flows_only_as_far_as_told():
    image = np.zeros((32, 32), np.float32)
    covered = np.zeros((32, 32), bool)
    covered[16, 16] = True
    image[16, 16] = 0.5
    filled = fill_gutter(image, covered, distance_px=4)
    assert filled[16, 20] == np.float32(0.5)
    assert filled[16, 21] == 0
    assert filled[20, 20] == 0


def test_the_smallest_mip_map_is_free_of_background():
    rng = np.random.default_rng(3)
    covered = rng.random((64, 64)) < 0.05
    image = np.where(covered[..., None], np.uint8([200, 150, 100]), np.uint8(0))
    assert (fill_gutter(image, covered) == [200, 150, 100]).all()


@pytest.mark.parametrize("share", [0, 1])
def test_an_atlas_with_nothing_or_everything_painted_stays_as_it_is(share):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(fill_gutter(image, np.full((4, 4), bool(share))), image)


def test_coverage_of_another_size_is_refused():
    with pytest.raises(MeshError, match="coverage"):
        fill_gutter(np.zeros((4, 4, 3), np.uint8), np.ones((5, 4), bool))
