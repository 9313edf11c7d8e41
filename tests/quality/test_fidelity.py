from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import trimesh

from trellis_pipeline.quality.fidelity import silhouette_iou


def iou(mesh: trimesh.Trimesh, alpha: npt.NDArray[np.uint8]) -> float:
    return silhouette_iou(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), alpha)


def disc(size: int, centre: tuple[float, float], radius: float) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size] + 0.5
    return np.where((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2, 255, 0).astype(np.uint8)


def test_a_ball_fits_the_photo_of_a_ball_wherever_it_is_in_the_photo() -> None:
    ball = trimesh.creation.icosphere(5)
    assert iou(ball, disc(256, (128, 128), 100)) > 0.98
    assert iou(ball, disc(256, (70, 190), 40)) > 0.95


def test_the_models_own_size_and_place_do_not_matter() -> None:
    ball = trimesh.creation.icosphere(4)
    before = iou(ball, disc(200, (100, 100), 80))
    ball.apply_scale(0.01)
    ball.apply_translation([5, -3, 2])
    assert iou(ball, disc(200, (100, 100), 80)) == pytest.approx(before, abs=0.01)


def test_a_square_against_a_disc_overlaps_by_a_quarter_of_pi() -> None:
    assert iou(trimesh.creation.box(), disc(400, (200, 200), 180)) == pytest.approx(np.pi / 4, abs=0.01)


def test_a_model_standing_on_its_head_scores_less() -> None:
    cone = trimesh.creation.cone(0.5, 1.0)
    cone.apply_transform(
        trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])
    )  # its tip up, along Y
    alpha = np.zeros((200, 200), np.uint8)
    for row in range(20, 180):
        half = (row - 20) / 160 * 80
        alpha[row, int(100 - half) : int(100 + half) + 1] = 255
    upright = iou(cone, alpha)
    cone.apply_transform(trimesh.transformations.rotation_matrix(np.pi, [0, 0, 1]))
    assert upright > 0.95
    assert iou(cone, alpha) < 0.6


def test_a_hole_in_the_object_counts() -> None:
    ring = trimesh.creation.annulus(r_min=0.5, r_max=1.0, height=0.2)
    alpha = disc(300, (150, 150), 120)
    solid = iou(ring, alpha)
    assert solid == pytest.approx(0.75, abs=0.02)
    alpha[disc(300, (150, 150), 60) > 0] = 0
    assert iou(ring, alpha) > 0.95


def test_faint_shadow_around_the_object_is_not_the_object() -> None:
    alpha = disc(256, (128, 128), 60)
    alpha[(disc(256, (128, 128), 110) > 0) & (alpha == 0)] = 180
    assert iou(trimesh.creation.icosphere(4), alpha) > 0.95


def test_nothing_to_compare_scores_zero() -> None:
    ball = trimesh.creation.icosphere(1)
    assert iou(ball, np.zeros((64, 64), np.uint8)) == 0.0
    points = ball.vertices.astype(np.float32)
    empty = np.zeros((0, 3), np.int32)
    assert silhouette_iou(points, empty, disc(64, (32, 32), 20)) == 0.0
    assert (
        silhouette_iou(np.full_like(points, np.nan), ball.faces.astype(np.int32), disc(64, (32, 32), 20))
        == 0.0
    )
    assert silhouette_iou(np.zeros_like(points), ball.faces.astype(np.int32), disc(64, (32, 32), 20)) == 0.0


def test_wild_coordinates_do_not_break_it() -> None:
    ball = trimesh.creation.icosphere(2)
    points = ball.vertices.astype(np.float32)
    points[0] = [3e38, -3e38, 0]
    points[1] = [np.nan, 0, 0]
    assert 0.0 <= silhouette_iou(points, ball.faces.astype(np.int32), disc(64, (32, 32), 20)) <= 1.0


def test_triangles_that_meet_leave_no_gap_between_them() -> None:
    rng = np.random.default_rng(3)
    points = np.vstack([[[0, 0], [1, 0], [0, 1], [1, 1]], rng.random((300, 2))])
    from scipy.spatial import Delaunay

    flat = np.column_stack([points, np.zeros(len(points))]).astype(np.float32)
    triangles = Delaunay(points).simplices.astype(np.int32)
    assert silhouette_iou(flat, triangles, np.full((128, 128), 255, np.uint8)) == 1.0
