"""The benchmark's figures mean what they say: known shapes give known scores."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scores():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import shape_scores
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return shape_scores


def block(scores, size=(1.0, 1.0, 1.0), at=(0.0, 0.0, 0.0)):
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return scores.Shape(corners * size + np.asarray(at), np.array(triangles, dtype=np.int32))


def together(scores, *shapes):
    start = np.cumsum([0] + [len(s.points) for s in shapes])
    triangles = [s.triangles + n for s, n in zip(shapes, start, strict=False)]
    return scores.Shape(np.vstack([s.points for s in shapes]), np.vstack(triangles).astype(np.int32))


def share(scores, shape) -> float:
    """The volume that the grid finds, in a cube of side 1.5."""
    return scores.occupied(shape, 0.75).mean() * 1.5**3


def test_a_block_has_its_volume(scores) -> None:
    assert share(scores, block(scores, (1.0, 0.8, 0.5))) == pytest.approx(0.4, rel=0.03)


def test_a_block_inside_half_of_another_shares_half(scores) -> None:
    whole, half = block(scores), block(scores, (1.0, 0.5, 1.0), (0.0, 0.25, 0.0))
    assert scores.iou(scores.occupied(whole, 0.75), scores.occupied(half, 0.75)) == pytest.approx(
        0.5, abs=0.02
    )


def test_parts_that_run_into_each_other_are_counted_once(scores) -> None:
    both = together(
        scores, block(scores, (0.6, 0.6, 0.6), (-0.2, 0, 0)), block(scores, (0.6, 0.6, 0.6), (0.2, 0, 0))
    )
    assert share(scores, both) == pytest.approx(0.36, rel=0.04)


def test_turned_faces_and_a_small_hole_do_not_change_the_inside(scores) -> None:
    whole = block(scores)
    turned = whole.triangles.copy()
    turned[::3] = turned[::3, ::-1]
    assert share(scores, scores.Shape(whole.points, turned)) == pytest.approx(1.0, rel=0.04)
    assert share(scores, scores.Shape(whole.points, whole.triangles[1:])) == pytest.approx(1.0, rel=0.04)


def test_surfaces_buried_in_another_part_are_not_sampled(scores) -> None:
    bar = together(scores, block(scores, (0.9, 0.9, 0.9)), block(scores, (1.4, 0.1, 0.1)))
    points = scores.skin_samples(bar, scores.occupied(bar, 0.75), 0.75)
    assert (np.abs(points).max(axis=1) > 0.42).all()


def test_equal_shapes_score_full_marks_and_a_shift_costs_its_length(scores) -> None:
    one, other = block(scores), block(scores, at=(0.1, 0.0, 0.0))
    inside = scores.occupied(one, 0.75)
    first, again = scores.skin_samples(one, inside, 0.75), scores.skin_samples(one, inside, 0.75, seed=1)
    chamfer, f_score = scores.surface_scores(first, again)
    assert chamfer < 0.01
    assert f_score == pytest.approx(1.0, abs=0.005)
    moved = scores.skin_samples(other, scores.occupied(other, 0.75), 0.75)
    chamfer, f_score = scores.surface_scores(first, moved)
    assert 0.02 < chamfer < 0.1
    assert f_score < 0.9


def test_an_outline_is_compared_by_form_not_by_place_or_size(scores) -> None:
    small, large = np.zeros((200, 200), bool), np.zeros((900, 900), bool)
    small[20:60, 30:50] = True
    large[300:700, 500:700] = True
    assert scores.iou(scores.fitted(small), scores.fitted(large)) > 0.97
    large[300:700, 500:900] = True
    assert scores.iou(scores.fitted(small), scores.fitted(large)) < 0.8


def test_a_block_seen_from_its_corner_is_wider(scores) -> None:
    shape = block(scores)
    front = scores.outline(scores.seen_from(shape.points, 0, 0), shape.triangles, 256)
    corner = scores.outline(scores.seen_from(shape.points, 45, 0), shape.triangles, 256)
    assert front.mean() == pytest.approx(0.25, abs=0.01)
    assert corner.mean() == pytest.approx(0.25 * np.sqrt(2), abs=0.015)
