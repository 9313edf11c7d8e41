"""Budgets that a shape of many parts cannot meet: the smallest parts go, the others stay."""

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import Mesh
from trellis_pipeline.mesh.vertex_clustering import cluster_vertices


def mesh_of(shape):
    return Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32))


def ball(subdivisions, radius, *centre):
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return sphere.apply_translation(centre)


def volume(mesh):
    corners = mesh.vertices.astype(float)[mesh.triangles]
    return np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6


def test_the_smallest_parts_go_first_and_the_large_one_keeps_its_shape():
    crumbs = [ball(1, 0.004, 1.2, 0.02 * n, 0) for n in range(40)]
    many = mesh_of(trimesh.util.concatenate([ball(4, 1, 0, 0, 0), *crumbs]))
    few = cluster_vertices(many, 5_200)
    assert len(few.triangles) <= 5_200
    large = few.triangles[(few.vertices[few.triangles][:, :, 0] < 1.1).all(axis=1)]
    assert len(large) > 0.9 * 20 * 4**4
    assert volume(Mesh(few.vertices, large)) == pytest.approx(volume(mesh_of(ball(4, 1, 0, 0, 0))), rel=0.01)


def test_faces_keep_their_side():
    few = cluster_vertices(mesh_of(ball(5, 1, 0, 0, 0)), 2_000)
    corners = few.vertices.astype(float)[few.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", normals, corners.mean(axis=1)) > 0).mean() > 0.99
    assert 1_000 < len(few.triangles) <= 2_000


@given(st.integers(4, 1_500), st.integers(0, 2**32 - 1))
def test_whatever_the_shape_the_budget_holds_and_the_same_comes_out_again(budget, seed):
    random = np.random.default_rng(seed)
    points = (random.normal(size=(300, 3)) * random.uniform(0.0, 2.0, 3)).astype(np.float32)
    soup = Mesh(points, random.integers(0, 300, (2_000, 3)).astype(np.int32))
    few, again = cluster_vertices(soup, budget), cluster_vertices(soup, budget)
    assert 0 < len(few.triangles) <= budget
    assert np.array_equal(few.vertices, again.vertices)
    assert np.array_equal(few.triangles, again.triangles)


def test_a_shape_of_which_nothing_would_be_left_is_refused_with_the_way_out():
    point = np.zeros((3, 3), np.float32)
    line = point + np.float32([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    for nothing in (point, line):
        with pytest.raises(MeshError, match="raise the triangle limit"):
            cluster_vertices(Mesh(nothing, np.array([[0, 1, 2]], np.int32)), 4)
