"""Questions asked of a surface and of its voxels, against slow and simple answers."""

import numpy as np
import pytest
import trimesh
import voxel_shapes as shapes

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.postprocess.closest import closest_points, distances
from trellis_pipeline.mesh.postprocess.lattice import cell_table
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.postprocess.voxels import (
    VoxelAttributes,
    check_voxels,
    sample_trilinear,
    sample_voxels,
)
from trellis_pipeline.mesh.types import Mesh

RNG = np.random.default_rng(5)


def soup(count: int) -> Mesh:
    """Triangles without order, some of them a line or a point."""
    vertices = RNG.random((3 * count, 3)).astype(np.float32)
    triangles = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    triangles[::7, 2] = triangles[::7, 1]
    triangles[::11] = triangles[::11, :1]
    return Mesh(vertices, triangles)


@pytest.mark.parametrize("count", [1, 2, 3, 40, 1000])
def test_no_triangle_is_nearer_than_the_one_found(count):
    mesh = soup(count)
    points = (RNG.random((300, 3)) * 3 - 1).astype(np.float32)
    found = closest_points(surface_tree(mesh), points)
    corner = mesh.vertices.astype(float)[mesh.triangles]
    # Many points of every triangle: none may be nearer, the nearest of them nearly as near.
    weights = np.concatenate([np.eye(3), RNG.dirichlet((1, 1, 1), 25)])
    spots = np.einsum("sk,tkx->tsx", weights, corner).reshape(-1, 3)
    near = np.array([np.linalg.norm(spots - point, axis=1).min() for point in points.astype(float)])
    assert (found.distance <= near + 1e-6).all()
    rebuilt = np.einsum("nk,nkx->nx", found.barycentrics, corner[found.triangle])
    assert np.allclose(rebuilt, found.points, atol=1e-6)
    assert np.allclose(np.linalg.norm(points - found.points, axis=1), found.distance, atol=1e-6)
    assert found.barycentrics.min() >= 0
    assert np.allclose(found.barycentrics.sum(axis=1), 1, atol=1e-6)


def test_answers_do_not_depend_on_threads():
    ball = trimesh.creation.icosphere(subdivisions=3)
    tree = surface_tree(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32)))
    points = RNG.normal(size=(60_000, 3)).astype(np.float32)
    alone, together = closest_points(tree, points), closest_points(tree, points, threads=2)
    assert np.array_equal(alone.distance, together.distance)
    assert np.allclose(alone.points, together.points, atol=1e-5)
    assert np.array_equal(alone.distance, distances(tree, points))
    assert np.abs(alone.distance - np.abs(np.linalg.norm(points, axis=1) - 1)).max() < 0.01


def test_a_search_with_a_limit_says_nothing_about_what_is_farther():
    tree = surface_tree(soup(50))
    points = (RNG.random((500, 3)) * 4 - 2).astype(np.float32)
    free, bounded = distances(tree, points), closest_points(tree, points, within=0.4)
    assert np.array_equal(np.isfinite(bounded.distance), free < np.float32(0.4))
    assert np.array_equal(bounded.triangle >= 0, free < np.float32(0.4))


def test_an_empty_mesh_has_no_closest_point():
    with pytest.raises(MeshError, match="no surface"):
        surface_tree(Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32)))


def test_a_linear_gradient_is_read_back_exactly_between_full_cells():
    coords = np.argwhere(np.ones((8, 8, 8), bool)).astype(np.int32)
    slope = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]])
    values = ((coords + 0.5) @ slope).astype(np.float32)
    points = (0.5 + 7 * RNG.random((500, 3))).astype(np.float32)
    shuffled = RNG.permutation(len(coords))
    sampled = sample_trilinear(coords[shuffled], values[shuffled], points)
    assert np.allclose(sampled, points @ slope, atol=1e-4)


def test_missing_neighbours_do_not_darken_a_rim():
    coords = np.array([[3, 3, 3]], np.int32)
    near = np.array([[3.1, 3.9, 3.2], [4.4, 3.5, 3.5], [2.6, 2.6, 2.6]], np.float32)
    assert np.allclose(sample_trilinear(coords, np.array([[0.7]], np.float32), near), 0.7)
    far = np.array([[5.2, 3.5, 3.5], [np.nan, 0, 0], [-50, 0, 0], [1e30, 0, 0]], np.float32)
    assert (sample_trilinear(coords, np.array([[0.7]], np.float32), far) == 0).all()
    kept = sample_trilinear(coords, np.array([[0.7]], np.float32), far, fallback_cells=3)
    assert kept[:, 0].tolist() == pytest.approx([0.7, 0, 0, 0])


def test_colours_of_a_voxelised_sphere_are_read_at_their_place_and_clipped():
    made = shapes.voxelise(shapes.sphere, 64)
    loud = VoxelAttributes(made.voxels.coords, made.voxels.values * 1.5 - 0.2, made.voxels.voxel_size)
    points = RNG.normal(size=(2000, 3))
    points = (0.4 * points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    read, known = sample_voxels(made.voxels, points)
    assert known.all()
    expected = shapes.material(points.astype(float))
    assert np.abs(read[:, :3] - expected[:, :3]).max() < 0.03
    assert np.abs(read[:, 4] - expected[:, 4]).max() < 0.02
    clipped, _ = sample_voxels(loud, points)
    assert clipped.min() == 0
    assert clipped.max() == 1


def test_a_place_without_voxels_has_the_nearest_ones_colour_and_one_far_from_all_has_none():
    coords = np.array([[20, 20, 20], [30, 20, 20]], np.int32)
    voxels = VoxelAttributes(coords, np.array([[0.2] * 6, [0.8] * 6], np.float32), 1.0, origin=(0, 0, 0))
    points = RNG.uniform(4, 46, (2000, 3)).astype(np.float32)
    gaps = np.linalg.norm(points[:, None] - (coords + 0.5), axis=2)
    values, known = sample_voxels(voxels, points)
    clear = np.abs(gaps[:, 0] - gaps[:, 1]) > 0.02
    assert known[gaps.min(axis=1) < 16].all()
    assert not known[gaps.min(axis=1) > 30].any()
    picked = known & clear & (gaps.min(axis=1) > 2)
    assert picked.sum() > 100
    assert np.allclose(values[picked, 0], np.array([0.2, 0.8])[gaps[picked].argmin(axis=1)])
    assert (values[~known] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": np.zeros((0, 3), np.int32), "values": np.zeros((0, 6), np.float32)}, "no voxels"),
        ({"values": np.full((2, 6), np.nan, np.float32)}, "NaN"),
        ({"values": np.zeros((2, 5), np.float32)}, "shape"),
        ({"voxel_size": 0.0}, "voxel size"),
    ],
)
def test_voxels_that_make_no_sense_are_refused(change, message):
    fields = {
        "coords": np.array([[0, 0, 0], [1, 0, 0]], np.int32),
        "values": np.zeros((2, 6), np.float32),
        "voxel_size": 0.1,
    }
    with pytest.raises(MeshError, match=message):
        check_voxels(VoxelAttributes(**(fields | change)))


def test_cells_outside_any_grid_are_refused():
    with pytest.raises(MeshError, match="at most"):
        cell_table(np.array([[0, 0, 1 << 20]], np.int32))
    with pytest.raises(MeshError, match="from -1"):
        cell_table(np.array([[0, -1, 0]], np.int32))
