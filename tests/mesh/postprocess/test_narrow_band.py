"""Remeshing: whatever goes in, a closed skin of the same form comes out."""

import numpy as np
import pytest
import voxel_shapes as shapes

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import is_closed_manifold
from trellis_pipeline.mesh.postprocess.narrow_band import (
    project_back,
    project_without_folds,
    remesh_narrow_band,
)
from trellis_pipeline.mesh.postprocess.patch_sizes import signed_volumes
from trellis_pipeline.mesh.postprocess.repair import drop_inner_shells, make_manifold
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.types import Mesh

CUBE = {"center": (0.0, 0.0, 0.0), "scale": 67 / 64, "resolution": 64}


def normals(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.vertices.astype(float)[mesh.triangles[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


@pytest.mark.parametrize("shape", [shapes.sphere, shapes.torus, shapes.box])
def test_a_closed_object_gets_one_closed_skin_on_its_surface(shape):
    tree = surface_tree(shapes.voxelise(shape, 64).surface)
    double = make_manifold(remesh_narrow_band(tree, **CUBE), wound_alike=True)
    assert is_closed_manifold(double.triangles)
    single = drop_inner_shells(double)
    assert is_closed_manifold(single.triangles)
    assert len(single.triangles) < 0.6 * len(double.triangles)
    cell = 1 / 64
    outside = shape(single.vertices.astype(float)) / cell
    assert np.median(outside) == pytest.approx(1, abs=0.1)  # a band outside
    assert outside.min() > 0
    assert outside.max() < 1.6
    back = project_without_folds(single, tree, 0.9)
    assert np.abs(shape(back.vertices.astype(float))).mean() < 0.15 * cell
    assert np.einsum("ij,ij->i", normals(single), normals(back)).min() > 0
    assert signed_volumes(back, np.zeros(len(back.triangles), np.int32))[0] > 0


def test_an_open_sheet_becomes_a_closed_thin_body():
    sheet = Mesh(
        np.array([[-0.3, -0.3, 0.01], [0.3, -0.3, 0.01], [0.3, 0.3, 0.01], [-0.3, 0.3, 0.01]], np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
    )
    tree = surface_tree(sheet)
    body = drop_inner_shells(make_manifold(remesh_narrow_band(tree, **CUBE), wound_alike=True))
    assert is_closed_manifold(body.triangles)
    assert signed_volumes(body, np.zeros(len(body.triangles), np.int32))[0] > 0
    thin = project_without_folds(body, tree, 0.9)
    assert np.ptp(thin.vertices[:, 2]) < np.ptp(body.vertices[:, 2])


def test_full_projection_lies_on_the_surface_and_none_changes_nothing():
    tree = surface_tree(shapes.voxelise(shapes.sphere, 32).surface)
    skin = remesh_narrow_band(tree, center=(0, 0, 0), scale=35 / 32, resolution=32)
    assert project_back(skin, tree, 0.0) is skin
    from trellis_pipeline.mesh.postprocess.closest import distances

    assert distances(tree, project_back(skin, tree, 1.0).vertices).max() < 1e-6


def test_threads_do_not_change_the_result():
    tree = surface_tree(shapes.voxelise(shapes.torus, 64).surface)
    one, two = remesh_narrow_band(tree, **CUBE), remesh_narrow_band(tree, **CUBE, threads=2)
    assert np.array_equal(one.vertices, two.vertices)
    assert np.array_equal(one.triangles, two.triangles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 1000 + 1}, "power of two"),
        ({"scale": 0.0}, "positive"),
        ({"center": (9, 9, 9)}, "outside"),
    ],
)
def test_a_grid_that_cannot_work_is_refused(change, message):
    tree = surface_tree(shapes.voxelise(shapes.sphere, 16).surface)
    with pytest.raises(MeshError, match=message):
        remesh_narrow_band(tree, **(CUBE | change))
