"""What is said about surfaces, on shapes whose answer is known and against a second, slow implementation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis_pipeline.mesh.glb_read import Primitive
from trellis_pipeline.quality.topology import Topology, measure, measure_primitives


def of(mesh: trimesh.Trimesh) -> Topology:
    return measure(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))


def of_lists(points: Any, faces: Any) -> Topology:
    return measure(np.array(points, np.float32).reshape(-1, 3), np.array(faces, np.int32).reshape(-1, 3))


def unshared(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The same surface with three vertices of its own for each face, as after hard edges and UV seams."""
    return trimesh.Trimesh(
        mesh.vertices[mesh.faces.reshape(-1)], np.arange(mesh.faces.size).reshape(-1, 3), process=False
    )


def test_a_box_is_closed_in_one_piece_and_has_its_volume() -> None:
    result = of(trimesh.creation.box(extents=(1, 2, 3)))
    assert result.watertight
    assert not result.inverted
    assert result.signed_volume_m3 == pytest.approx(6)
    assert result.area_m2 == pytest.approx(22)
    assert (result.components, result.euler_characteristic, result.edges) == (1, 2, 18)
    assert (result.bbox_min_m, result.bbox_max_m) == ((-0.5, -1.0, -1.5), (0.5, 1.0, 1.5))


def test_vertices_split_along_seams_do_not_open_the_surface() -> None:
    result = of(unshared(trimesh.creation.icosphere(3)))
    assert result.watertight
    assert result.vertices == 3 * result.triangles
    assert result.welded_vertices == 642


def test_minus_zero_is_the_same_place_as_zero() -> None:
    box = unshared(trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 1]]))
    points = box.vertices.astype(np.float32)
    points[::2][points[::2] == 0] = -0.0
    assert measure(points, box.faces.astype(np.int32)).watertight


def test_a_ring_has_the_euler_characteristic_of_a_ring() -> None:
    assert of(trimesh.creation.torus(1.0, 0.3)).euler_characteristic == 0


def test_two_missing_faces_leave_two_rims() -> None:
    sphere = trimesh.creation.icosphere(3)
    sphere.update_faces(~np.isin(np.arange(len(sphere.faces)), [0, 700]))
    result = of(sphere)
    assert not result.watertight
    assert (result.boundary_edges, result.boundary_loops) == (6, 2)


def test_three_sheets_on_one_edge_are_not_manifold() -> None:
    result = of_lists(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], [[0, 1, 2], [1, 0, 3], [0, 1, 4]]
    )
    assert result.non_manifold_edges == 1
    assert not result.watertight


def test_a_flipped_face_conflicts_with_its_three_neighbours() -> None:
    sphere = trimesh.creation.icosphere(2)
    faces = sphere.faces.copy()
    faces[17] = faces[17][::-1]
    result = measure(sphere.vertices.astype(np.float32), faces.astype(np.int32))
    assert result.orientation_conflicts == 3
    assert result.watertight


def test_a_surface_turned_inside_out_is_called_inverted_even_with_a_hole_in_it() -> None:
    sphere = trimesh.creation.icosphere(3)
    sphere.invert()
    assert of(sphere).inverted
    sphere.update_faces(np.arange(len(sphere.faces)) > 0)
    assert of(sphere).inverted
    assert not of(sphere).watertight


def test_volume_does_not_depend_on_where_the_object_stands() -> None:
    far = trimesh.creation.box()
    far.apply_translation([4096, 0, -4096])
    assert of(far).signed_volume_m3 == pytest.approx(1)


def test_faces_without_area_and_repeated_faces_are_counted() -> None:
    points = [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 0, 0]]
    faces = [[0, 1, 3], [3, 0, 1], [1, 0, 3], [0, 1, 2], [1, 4, 3], [3, 3, 0]]
    result = of_lists(points, faces)
    assert result.duplicate_faces == 2
    assert result.degenerate_faces == 3, "collinear, two corners at one place, one corner named twice"


def test_small_loose_parts_are_floaters_and_equal_parts_are_not() -> None:
    body = trimesh.creation.icosphere(4)
    crumb = trimesh.creation.box(extents=(0.01, 0.01, 0.01))
    crumb.apply_translation([3, 0, 0])
    result = of(trimesh.util.concatenate([body, crumb]))
    assert (result.components, result.floaters) == (2, 1)
    assert result.largest_component_share == pytest.approx(5120 / 5132)
    twins = of(trimesh.util.concatenate([body, body.copy().apply_translation([5, 0, 0])]))
    assert (twins.components, twins.floaters) == (2, 0)


def test_vertices_that_no_face_uses_are_counted_and_do_not_stretch_the_box() -> None:
    result = of_lists([[0, 0, 0], [1, 0, 0], [0, 1, 0], [99, 99, 99]], [[0, 1, 2]])
    assert result.unused_vertices == 1
    assert result.welded_vertices == 3
    assert result.bbox_max_m == (1.0, 1.0, 0.0)


def test_positions_that_are_not_numbers_are_reported_and_nothing_breaks() -> None:
    points = trimesh.creation.icosphere(1).vertices.astype(np.float32)
    points[3], points[5, 1] = np.nan, np.inf
    result = measure(points, trimesh.creation.icosphere(1).faces.astype(np.int32))
    assert result.non_finite_vertices == 2
    assert np.isfinite([result.area_m2, result.signed_volume_m3]).all()
    assert result.bbox_max_m is not None


def test_nothing_at_all_is_not_watertight() -> None:
    result = of_lists([], [])
    assert (result.triangles, result.components, result.watertight, result.inverted) == (0, 0, False, False)
    assert result.bbox_min_m is None
    only_wild = of_lists([[np.nan] * 3] * 3, [[0, 1, 2]])
    assert only_wild.bbox_min_m is None


def test_parts_in_several_primitives_are_joined_into_one_surface() -> None:
    box = trimesh.creation.box()
    points, faces = box.vertices.astype(np.float32), box.faces.astype(np.int32)
    halves = [Primitive(points, part, None, None, None) for part in (faces[:6], faces[6:])]
    assert measure_primitives(halves).watertight
    assert not measure_primitives(halves[:1]).watertight
    assert measure_primitives([]).triangles == 0


def test_read_only_views_give_the_same_as_arrays() -> None:
    sphere = trimesh.creation.icosphere(2)
    points, faces = sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32)
    frozen = np.frombuffer(points.tobytes(), np.float32).reshape(-1, 3)
    assert not frozen.flags.writeable
    assert measure(frozen, faces) == measure(points, faces)
    assert points.flags.writeable, "the caller's arrays are left as they were"


def test_a_vertex_shared_by_thousands_of_faces_is_counted_right() -> None:
    count = 5000
    angle = np.arange(count) / count * 2 * np.pi
    rng = np.random.default_rng(1)
    order = rng.permutation(count)
    rim = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)[order]
    place = np.argsort(order)
    faces = [[0, 1 + place[i], 1 + place[(i + 1) % count]] for i in range(count)]
    result = of_lists(np.vstack([[[0, 0, 1]], rim]), rng.permutation(faces))
    assert (result.edges, result.boundary_edges, result.boundary_loops) == (2 * count, count, 1)
    assert (result.non_manifold_edges, result.orientation_conflicts, result.duplicate_faces) == (0, 0, 0)


def slow_answer(points: npt.NDArray[np.float32], faces: npt.NDArray[np.int32]) -> dict[str, int]:
    """The same facts from dictionaries of coordinates."""
    places = [tuple(float(value) + 0.0 for value in point) for point in points]
    solid = [tuple(places[corner] for corner in face) for face in faces]
    solid = [face for face in solid if len(set(face)) == 3]
    directed = [(face[k], face[(k + 1) % 3]) for face in solid for k in range(3)]
    edges = Counter(frozenset(edge) for edge in directed)
    forward = Counter(directed)
    conflicts = sum(
        1
        for edge, uses in edges.items()
        if uses == 2 and forward[tuple(edge)] != 1  # type: ignore[arg-type]
    )
    parts: list[set[Any]] = []
    for face in solid:
        touching = [part for part in parts if part & set(face)]
        parts = [part for part in parts if not part & set(face)] + [set(face).union(*touching)]
    return {
        "edges": len(edges),
        "boundary_edges": sum(1 for uses in edges.values() if uses == 1),
        "non_manifold_edges": sum(1 for uses in edges.values() if uses > 2),
        "orientation_conflicts": conflicts,
        "duplicate_faces": sum(uses - 1 for uses in Counter(frozenset(face) for face in solid).values()),
        "components": len(parts),
        "welded_vertices": len({place for face in solid for place in face}),
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_any_tangle_of_triangles_is_counted_like_the_slow_way(seed: int, count: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-1, side - 1, (count + 3, 3)).astype(np.float32) * rng.choice(
        [-1, 1], (count + 3, 3)
    )
    points = points.astype(np.float32)
    faces = rng.integers(0, len(points), (count, 3)).astype(np.int32)
    result = measure(points, faces)
    expected = slow_answer(points, faces)
    assert {name: getattr(result, name) for name in expected} == expected


@pytest.mark.parametrize("shape", ["capsule", "cone", "annulus", "icosahedron"])
def test_closed_shapes_agree_with_trimesh(shape: str) -> None:
    arguments = {
        "capsule": {"height": 1.0, "radius": 0.4},
        "cone": {"radius": 1, "height": 2},
        "annulus": {"r_min": 0.4, "r_max": 1, "height": 0.3},
        "icosahedron": {},
    }
    mesh = getattr(trimesh.creation, shape)(**arguments[shape])
    result = of(mesh)
    assert result.watertight is bool(mesh.is_watertight)
    assert result.signed_volume_m3 == pytest.approx(mesh.volume, rel=1e-5)
    assert result.area_m2 == pytest.approx(mesh.area, rel=1e-5)
    assert result.components == mesh.body_count
    assert result.euler_characteristic == mesh.euler_number
