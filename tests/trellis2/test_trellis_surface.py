"""A sphere in, a sphere out: the dual grid's triangles close, lie on it and count up to its area."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from trellis_pipeline.trellis2.dual_grid import dual_faces, extract_surface  # noqa: E402
from trellis_pipeline.trellis2.latent_decoder import SurfaceVoxels, surface_voxels  # noqa: E402

RESOLUTION, RADIUS = 32, 0.37


def sphere() -> tuple[torch.Tensor, SurfaceVoxels]:
    """The voxels around a sphere's surface, as the shape decoder would describe them."""
    n = RESOLUTION
    corner = torch.stack(torch.meshgrid(*3 * [torch.arange(n + 1) / n - 0.5], indexing="ij"), dim=-1)
    inside = corner.norm(dim=-1) < RADIUS
    crossed = torch.zeros(n, n, n, 3, dtype=torch.bool)
    # The edge along an axis at the far corner in the other two.
    crossed[..., 0] = inside[:-1, 1:, 1:] != inside[1:, 1:, 1:]
    crossed[..., 1] = inside[1:, :-1, 1:] != inside[1:, 1:, 1:]
    crossed[..., 2] = inside[1:, 1:, :-1] != inside[1:, 1:, 1:]
    corners_inside = sum(
        inside[x : n + x, y : n + y, z : n + z].int() for x in (0, 1) for y in (0, 1) for z in (0, 1)
    )
    coords = ((corners_inside > 0) & (corners_inside < 8)).nonzero().int()
    centre = (coords.float() + 0.5) / n - 0.5
    on_sphere = centre * (RADIUS / centre.norm(dim=-1, keepdim=True))
    vertex = ((on_sphere + 0.5) * n - coords).clamp(0, 1)
    voxels = SurfaceVoxels(vertex, crossed[coords.long().unbind(1)], torch.ones(len(coords)))
    return coords, voxels


def test_a_sphere_comes_out_closed_and_round():
    coords, voxels = sphere()
    vertices, triangles = (part.numpy() for part in extract_surface(coords, voxels, RESOLUTION))
    assert vertices.dtype == np.float32
    assert triangles.dtype == np.int32
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).all()
    assert len(vertices) - len(unique) + len(triangles) == 2
    assert np.abs(np.linalg.norm(vertices, axis=1) - RADIUS).max() < 0.5 / RESOLUTION
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(4 * np.pi * RADIUS**2, rel=0.02)


def test_a_quad_with_a_missing_voxel_is_left_out():
    coords, voxels = sphere()
    whole = dual_faces(coords, voxels.crossed)
    keep = torch.arange(len(coords)) != 100
    holed = dual_faces(coords[keep], voxels.crossed[keep])
    touching = (whole == 100).any(1).unflatten(0, (-1, 2)).any(1).sum() * 2
    assert len(holed) == len(whole) - int(touching)
    assert len(holed) < len(whole)


def test_the_heavier_diagonal_splits_a_quad():
    coords = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]])
    crossed = torch.zeros(4, 3, dtype=torch.bool)
    crossed[0, 0] = True
    assert dual_faces(coords, crossed, torch.tensor([2.0, 1, 2, 1])).tolist() == [[0, 1, 2], [0, 2, 3]]
    assert dual_faces(coords, crossed, torch.tensor([1.0, 2, 1, 2])).tolist() == [[0, 1, 3], [3, 1, 2]]
    assert dual_faces(coords, crossed).tolist() == [[0, 1, 2], [0, 2, 3]]


def test_no_crossing_gives_no_triangle():
    coords = torch.tensor([[1, 2, 3]])
    assert dual_faces(coords, torch.zeros(1, 3, dtype=torch.bool)).shape == (0, 3)


def test_vertices_stay_within_the_margin_around_their_voxel():
    raw = torch.randn(500, 7) * 20
    voxels = surface_voxels(raw)
    assert voxels.vertex.min() >= -0.5
    assert voxels.vertex.max() <= 1.5
    assert (voxels.weight >= 0).all()
    assert torch.equal(voxels.crossed, raw[:, 3:6] > 0)
