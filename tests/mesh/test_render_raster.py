"""Rasteriser and cameras: every pixel belongs to the triangle that a ray through it would hit first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.camera import Camera, box_of, frame_points, orthographic_front, three_quarter
from trellis_pipeline.mesh.raster import FAR, Raster, rasterise, silhouette

UNIT = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
FACES = np.array([(0, 1, 2)])


def rays(camera: Camera, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """World points on the near and the far plane behind every pixel centre, (H, W, 3) each."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width * 2 - 1, 1 - (np.arange(height) + 0.5) / height * 2)
    inverse = np.linalg.inv(camera.projection @ camera.view)
    ends = []
    for depth in (-1.0, 1.0):
        points = np.stack([x, y, np.full_like(x, depth), np.ones_like(x)], -1) @ inverse.T
        ends.append(points[..., :3] / points[..., 3:])
    return ends[0], ends[1]


def hits(
    triangle: np.ndarray, near: np.ndarray, far: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Möller–Trumbore: (is hit, share of the ray, margin to the nearest edge or end)."""
    first, second = triangle[1] - triangle[0], triangle[2] - triangle[0]
    direction = far - near
    across = np.cross(direction, second)
    determinant = across @ first
    edge_on = np.abs(determinant) < 1e-9
    determinant = np.where(edge_on, 1.0, determinant)
    offset = near - triangle[0]
    u = np.where(edge_on, -1.0, (offset * across).sum(-1) / determinant)
    other = np.cross(offset, first)
    v = (other * direction).sum(-1) / determinant
    along = other @ second / determinant
    margin = np.minimum.reduce([u, v, 1 - u - v, along, 1 - along])
    return margin > 0, along, np.abs(margin)


def positions_seen(raster: Raster, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces[np.maximum(raster.triangle, 0)]]
    return (corners * raster.barycentric[..., None]).sum(-2)


COORDINATES = arrays(np.float64, (6, 3), elements=st.floats(-2.5, 2.5, width=16))


@settings(max_examples=80, deadline=None)
@given(COORDINATES, st.booleans())
def test_each_pixel_shows_the_triangle_its_ray_hits_first(points: np.ndarray, perspective: bool) -> None:
    """Also for triangles that cross the near plane or reach behind the camera."""
    camera = three_quarter(UNIT, 33.0, 17.0) if perspective else orthographic_front(UNIT)
    faces = np.array([(0, 1, 2), (3, 4, 5)])
    raster = rasterise(points, faces, camera, width=24, height=20)
    near, far = rays(camera, 24, 20)
    best, owner = np.full((20, 24), np.inf), np.full((20, 24), -1)
    certain = np.ones((20, 24), bool)
    for index, face in enumerate(faces):
        triangle = points[face]
        area = np.linalg.norm(np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0]))
        if area < 1e-3:
            return
        hit, along, margin = hits(triangle, near, far)
        certain &= margin > 1e-4
        certain &= ~(hit & (np.abs(along - np.minimum(best, 9.0)) < 1e-4))
        owner = np.where(hit & (along < best), index, owner)
        best = np.where(hit & (along < best), along, best)
    assert (raster.triangle[certain] == owner[certain]).all()
    seen = certain & (owner >= 0)
    expected = near + (far - near) * np.where(np.isfinite(best), best, 0)[..., None]
    error = np.abs(positions_seen(raster, points, faces) - expected)[seen]
    assert error.size == 0 or error.max() < 2e-3


def test_neighbours_share_an_edge_without_crack_or_overlap() -> None:
    """Every pixel of a cut-up square is covered exactly once, edges through pixel centres included."""
    steps = np.linspace(-1, 1, 17)
    x, y = np.meshgrid(steps, steps)
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1)
    at = np.arange(x.size).reshape(x.shape)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    camera = orthographic_front(((-1, -1, -1), (1, 1, 1)), margin=0.0)
    for size in (16, 32, 61):
        count = np.zeros((size, size), int)
        for face in faces:
            count += silhouette(vertices, face[None], camera, width=size, height=size)
        assert (count == 1).all()


def test_a_closed_surface_has_no_pinholes() -> None:
    generator = np.random.default_rng(5)
    polar, around = np.meshgrid(np.linspace(0, np.pi, 60), np.linspace(0, 2 * np.pi, 120))
    ball = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    at = np.arange(polar.size).reshape(polar.shape)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    for _ in range(6):
        camera = three_quarter(UNIT, generator.uniform(0, 360), generator.uniform(-80, 80))
        mask = silhouette(ball.reshape(-1, 3), faces, camera, width=300, height=300)
        for row in mask:
            covered = np.where(row)[0]
            assert covered.size == 0 or row[covered[0] : covered[-1] + 1].all()


def test_the_nearest_of_many_layers_is_seen_whatever_their_order() -> None:
    camera = orthographic_front(UNIT)
    corners = np.array([(-3.0, -3.0, 0.0), (3.0, -3.0, 0.0), (0.0, 5.0, 0.0)])
    depths = [0.1, 0.9, -0.4, 0.5]
    vertices = np.concatenate([corners + np.array((0, 0, z)) for z in depths])
    faces = np.arange(12).reshape(4, 3)
    assert (rasterise(vertices, faces, camera, width=8, height=8).triangle == 1).all()


def test_what_is_empty_says_so() -> None:
    raster = rasterise(np.zeros((0, 3)), np.zeros((0, 3)), orthographic_front(UNIT), width=5, height=4)
    assert raster.triangle.shape == raster.depth.shape == (4, 5)
    assert (raster.triangle == -1).all()
    assert (raster.depth == FAR).all()
    assert (raster.barycentric == 0).all()


@pytest.mark.parametrize(
    "broken",
    [
        [(0, 0, 0), (0, 0, 0), (0, 0, 0)],
        [(-1, -1, 0), (0, 0, 0), (1, 1, 0)],
        [(np.nan, 0, 0), (1, 0, 0), (0, 1, 0)],
        [(np.inf, 0, 0), (1, -np.inf, 0), (0, 1, 0)],
        [(1e300, 0, 0), (0, 1e300, 0), (0, 0, 1e300)],
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_triangles_without_area_or_with_broken_corners_are_passed_over(
    broken: list[tuple[float, ...]],
) -> None:
    good = [(-1.0, -1.0, 0.5), (1.0, -1.0, 0.5), (0.0, 1.0, 0.5)]
    for camera in (orthographic_front(UNIT), three_quarter(UNIT)):
        alone = rasterise(good, FACES, camera, width=16, height=16)
        both = rasterise(good + broken, [(0, 1, 2), (3, 4, 5)], camera, width=16, height=16)
        assert (alone.triangle == both.triangle).all()


@pytest.mark.parametrize("faces", [[(0, 1, 3)], [(0, -1, 2)]])
def test_a_triangle_that_points_outside_of_the_mesh_is_refused(faces: list[tuple[int, int, int]]) -> None:
    with pytest.raises(MeshError, match="outside of the mesh's 3 vertices"):
        silhouette(np.eye(3), faces, orthographic_front(UNIT), width=4, height=4)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(MeshError, match="0 x 4"):
        silhouette(np.eye(3), FACES, orthographic_front(UNIT), width=0, height=4)


def test_the_front_camera_sees_x_to_the_right_y_up_and_z_towards_it() -> None:
    clip = orthographic_front(UNIT, margin=0.1).project([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1)])
    assert np.allclose(clip[0, :2], (0.8, 0))
    assert np.allclose(clip[1, :2], (0, 0.8))
    assert clip[2, 2] < 0 < clip[3, 2]
    assert np.allclose(clip[:, 3], 1)


@pytest.mark.parametrize(
    ("box", "size"), [(((0, 0, 0), (4, 1, 1)), (100, 25)), (((0, 0, 0), (1, 5, 2)), (20, 100))]
)
def test_the_front_camera_fills_the_frame_with_the_longer_side(box, size) -> None:
    low, high = np.array(box, float)
    vertices = np.array(
        [low, (high[0], low[1], low[2]), (high[0], high[1], low[2]), (low[0], high[1], low[2])]
    )
    mask = silhouette(
        vertices, [(0, 1, 2), (0, 2, 3)], orthographic_front(box, margin=0.0), width=100, height=100
    )
    assert (mask.any(0).sum(), mask.any(1).sum()) == size


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (5, 3), elements=st.floats(-50, 50, width=32)),
    st.floats(0, 360),
    st.floats(-85, 85),
    st.sampled_from([0.0, 0.08, 0.2]),
)
def test_framed_points_are_all_inside_and_touch_the_frame(
    points: np.ndarray, azimuth: float, elevation: float, margin: float
) -> None:
    if np.ptp(points, axis=0).max() < 1e-2:
        return
    clip = frame_points(points, azimuth, elevation, margin=margin).project(points)
    place = clip[:, :2] / clip[:, 3:]
    limit = 1 - 2 * margin
    assert (clip[:, 3] > 0).all()
    assert (np.abs(clip[:, 2]) <= clip[:, 3]).all()
    assert np.abs(place).max() <= limit + 1e-6
    # Unless something long points at the eye, the wider axis touches both sides of the frame.
    depth = clip[:, 3]
    if depth.min() > 0.6 * np.linalg.norm(np.ptp(points, axis=0)):
        axis = int(np.argmax(np.abs(place).max(0)))
        assert np.allclose((place[:, axis].min(), place[:, axis].max()), (-limit, limit), atol=1e-6)


def test_azimuth_turns_to_the_right_and_elevation_lifts() -> None:
    right, above = three_quarter(UNIT, 90.0, 0.0), three_quarter(UNIT, 0.0, 60.0)
    assert right.position[0] > 3
    assert abs(right.position[2]) < 1e-9
    assert above.position[1] > above.position[2] > 0
    assert np.allclose(right.towards_eye, (1, 0, 0))


def test_the_box_of_nothing_and_of_broken_points_is_an_error() -> None:
    with pytest.raises(MeshError, match="no vertices"):
        box_of(np.zeros((0, 3)))
    with pytest.raises(MeshError, match="not finite"):
        box_of([(0.0, np.nan, 0.0)])
