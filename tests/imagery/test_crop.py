"""The crop follows TRELLIS.2 to the pixel; the numbers here were worked out by hand from its rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trellis_pipeline.errors import MatteError
from trellis_pipeline.imagery.crop import CropBox, crop_to_object, cut, object_box, shrink, to_model_input


def canvas(height, width, rows, columns, alpha=255):
    """Numbered pixels with an opaque rectangle; rows and columns are inclusive pairs."""
    y, x = np.mgrid[0:height, 0:width]
    rgba = np.dstack([x, y, x + y, np.zeros_like(x)]).astype(np.uint8)
    rgba[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1, 3] = alpha
    return rgba


def test_the_side_is_one_pixel_less_than_the_bounding_box():
    rgba = canvas(50, 60, rows=(10, 30), columns=(20, 36))  # 21 rows: 30 - 10 = 20 on a side
    assert object_box(rgba[..., 3]) == CropBox(18, 10, 38, 30)
    assert crop_to_object(rgba).shape == (20, 20, 4)


def test_an_odd_extent_loses_another_pixel():
    rgba = canvas(50, 60, rows=(10, 31), columns=(20, 36))  # 21 // 2 = 10 on either side of 20.5
    assert object_box(rgba[..., 3]) == CropBox(18, 10, 38, 30)


def test_half_pixels_round_to_the_even_neighbour():
    rows = (10, 20)
    assert object_box(canvas(50, 60, rows, (20, 29))[..., 3]).left == 20  # 24.5 - 5 = 19.5
    assert object_box(canvas(50, 60, rows, (21, 30))[..., 3]).left == 20  # 25.5 - 5 = 20.5


def test_only_pixels_above_80_percent_opacity_count_but_others_are_kept():
    rgba = canvas(50, 50, rows=(10, 30), columns=(10, 30))
    rgba[20, 45, 3] = 204
    assert object_box(rgba[..., 3]) == CropBox(10, 10, 30, 30)
    rgba[20, 45, 3] = 205
    assert object_box(rgba[..., 3]).side == 34
    rgba[20, 28, 3] = 7
    assert crop_to_object(rgba)[:, :, 3].min() == 0
    assert 7 in crop_to_object(rgba)[..., 3]


def test_outside_the_photo_the_crop_is_transparent_black():
    rgba = canvas(40, 40, rows=(0, 30), columns=(0, 5))
    crop = crop_to_object(rgba)  # 30 on a side, centred on column 2.5
    assert crop.shape == (30, 30, 4)
    assert not crop[:, :12].any()
    assert np.array_equal(crop[:, 12:], rgba[:30, :18])


def test_larger_photos_shrink_to_1024_with_truncated_sides_and_small_ones_stay():
    assert shrink(np.zeros((1000, 1501, 4), np.uint8)).shape == (682, 1024, 4)  # 682.21
    assert shrink(np.zeros((4096, 2, 4), np.uint8)).shape == (1024, 1, 4)
    small = canvas(9, 9, (2, 4), (2, 4))
    assert shrink(small) is small


@given(st.integers(4, 60), st.integers(4, 60), st.data())
def test_cropping_agrees_with_pillow(height, width, data):
    rows = sorted(data.draw(st.tuples(*[st.integers(0, height - 1)] * 2)))
    columns = sorted(data.draw(st.tuples(*[st.integers(0, width - 1)] * 2)))
    rgba = canvas(height, width, rows, columns)
    half = max(rows[1] - rows[0], columns[1] - columns[0]) // 2
    if half == 0:
        with pytest.raises(MatteError):
            crop_to_object(rgba)
        return
    x, y = (columns[0] + columns[1]) / 2, (rows[0] + rows[1]) / 2
    expected = Image.fromarray(rgba).crop((x - half, y - half, x + half, y + half))
    assert np.array_equal(crop_to_object(rgba), np.asarray(expected))


def test_a_box_beside_the_image_is_empty():
    assert not cut(np.full((5, 5, 4), 9, np.uint8), CropBox(10, 10, 14, 14)).any()


def test_nothing_opaque_is_an_error_with_a_way_out():
    with pytest.raises(MatteError, match="use a photo where the object stands out"):
        crop_to_object(canvas(20, 20, (5, 15), (5, 15), alpha=204))


def test_the_model_sees_the_object_on_black_truncated_not_rounded():
    crop = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
    # 200 × 128 / 255 = 100.39, 50.196, 25.098
    assert to_model_input(crop).tolist() == [[[200, 100, 50], [100, 50, 25], [0, 0, 0]]]
