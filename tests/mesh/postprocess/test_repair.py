"""A decoded surface becomes one that can be worked on, whatever state it was in."""

import numpy as np
import pytest
import voxel_shapes as shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import is_closed_manifold, weld
from trellis_pipeline.mesh.postprocess.patch_sizes import signed_volumes
from trellis_pipeline.mesh.postprocess.repair import (
    drop_crumbs,
    fill_small_holes,
    make_manifold,
    part_touching,
)
from trellis_pipeline.mesh.postprocess.sides import pair_half_edges, patches
from trellis_pipeline.mesh.postprocess.visibility import face_outwards
from trellis_pipeline.mesh.types import Mesh


def faces_per_edge(mesh: Mesh) -> np.ndarray:
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    return np.unique(edges, axis=0, return_counts=True)[1]


def directed_edges(mesh: Mesh) -> np.ndarray:
    return mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)


def area(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices.astype(float)[mesh.triangles[:, k]] for k in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def volume(mesh: Mesh) -> float:
    return float(signed_volumes(mesh, np.zeros(len(mesh.triangles), np.int32))[0])


def outward_share(mesh: Mesh) -> float:
    """Of faces whose normals point away from the origin."""
    a, b, c = (mesh.vertices.astype(float)[mesh.triangles[:, k]] for k in range(3))
    return float((np.einsum("ij,ij->i", np.cross(b - a, c - a), a + b + c) > 0).mean())


@pytest.mark.parametrize("shape", [shapes.sphere, shapes.torus, shapes.box, shapes.two_spheres])
def test_faces_that_look_in_all_directions_end_up_looking_outwards(shape):
    surface = shapes.voxelise(shape, 32).surface
    assert not is_closed_manifold(surface.triangles)  # wound by axis, as decoders leave it
    repaired = face_outwards(make_manifold(surface), drop_hidden=True)
    assert is_closed_manifold(repaired.triangles)
    assert len(repaired.triangles) == len(surface.triangles)
    assert volume(repaired) > 0


def test_walls_inside_a_closed_object_are_removed():
    surface = shapes.voxelise(shapes.ball_in_a_shell, 48).surface
    repaired = face_outwards(make_manifold(surface), drop_hidden=True)
    assert np.linalg.norm(repaired.vertices, axis=1).min() > 0.38
    assert is_closed_manifold(repaired.triangles)


def test_walls_inside_stay_when_one_can_see_through_the_outside():
    manifold = make_manifold(shapes.voxelise(shapes.ball_in_a_shell, 48).surface)
    assert len(face_outwards(manifold, drop_hidden=False).triangles) == len(manifold.triangles)


@pytest.mark.parametrize("turned", [False, True])
def test_an_open_bowl_looks_away_from_its_hollow(turned):
    bowl = make_manifold(shapes.voxelise(shapes.sphere, 48, holes=lambda p: p[:, 2] > 0).surface)
    if turned:
        bowl = Mesh(bowl.vertices, np.ascontiguousarray(bowl.triangles[:, ::-1]))
    assert outward_share(face_outwards(bowl, drop_hidden=True)) == 1.0


def test_a_pinhole_is_closed_and_an_opening_stays_open():
    def missing(points):
        pin = np.linalg.norm(points - [0.3, 0, 0.13], axis=1) < 0.02
        mouth = np.linalg.norm(points - [-0.3, 0, 0.13], axis=1) < 0.1
        return pin | mouth

    torn = make_manifold(shapes.voxelise(shapes.torus, 64, holes=missing).surface)
    mouth_edges = np.count_nonzero(faces_per_edge(torn) == 1)
    filled = fill_small_holes(torn, 0.3)
    left = np.count_nonzero(faces_per_edge(filled) == 1)
    assert 0 < left < mouth_edges
    assert (torn.vertices == filled.vertices[: len(torn.vertices)]).all()
    closed = fill_small_holes(torn, 10.0)
    assert is_closed_manifold(closed.triangles)
    assert volume(face_outwards(closed, drop_hidden=True)) == pytest.approx(0.0997, rel=0.02)


def test_specks_go_and_the_object_stays():
    def with_speck(points):
        return np.minimum(shapes.sphere(points, 0.3), shapes.sphere(points - [0.4, 0.4, 0.4], 0.03))

    manifold = make_manifold(shapes.voxelise(with_speck, 48).surface)
    assert patches(pair_half_edges(manifold, wound_alike=True)).max() == 1
    kept = drop_crumbs(manifold, 0.05)
    assert np.linalg.norm(kept.vertices, axis=1).max() < 0.32
    assert len(drop_crumbs(manifold, 1e9).triangles) == len(kept.triangles)  # the largest is never a crumb


def test_two_boxes_that_share_an_edge_become_two_surfaces():
    solid = np.zeros((4, 4, 3), bool)
    solid[1, 1, 1] = solid[2, 2, 1] = True
    step = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    quads = []
    for cell in np.argwhere(solid):
        for way in step:
            if not solid[tuple(cell + way)]:
                axis = int(np.abs(way).argmax())
                square = np.zeros((4, 3), int)
                square[:, (axis + 1) % 3] = (0, 1, 1, 0)
                square[:, (axis + 2) % 3] = (0, 0, 1, 1)
                square[:, axis] = way[axis] > 0
                quads.append(cell + (square if way[axis] > 0 else square[::-1]))
    corners = np.array(quads).reshape(-1, 3)
    points, index = np.unique(corners, axis=0, return_inverse=True)
    quad = index.reshape(-1, 4)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int32)
    joined = Mesh(points.astype(np.float32), faces)
    assert faces_per_edge(joined).max() == 4
    for wound_alike in (True, False):
        apart = make_manifold(joined, wound_alike=wound_alike)
        assert is_closed_manifold(apart.triangles)
        assert volume(face_outwards(apart, drop_hidden=True)) == pytest.approx(2.0)
        # Whoever joins equal positions again finds them apart, by very little.
        parted = part_touching(face_outwards(apart, drop_hidden=True), 1e-5)
        assert is_closed_manifold(weld(parted).triangles)
        assert np.abs(parted.vertices - apart.vertices).max() < 1e-4


def test_a_one_sided_band_is_cut_once_so_that_it_has_sides():
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    edges = [
        np.column_stack(
            [
                (1 + w * np.cos(turn / 2)) * np.cos(turn),
                (1 + w * np.cos(turn / 2)) * np.sin(turn),
                w * np.sin(turn / 2),
            ]
        )
        for w in (-0.3, 0.3)
    ]
    n = np.arange(40)
    after = (n + 1) % 40
    low, high = n, n + 40
    next_low, next_high = np.where(n == 39, 40, after), np.where(n == 39, 0, after + 40)
    faces = np.concatenate(
        [np.column_stack([low, next_low, next_high]), np.column_stack([low, next_high, high])]
    )
    band = Mesh(np.concatenate(edges).astype(np.float32), faces.astype(np.int32))
    cut = make_manifold(band)
    assert len(cut.triangles) == 80
    directed = directed_edges(cut)
    assert len(np.unique(directed, axis=0)) == len(directed)
    assert len(cut.vertices) == 82


@settings(max_examples=150, deadline=None)
@given(data=st.data(), vertices=st.integers(4, 12), seed=st.integers(0, 2**32 - 1))
def test_any_heap_of_triangles_becomes_manifold_without_losing_area(data, vertices, seed):
    points = np.random.default_rng(seed).random((vertices, 3)).astype(np.float32)
    corner = st.integers(0, vertices - 1)
    rows = data.draw(st.lists(st.tuples(corner, corner, corner), min_size=1, max_size=40))
    distinct = {tuple(sorted(row)) for row in rows if len(set(row)) == 3}
    heap = Mesh(points, np.array(rows, np.int32))
    if not distinct:
        with pytest.raises(MeshError, match="empty shape"):
            make_manifold(heap)
        return
    result = make_manifold(heap)
    assert faces_per_edge(result).max() <= 2
    directed = directed_edges(result)
    assert len(np.unique(directed, axis=0)) == len(directed)  # neighbours run along their edge both ways
    once = Mesh(points, np.array(sorted(distinct), np.int32))
    assert area(result) == pytest.approx(area(once), rel=1e-4)
    joined_again = weld(part_touching(result, 1e-5))
    assert len(joined_again.vertices) == len(result.vertices)
    filled = fill_small_holes(result, 10.0)
    assert faces_per_edge(filled).max() <= 2
