"""Flags speak up for photos that waste money and stay silent for ordinary products."""

import cv2
import numpy as np
import pytest

from trellis_pipeline.imagery.triage import TriageLimits, triage


def mask(*rectangles, size=(400, 400)):
    """Alpha with opaque rectangles, each (top, left, bottom, right)."""
    alpha = np.zeros(size, dtype=np.uint8)
    for top, left, bottom, right in rectangles:
        alpha[top:bottom, left:right] = 255
    return alpha


def codes(alpha, **options):
    return [flag.code for flag in triage(alpha, limits=TriageLimits(), **options)]


def test_an_ordinary_product_has_no_flags():
    assert codes(mask((60, 100, 340, 300)), agreement=0.97) == []


def test_an_object_that_leaves_the_photo_is_named_with_the_edge():
    flags = triage(mask((100, 100, 400, 300)), limits=TriageLimits())
    assert [flag.code for flag in flags] == ["cut_by_frame"]
    assert "at the bottom" in flags[0].message


def test_a_trimmed_cut_out_and_a_tip_at_the_edge_are_not_cut_by_the_frame():
    ellipse = cv2.ellipse(np.zeros((300, 200), np.uint8), (99, 149), (100, 150), 0, 0, 360, 255, -1)
    assert codes(ellipse) == []
    assert codes(mask((0, 195, 60, 205), (60, 100, 340, 300))) == []


def test_two_products_far_apart_are_several_objects():
    flags = triage(mask((150, 20, 250, 120), (150, 280, 250, 380)), limits=TriageLimits())
    assert [flag.code for flag in flags] == ["several_objects"]
    assert flags[0].message.startswith("2 separate objects")


def test_four_products_in_a_row_are_several_objects_even_close_together():
    assert codes(mask(*[(150, 20 + 95 * i, 300, 95 + 95 * i) for i in range(4)])) == ["several_objects"]


def test_a_pair_of_boots_side_by_side_is_one_product():
    assert codes(mask((80, 40, 320, 180), (80, 210, 320, 350))) == []


def test_a_chair_whose_legs_came_apart_and_a_product_with_a_loose_part_are_one_object():
    legs = [(220, 110 + 55 * i, 360, 122 + 55 * i) for i in range(4)]
    assert codes(mask((60, 100, 210, 300), *legs)) == []
    assert codes(mask((60, 60, 340, 200), (280, 330, 340, 380))) == []


def test_specks_are_not_objects():
    alpha = mask((100, 100, 300, 300))
    alpha[np.random.default_rng(0).integers(0, 400, 60), np.random.default_rng(1).integers(0, 400, 60)] = 255
    assert "several_objects" not in codes(alpha)


def test_a_small_object_is_judged_in_pixels_of_the_original_photo():
    small = mask((180, 180, 240, 240))
    assert codes(small) == ["tiny_object"]
    assert codes(small, scale=4.0) == []


def test_nearly_empty_and_nearly_full_mattes_are_flagged():
    assert "nearly_empty" in codes(mask((200, 200, 220, 220)))
    assert "nearly_full" in codes(mask((2, 2, 398, 398)))


def test_mattes_that_disagree_are_flagged_and_a_single_opinion_is_not():
    alpha = mask((60, 100, 340, 300))
    assert codes(alpha, agreement=0.41) == ["low_agreement"]
    assert "41%" in triage(alpha, limits=TriageLimits(), agreement=0.41)[0].message
    assert codes(alpha, agreement=None) == []


@pytest.mark.parametrize("limit", [0.3, 0.5])
def test_limits_are_adjustable(limit):
    flags = triage(mask((60, 100, 340, 300)), limits=TriageLimits(max_share=limit))
    assert [flag.code for flag in flags] == (["nearly_full"] if limit == 0.3 else [])
