"""Repairs that need no judgement do what they say and nothing else."""

import numpy as np
import pytest
import trimesh
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import (
    clean,
    drop_degenerate_faces,
    drop_duplicate_faces,
    drop_unused_vertices,
    is_closed_manifold,
    weld,
)
from trellis_pipeline.mesh.types import Mesh


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))


def torn(mesh: Mesh) -> Mesh:
    """Every triangle with vertices of its own, as after an export with seams everywhere."""
    return Mesh(
        mesh.vertices[mesh.triangles].reshape(-1, 3),
        np.arange(mesh.triangles.size, dtype=np.int32).reshape(-1, 3),
    )


BALL = mesh_of(trimesh.creation.icosphere(subdivisions=3))


def test_a_torn_ball_is_closed_again_after_welding():
    assert not is_closed_manifold(torn(BALL).triangles)
    welded = weld(torn(BALL))
    assert is_closed_manifold(welded.triangles)
    assert len(welded.vertices) == len(BALL.vertices)
    assert np.array_equal(welded.vertices[welded.triangles], BALL.vertices[BALL.triangles])


def test_zero_with_either_sign_is_one_place():
    rows = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, -0.0], [1, -0.0, 0], [0, -1, 0]])
    assert len(weld(Mesh(rows, np.int32([[0, 1, 2], [4, 3, 5]]))).vertices) == 4


def test_places_that_are_merely_close_stay_apart():
    near = np.nextafter(np.float32(1), np.float32(2))
    rows = np.float32([[1, 0, 0], [near, 0, 0], [0, 1, 0]])
    assert len(weld(Mesh(rows, np.int32([[0, 1, 2]]))).vertices) == 3


@settings(max_examples=50, deadline=None)
@given(rows=arrays(np.float32, (30, 3), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0**-149, 3.0])))
def test_welding_leaves_each_place_once_and_moves_nothing(rows):
    mesh = Mesh(rows, np.arange(30, dtype=np.int32).reshape(-1, 3))
    welded = weld(mesh)
    assert len(welded.vertices) == len(np.unique(rows + np.float32(0), axis=0))
    assert np.array_equal(welded.vertices[welded.triangles], rows.reshape(10, 3, 3))


def test_faces_without_area_go_and_the_others_keep_their_order():
    rows = np.float32([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    faces = np.int32([[0, 1, 3], [0, 1, 2], [1, 1, 3], [1, 2, 3]])
    assert drop_degenerate_faces(Mesh(rows, faces)).triangles.tolist() == [[0, 1, 3], [1, 2, 3]]


def test_of_faces_over_the_same_corners_the_first_stays():
    faces = np.int32([[2, 1, 0], [0, 1, 3], [0, 1, 2], [1, 3, 0]])
    mesh = Mesh(np.zeros((4, 3), np.float32), faces)
    assert drop_duplicate_faces(mesh).triangles.tolist() == [[2, 1, 0], [0, 1, 3]]


def test_vertices_nobody_uses_go():
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    kept = drop_unused_vertices(Mesh(rows, np.int32([[4, 1, 3]])))
    assert kept.vertices.tolist() == rows[[1, 3, 4]].tolist()
    assert kept.triangles.tolist() == [[2, 0, 1]]


def test_a_clean_mesh_is_left_as_it_is():
    result = clean(BALL)
    assert np.array_equal(result.vertices, BALL.vertices)
    assert np.array_equal(result.triangles, BALL.triangles)


def test_a_mesh_of_nothing_but_dirt_becomes_empty():
    result = clean(Mesh(np.zeros((9, 3), np.float32), np.arange(9, dtype=np.int32).reshape(-1, 3)))
    assert result.vertices.shape == (0, 3)
    assert result.triangles.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "closed"),
    [
        (lambda t: t, True),
        (lambda t: t[:, [1, 2, 0]], True),
        (lambda t: t[:, ::-1], True),
        (lambda t: t[1:], False),
        (lambda t: np.vstack([t, t[:1]]), False),
        (lambda t: np.vstack([t, t]), False),
        (lambda t: np.vstack([t, t[:, ::-1]]), False),
        (lambda t: np.vstack([t[:1, ::-1], t[1:]]), False),
        (lambda t: np.vstack([t, [[0, 0, 1]]]), False),
        (lambda t: np.vstack([t, t + t.max() + 1]), True),
        (lambda t: t[:0], False),
    ],
    ids=[
        "whole", "rotated corners", "inside out", "one face missing", "one face twice", "everything twice",
        "two coats", "one face turned", "collapsed face", "two balls", "nothing",
    ],
)  # fmt: skip
def test_closed_means_each_edge_runs_once_in_each_direction(change, closed):
    assert is_closed_manifold(change(BALL.triangles).astype(np.int32)) is closed


def test_arrays_that_are_no_mesh_are_refused_by_name():
    with pytest.raises(MeshError, match="NaN"):
        clean(Mesh(BALL.vertices * np.float32("nan"), BALL.triangles))
    with pytest.raises(MeshError, match=r"point at vertices 0\.\.642"):
        clean(Mesh(BALL.vertices, np.vstack([BALL.triangles, [[0, 1, 642]]]).astype(np.int32)))


@given(
    triangles=arrays(np.int32, st.tuples(st.integers(0, 120), st.just(3)), elements=st.integers(0, 6)),
)
@example(triangles=np.random.default_rng(1).integers(0, 7, (300, 3)).astype(np.int32))
def test_of_faces_over_the_same_corners_the_first_stays_however_many_meet_at_a_vertex(triangles):
    mesh = Mesh(np.random.default_rng(0).random((7, 3)).astype(np.float32), triangles)
    first = {}
    for row in triangles:
        first.setdefault(tuple(sorted(row.tolist())), row.tolist())
    assert drop_duplicate_faces(mesh).triangles.tolist() == list(first.values())
