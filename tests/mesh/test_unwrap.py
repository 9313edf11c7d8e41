"""A layout that can be painted: inside the square, nothing on top of anything, room between charts."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.types import Mesh
from trellis_pipeline.mesh.unwrap import UnwrappedMesh, unwrap

AT_ONCE = 0.0  # seconds: uvunwrap never makes it, so the box layout is what comes back


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))


def spring() -> Mesh:
    """A ribbon wound five times: seen along any axis it covers itself."""
    turn = np.linspace(0, 10 * np.pi, 400)
    middle = np.column_stack([np.cos(turn), turn / 20, np.sin(turn)])
    inner, outer = middle * (0.8, 1, 0.8), middle
    at = np.arange(399)
    return Mesh(
        np.concatenate([inner, outer]).astype(np.float32),
        np.concatenate(
            [np.column_stack([at, at + 1, at + 400]), np.column_stack([at + 1, at + 401, at + 400])]
        ).astype(np.int32),
    )


SHAPES = {
    "ball": lambda: mesh_of(trimesh.creation.icosphere(subdivisions=4)),
    "ring": lambda: mesh_of(trimesh.creation.torus(1, 0.3)),
    "box": lambda: mesh_of(trimesh.creation.box()),
    "tall pipe": lambda: mesh_of(trimesh.creation.annulus(0.2, 0.25, 3)),
    "spring": spring,
}


def charts_of(flat: UnwrappedMesh) -> np.ndarray:
    """(T,) the connected piece of the layout that each triangle belongs to."""
    a, b, c = flat.triangles.T
    links = coo_array((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, c])), shape=(len(flat.uvs),) * 2)
    return connected_components(links, directed=False)[1][a]


def same_surface(flat: UnwrappedMesh, mesh: Mesh) -> bool:
    return np.array_equal(flat.source_vertex[flat.triangles], mesh.triangles) and np.array_equal(
        flat.positions, mesh.vertices[flat.source_vertex]
    )


@pytest.mark.parametrize(("seconds", "method"), [(None, "uvunwrap"), (AT_ONCE, "box")])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_triangle_has_a_place_of_its_own(shape, seconds, method):
    mesh = SHAPES[shape]()
    flat = unwrap(mesh, texture_px=1024, padding_px=4, timeout_seconds=seconds)
    assert flat.method == method
    assert flat.overlap_texels == 0
    assert same_surface(flat, mesh)
    assert flat.uvs.dtype == np.float32
    assert flat.uvs.min() >= 0
    assert flat.uvs.max() <= 1
    raster = rasterize_atlas(flat.uvs, flat.triangles, 2048)
    assert raster.overlap_texels == 0
    assert raster.covered.mean() > 0.1


@pytest.mark.parametrize("seconds", [None, AT_ONCE])
@pytest.mark.parametrize("shape", ["ball", "box", "spring"])
def test_charts_keep_their_distance_so_that_colours_do_not_bleed(shape, seconds):
    padding = 6
    flat = unwrap(SHAPES[shape](), texture_px=512, padding_px=padding, timeout_seconds=seconds)
    raster = rasterize_atlas(flat.uvs, flat.triangles, 512)
    chart = np.where(raster.covered, charts_of(flat)[raster.triangle_id], -1)
    closest = min(
        distance_transform_edt(chart != number)[raster.covered & (chart != number)].min(initial=np.inf)
        for number in np.unique(chart[raster.covered])
    )
    assert closest >= padding - 2  # the outermost texels are only touched, not covered


@pytest.mark.parametrize("seconds", [None, AT_ONCE])
def test_all_parts_of_the_surface_get_texels_in_proportion(seconds):
    mesh = SHAPES["ball"]()
    flat = unwrap(mesh, texture_px=512, padding_px=2, timeout_seconds=seconds)
    area = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False).area_faces
    corner = flat.uvs[flat.triangles].astype(float)
    side = corner[:, 1:] - corner[:, :1]
    in_atlas = np.abs(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0]) / 2
    density = (in_atlas / area) / (in_atlas.sum() / area.sum())
    assert density.min() > 0.5  # a face seen along the nearest axis loses at most 1 - 1/sqrt(3)
    assert density.max() < 2


@pytest.mark.parametrize("seconds", [None, AT_ONCE])
def test_a_long_plank_is_not_stretched_to_fill_the_square(seconds):
    mesh = mesh_of(trimesh.creation.box((8, 0.2, 1)))
    flat = unwrap(mesh, texture_px=512, padding_px=2, timeout_seconds=seconds)
    edge = flat.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    long, drawn = (
        np.linalg.norm(np.diff(rows[edge], axis=1)[:, 0], axis=1) for rows in (flat.positions, flat.uvs)
    )
    assert (drawn / long).min() > 0.95 * (drawn / long).max()


def test_the_same_mesh_gets_the_same_layout():
    mesh = SHAPES["ring"]()
    first, second = (unwrap(mesh, texture_px=512, padding_px=4) for _ in range(2))
    assert first.uvs.tobytes() == second.uvs.tobytes()
    assert first.triangles.tobytes() == second.triangles.tobytes()


def test_hundreds_of_loose_triangles_on_a_small_texture_still_get_a_place():
    rng = np.random.default_rng(7)
    corners = rng.normal(size=(400, 1, 3)) + 0.1 * rng.normal(size=(400, 3, 3))
    loose = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(1200, dtype=np.int32).reshape(-1, 3))
    flat = unwrap(loose, texture_px=256, padding_px=16, timeout_seconds=AT_ONCE)
    assert rasterize_atlas(flat.uvs, flat.triangles, 256).overlap_texels == 0
    assert same_surface(flat, loose)


def test_a_texture_too_small_for_the_charts_is_refused_with_the_way_out():
    rng = np.random.default_rng(7)
    corners = rng.normal(size=(3000, 3, 3))
    loose = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(9000, dtype=np.int32).reshape(-1, 3))
    with pytest.raises(MeshError, match=r"do not fit a texture of 32 px; use a larger one"):
        unwrap(loose, texture_px=32, padding_px=2, timeout_seconds=AT_ONCE)


def test_triangles_without_area_do_no_harm():
    mesh = SHAPES["box"]()
    flat_face = Mesh(mesh.vertices, np.vstack([mesh.triangles, [[0, 0, 1], [2, 2, 2]]]).astype(np.int32))
    for seconds in (None, AT_ONCE):
        flat = unwrap(flat_face, texture_px=256, padding_px=2, timeout_seconds=seconds)
        assert len(flat.triangles) == len(flat_face.triangles)
        assert np.isfinite(flat.uvs).all()
        assert flat.overlap_texels == 0


@settings(max_examples=25, deadline=None)
@given(
    vertices=arrays(np.float32, (12, 3), elements=st.floats(-4, 4, width=32)),
    triangles=arrays(np.int32, (20, 3), elements=st.integers(0, 11)),
)
def test_any_heap_of_triangles_gets_a_layout_without_overlap(vertices, triangles):
    heap = Mesh(vertices, triangles)
    for seconds in (5.0, AT_ONCE):
        flat = unwrap(heap, texture_px=256, padding_px=2, timeout_seconds=seconds)
        assert same_surface(flat, heap)
        raster = rasterize_atlas(flat.uvs, flat.triangles, 256)
        assert raster.overlap_texels <= 1e-4 * raster.covered.sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: Mesh(m.vertices, m.triangles[:0]), "no triangles"),
        (lambda m: Mesh(m.vertices * np.float32("nan"), m.triangles), "NaN"),
        (lambda m: Mesh(m.vertices, m.triangles + 9), "there are 8"),
    ],
)
def test_what_is_no_mesh_is_refused_by_name(change, message):
    with pytest.raises(MeshError, match=message):
        unwrap(change(SHAPES["box"]()), texture_px=256, padding_px=2)


def test_padding_that_would_eat_the_texture_is_refused():
    with pytest.raises(MeshError, match="at most an eighth"):
        unwrap(SHAPES["box"](), texture_px=64, padding_px=9)
