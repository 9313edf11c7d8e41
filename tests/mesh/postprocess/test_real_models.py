"""Real products, voxelised, come back looking like themselves."""

from pathlib import Path

import numpy as np
import pytest

from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.glb_container import parse_glb
from trellis_pipeline.mesh.glb_read import read_primitives
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.postprocess.closest import distances
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions
from trellis_pipeline.mesh.postprocess.pipeline import postprocess
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.render import render_views
from trellis_pipeline.mesh.types import Mesh
from trellis_pipeline.quality.topology import measure

CONTROLLERS = Path(__file__).parents[2] / "js" / "node_modules" / "@webxr-input-profiles" / "assets" / "dist"
MODELS = [
    "profiles/logitech-mx-ink/none.glb",
    "profiles/oculus-touch-v3/right.glb",
    "profiles/valve-index/right.glb",
]
RESOLUTION = 192

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CONTROLLERS.exists(), reason="needs @webxr-input-profiles/assets in tests/js"),
]


def sampled(mesh: Mesh, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    corner = mesh.vertices.astype(float)[mesh.triangles]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    return np.einsum("nk,nkx->nx", rng.dirichlet((1, 1, 1), count), corner[face]).astype(np.float32)


def in_model_space(path: Path, positions: np.ndarray) -> Mesh:
    """The real model, moved to where the decoder's space has it and turned to glTF's y up."""
    primitives = read_primitives(parse_glb(path.read_bytes()))
    sizes = np.cumsum([0, *(len(p.positions) for p in primitives)])
    points = np.concatenate([p.positions for p in primitives]).astype(float)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (0.9 / (high - low).max())
    faces = np.concatenate([p.triangles + at for p, at in zip(primitives, sizes, strict=False)])
    return Mesh(points.astype(np.float32), faces.astype(np.int32))


@pytest.mark.parametrize("remesh", [False, True], ids=["plain", "remeshed"])
@pytest.mark.parametrize("model", MODELS, ids=lambda name: name.split("/")[1])
def test_a_real_product_keeps_its_form_and_looks(model, remesh):
    from voxel_models import voxelise_glb

    path = CONTROLLERS / model
    given = voxelise_glb(path, RESOLUTION)
    options = PostprocessOptions(max_triangles=20_000, texture_px=1024, remesh=remesh, on_floor=False)
    result = postprocess(given.surface, given.voxels, options)
    mesh = result.mesh
    assert len(mesh.triangles) <= 20_000

    original = in_model_space(path, mesh.positions)
    away = distances(surface_tree(original), sampled(Mesh(mesh.positions, mesh.triangles), 20_000))
    assert away.mean() * RESOLUTION <= 0.5
    assert np.percentile(away, 99) * RESOLUTION <= 1.5

    facts = measure(mesh.positions, mesh.triangles)
    assert facts.non_manifold_edges == facts.orientation_conflicts == facts.degenerate_faces == 0
    if remesh:
        assert facts.watertight
        assert not facts.inverted
    assert rasterize_atlas(mesh.uvs, mesh.triangles, 1024).overlap_texels == 0

    views = ("front", "three_quarter")
    pairs = zip(
        render_views(path.read_bytes(), views=views, px=320),
        render_views(write_glb(mesh), views=views, px=320),
        strict=True,
    )
    for real, ours in pairs:
        one, other = real[..., 3] > 250, ours[..., 3] > 250
        both = one & other
        assert both.sum() / (one | other).sum() > 0.97
        assert np.abs(real[both][:, :3].astype(int) - ours[both][:, :3]).mean() < 0.02 * 255
