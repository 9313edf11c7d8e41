"""One clean surface where there is one, both sides where both can be seen."""

from __future__ import annotations

import numpy as np
import pytest
import voxel_shapes as shapes

from trellis_pipeline.mesh.clean import is_closed_manifold, weld
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.postprocess.creases import part_at_creases
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions
from trellis_pipeline.mesh.postprocess.patch_sizes import signed_volumes
from trellis_pipeline.mesh.postprocess.pipeline import postprocess
from trellis_pipeline.mesh.postprocess.sides import pair_half_edges, patches
from trellis_pipeline.mesh.render import render_views
from trellis_pipeline.mesh.types import Mesh, TexturedMesh
from trellis_pipeline.mesh.unwrap import unwrap

RESOLUTION = 96
FLOOR_OF_THE_CUP = -0.28


def cup(points: np.ndarray) -> np.ndarray:
    """A cup 0.7 high and 0.6 wide, its wall 0.05 thick, open above; red outside, green inside."""
    radius, height = np.hypot(points[..., 0], points[..., 1]), points[..., 2]
    body = np.maximum(radius - 0.3, np.abs(height) - 0.35)
    hollow = np.maximum(radius - 0.25, FLOOR_OF_THE_CUP - height)
    return np.maximum(body, -hollow)


def paint_the_cup(points: np.ndarray) -> np.ndarray:
    inside = (np.hypot(points[..., 0], points[..., 1]) < 0.275) & (points[..., 2] > FLOOR_OF_THE_CUP - 0.03)
    values = np.zeros((*points.shape[:-1], 6))
    values[..., 0], values[..., 1] = np.where(inside, 0.1, 0.9), np.where(inside, 0.9, 0.1)
    values[..., 4], values[..., 5] = 0.8, 1.0
    return values


def wave(points: np.ndarray) -> np.ndarray:
    return points[..., 2] - 0.08 * np.sin(8 * points[..., 0])


def beyond_the_sheet(points: np.ndarray) -> np.ndarray:
    return np.abs(points[:, :2]).max(axis=1) > 0.4


def model_of(given: shapes.Voxelised, **options) -> TexturedMesh:
    chosen = {"max_triangles": 6000, "texture_px": 256, "on_floor": False, "image_format": "png"} | options
    return postprocess(given.surface, given.voxels, PostprocessOptions(**chosen)).mesh


def volumes(mesh: TexturedMesh) -> list[float]:
    """Of each connected part, largest first."""
    joined = weld(Mesh(mesh.positions, mesh.triangles))
    label = patches(pair_half_edges(joined, wound_alike=True))
    return sorted(signed_volumes(joined, label).tolist(), reverse=True)


@pytest.mark.parametrize("remesh", [False, True], ids=["plain", "remeshed"])
def test_a_ball_is_one_skin_with_nothing_inside(remesh):
    mesh = model_of(shapes.voxelise(shapes.sphere, RESOLUTION), remesh=remesh)
    assert volumes(mesh) == pytest.approx([4 / 3 * np.pi * 0.4**3], rel=0.02)
    assert np.linalg.norm(mesh.positions, axis=1).min() > 0.4 - 0.6 / RESOLUTION


@pytest.mark.parametrize("remesh", [False, True], ids=["plain", "remeshed"])
def test_two_parts_are_two_skins(remesh):
    mesh = model_of(shapes.voxelise(shapes.two_spheres, RESOLUTION), remesh=remesh)
    assert volumes(mesh) == pytest.approx([4 / 3 * np.pi * 0.15**3] * 2, rel=0.05)


@pytest.mark.parametrize("remesh", [False, True], ids=["plain", "remeshed"])
def test_the_inside_of_a_cup_stays_and_is_seen_from_above(remesh):
    mesh = model_of(shapes.voxelise(cup, RESOLUTION, paint=paint_the_cup), remesh=remesh)
    wall = np.pi * (0.3**2 * 0.7 - 0.25**2 * (0.35 - FLOOR_OF_THE_CUP))
    assert volumes(mesh) == pytest.approx([wall], rel=0.08)
    assert is_closed_manifold(weld(Mesh(mesh.positions, mesh.triangles)).triangles)
    on_the_floor = np.hypot(mesh.positions[:, 0], mesh.positions[:, 2]) < 0.2
    heights = mesh.positions[on_the_floor, 1]  # y is up in glTF: under the cup, and inside of it
    assert np.abs(heights - FLOOR_OF_THE_CUP).min() < 1 / RESOLUTION
    assert heights.max() < FLOOR_OF_THE_CUP + 1 / RESOLUTION
    above, front = render_views(write_glb(mesh), views=("top", "front"), px=128)
    middle = above[64 - 10 : 64 + 10, 64 - 10 : 64 + 10].reshape(-1, 4).astype(int)
    assert (middle[:, 1] > 2 * middle[:, 0]).all()  # green, the inside
    side = front[50:90, 50:78].reshape(-1, 4).astype(int)
    assert (side[:, 0] > 2 * side[:, 1]).all()


def test_an_open_sheet_stays_one_sheet_or_becomes_a_body_as_thin_as_a_fifth_of_a_voxel():
    given = shapes.voxelise(wave, RESOLUTION, holes=beyond_the_sheet)
    sheet = model_of(given, remesh=False)
    assert sheet.material.double_sided
    area = 0.0
    for mesh, sides in ((sheet, 1), (model_of(given, remesh=True), 2)):
        corner = mesh.positions.astype(float)[mesh.triangles]
        size = (
            np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1).sum()
            / 2
        )
        area = area or size
        assert size == pytest.approx(sides * area, rel=0.05)
    (volume,) = volumes(mesh)
    assert not mesh.material.double_sided
    assert 0 < volume / area < 0.25 / RESOLUTION


def test_a_crease_is_shaded_as_a_crease_and_a_bend_as_a_bend():
    """A box has one normal for each side at its corners, a ball one for each vertex."""
    box = Mesh(
        np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32),
        np.array(
            [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
             [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]],
            np.int32,
        ),
    )  # fmt: skip
    layout, normals = part_at_creases(box, unwrap(box, texture_px=128, padding_px=2))
    corner = layout.positions.astype(float)[layout.triangles]
    facing = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert np.abs(normals[layout.triangles] - facing[:, None]).max() < 1e-6
    assert np.array_equal(layout.positions[layout.triangles], box.vertices[box.triangles])
    assert np.array_equal(box.vertices[layout.source_vertex], layout.positions)

    ball = model_of(shapes.voxelise(shapes.sphere, 48), max_triangles=2000)
    _, place = np.unique(ball.positions, axis=0, return_inverse=True)
    first = np.unique(place, return_index=True)[1][place]
    assert np.abs(ball.normals - ball.normals[first]).max() < 1e-6
    assert np.einsum("ij,ij->i", ball.normals, ball.positions / 0.4).min() > 0.98
