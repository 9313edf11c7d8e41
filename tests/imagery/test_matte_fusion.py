"""How the network's opinion and the background's colour are added up, on scenes to check by hand."""

import numpy as np
import pytest

from trellis_pipeline.imagery.matte.classical import flood, object_mask, read_background, to_lab
from trellis_pipeline.imagery.matte.edges import clean_colours, refine_edges
from trellis_pipeline.imagery.matte.fuse import (
    agreement,
    drop_specks,
    fill_opaque_holes,
    fuse,
    shadow_likeness,
)

BOX = (slice(60, 150), slice(70, 140))


def scene(colour=(180, 40, 40), background=245):
    """A 200 px photo of a box on a plain background, and the box's mask."""
    rgb = np.full((200, 200, 3), background, dtype=np.uint8)
    rgb[BOX] = colour
    mask = np.zeros((200, 200), dtype=bool)
    mask[BOX] = True
    return rgb, mask


def fused(rgb, probability):
    lab = to_lab(rgb)
    background = read_background(lab)
    shadow = shadow_likeness(lab, background, probability)
    return fuse(background, shadow, probability), agreement(background, shadow, probability)


def sure(mask):
    return np.where(mask, 0.99, 0.01).astype(np.float32)


def test_where_both_agree_the_object_is_exact_and_the_agreement_complete():
    rgb, mask = scene()
    found, agreed = fused(rgb, sure(mask))
    assert np.array_equal(found, mask)
    assert agreed == 1


def test_a_part_that_the_network_drops_comes_back_and_lowers_the_agreement():
    rgb, mask = scene()
    half = mask.copy()
    half[105:] = False
    found, agreed = fused(rgb, sure(half))
    assert np.array_equal(found, mask)
    assert agreed == pytest.approx(0.5, abs=0.01)


def test_a_shadow_is_left_out_and_does_not_lower_the_agreement():
    rgb, mask = scene()
    y, x = np.mgrid[0:200, 0:200]
    dark = np.exp(-(((x - 105) / 60) ** 2 + ((y - 150) / 12) ** 2))[..., None] * ~mask[..., None]
    found, agreed = fused((rgb * (1 - 0.5 * dark)).astype(np.uint8), sure(mask))
    assert (found ^ mask).sum() < 100  # of 6,300; without the shadow rule some 1,600
    assert agreed > 0.97


def test_an_area_like_the_background_stays_where_the_network_is_sure_and_opens_where_it_hesitates():
    rgb, mask = scene()
    rgb[90:120, 90:120] = 245
    probability = sure(mask)
    assert fused(rgb, probability)[0][90:120, 90:120].all()
    probability[90:120, 90:120] = 0.7
    assert not fused(rgb, probability)[0][92:118, 92:118].any()


def test_on_a_rough_background_only_the_network_decides():
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
    _, mask = scene()
    assert np.array_equal(fused(rgb, sure(mask))[0], mask)


def test_enclosed_holes_close_unless_the_background_shows_through():
    _, mask = scene()
    mask[80:90, 80:90] = mask[110:120, 80:90] = False
    ratio = np.where(mask, 9, 0.1).astype(np.float32)
    ratio[80:90, 80:90] = 4
    filled = fill_opaque_holes(mask, ratio)
    assert filled[80:90, 80:90].all()
    assert not filled[110:120, 80:90].any()
    assert not filled[0].any()


def test_specks_go_unless_the_network_sees_them_too():
    _, mask = scene()
    mask[10, 10] = mask[190, 190] = True
    probability = sure(mask)
    probability[10, 10] = 0.2
    kept = drop_specks(mask, probability)
    assert not kept[10, 10]
    assert kept[190, 190]
    assert kept[BOX].all()
    assert not drop_specks(np.zeros((9, 9), bool), np.zeros((9, 9), np.float32)).any()


def test_a_background_that_brightens_towards_one_side_is_followed():
    rgb, mask = scene()
    ramp = np.linspace(0.6, 1, 200)[None, :, None]
    rgb[~mask] = (np.full((200, 200, 3), 245) * ramp)[~mask].astype(np.uint8)
    assert np.array_equal(~flood(read_background(to_lab(rgb))), mask)


def test_an_object_that_touches_the_frame_does_not_bend_the_background():
    rgb, _ = scene()
    rgb[120:, 60:150] = (20, 60, 30)
    background = read_background(to_lab(rgb))
    assert background.distance[:, :40].max() < 1
    assert object_mask(rgb)[150:, 70:140].all()


def test_a_half_covered_pixel_gets_half_the_alpha_and_the_colour_of_the_object():
    rgb, mask = scene()
    rgb[60:150, 139] = (np.array([180, 40, 40]) + 245) // 2
    lab = to_lab(rgb)
    alpha = refine_edges(lab, read_background(lab), mask)
    assert alpha[100, 138] == 1
    assert alpha[100, 141] == 0
    assert 0.3 < alpha[100, 139] < 0.7
    cleaned = clean_colours(rgb, np.rint(alpha * 255).astype(np.uint8))
    assert cleaned[100, 139, 1] < 85  # 40 is the box, 142 the mixture
    assert cleaned[0, 0].tolist() == [0, 0, 0]
