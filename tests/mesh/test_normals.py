"""Shading follows the shape, not the way it happens to be cut into triangles."""

import numpy as np
import pytest
import trimesh

from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.types import Mesh


def test_on_a_ball_they_point_away_from_the_middle():
    ball = trimesh.creation.icosphere(subdivisions=4)
    normals = vertex_normals(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32)))
    assert normals.dtype == np.float32
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert np.einsum("ij,ij->i", normals, ball.vertices).min() > 0.9995


def test_at_a_box_corner_all_three_sides_count_the_same():
    box = trimesh.creation.box()
    normals = vertex_normals(Mesh(box.vertices.astype(np.float32), box.faces.astype(np.int32)))
    assert np.allclose(np.abs(normals), 1 / np.sqrt(3), atol=1e-6)
    assert (np.sign(normals) == np.sign(box.vertices)).all()


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_size_does_not_matter(scale):
    box = trimesh.creation.box()
    mesh = Mesh((box.vertices * scale).astype(np.float32), box.faces.astype(np.int32))
    assert np.allclose(np.abs(vertex_normals(mesh)), 1 / np.sqrt(3), atol=1e-5)


def test_loose_vertices_and_faces_without_area_get_a_unit_vector_too():
    rows = np.float32([[0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]])
    assert vertex_normals(Mesh(rows, np.int32([[0, 1, 2]]))).tolist() == [[0, 1, 0]] * 4
