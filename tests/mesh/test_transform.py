"""Models stand on the floor, centred, in the size the catalog says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.transform import place_on_floor, scale_to_dimensions

BOX = np.float32([[-1, 2, 5], [3, 4, 6]])  # 4 wide, 2 high, 1 deep


def extent(positions):
    return np.ptp(positions, axis=0).tolist()


def test_the_origin_becomes_the_bottom_centre():
    assert place_on_floor(BOX).tolist() == [[-2, 0, -0.5], [2, 2, 0.5]]


@given(arrays(np.float32, (7, 3), elements=st.floats(-100, 100, width=32)))
def test_any_model_stands_on_the_floor_and_is_not_deformed(positions):
    placed = place_on_floor(positions)
    low, high = placed.min(axis=0), placed.max(axis=0)
    assert low[1] == 0
    assert np.allclose(low[[0, 2]], -high[[0, 2]], atol=2e-5)
    assert np.allclose(placed - placed[0], positions - positions[0], atol=5e-5)


@pytest.mark.parametrize(
    ("given_m", "scaled"),
    [
        ({"height_m": 1}, [2, 1, 0.5]),
        ({"width_m": 1}, [1, 0.5, 0.25]),
        ({"depth_m": 2}, [8, 4, 2]),
        ({"width_m": 9, "depth_m": 9, "height_m": 4}, [8, 4, 2]),
        ({"width_m": 8, "depth_m": 9}, [8, 4, 2]),
        ({}, [4, 2, 1]),
    ],
)
def test_one_dimension_sets_the_scale_and_the_proportions_stay(given_m, scaled):
    assert extent(scale_to_dimensions(place_on_floor(BOX), **given_m)) == scaled


def test_a_scaled_model_stays_on_the_floor():
    scaled = scale_to_dimensions(place_on_floor(BOX), height_m=0.8)
    assert scaled.min(axis=0) == pytest.approx([-0.8, 0, -0.2])
    assert scaled.dtype == np.float32


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_a_dimension_that_is_no_length_is_refused_even_if_another_decides(bad):
    with pytest.raises(MeshError, match="width_m"):
        scale_to_dimensions(BOX, height_m=1, width_m=bad)


def test_a_flat_model_cannot_be_scaled_by_its_thickness():
    with pytest.raises(MeshError, match="flat"):
        scale_to_dimensions(BOX * np.float32([1, 0, 1]), height_m=1)


@pytest.mark.parametrize("rows", [np.zeros((0, 3)), np.zeros((3, 2)), np.full((2, 3), np.nan)])
def test_positions_that_are_none_are_refused(rows):
    with pytest.raises(MeshError, match="positions"):
        place_on_floor(rows.astype(np.float32))
