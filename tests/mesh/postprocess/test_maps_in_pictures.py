"""What the optional maps are for, seen in a picture; and how a model looks whose unwrap was too slow."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import voxel_shapes as shapes
from surface_pictures import voxels_as_they_are

from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.postprocess.options import Postprocessed, PostprocessOptions
from trellis_pipeline.mesh.postprocess.pipeline import postprocess, repair
from trellis_pipeline.mesh.render import render_views
from trellis_pipeline.mesh.types import TexturedMesh

THREADS = Path("/proc/self/task")


def made(given: shapes.Voxelised, **options) -> Postprocessed:
    chosen = {"texture_px": 512, "on_floor": False, "image_format": "png", "remesh": False} | options
    return postprocess(given.surface, given.voxels, PostprocessOptions(**chosen))


def drawn(model: TexturedMesh | bytes, view: str = "three_quarter") -> np.ndarray:
    glb = model if isinstance(model, bytes) else write_glb(model)
    return render_views(glb, views=(view,), px=200)[0].astype(int)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    both = (one[..., 3] > 250) & (other[..., 3] > 250)
    return float(np.abs(one[both][:, :3] - other[both][:, :3]).mean())


def clay(points: np.ndarray) -> np.ndarray:
    values = np.full((*points.shape[:-1], 6), 0.6)
    values[..., 3], values[..., 5] = 0.0, 1.0
    return values


def test_a_model_of_few_triangles_with_a_normal_map_looks_like_the_full_surface():
    def rippled(points):
        return 0.8 * (
            shapes.sphere(points, 0.4) + 0.006 * np.sin(40 * points[..., 2])
        )  # at most the true one

    given = shapes.voxelise(rippled, 96, paint=clay)
    full = drawn(
        voxels_as_they_are(repair(given.surface, PostprocessOptions(), drop_hidden=True), given.voxels)
    )
    mesh = made(given, max_triangles=500, texture_px=1024, normal_map=True).mesh
    without = dataclasses.replace(mesh, material=dataclasses.replace(mesh.material, normal=None))
    assert difference(drawn(mesh), full) < 0.25 * difference(drawn(without), full)


def test_occlusion_darkens_a_hollow_and_leaves_the_outside_alone():
    def bowl(points):
        below = np.maximum(shapes.sphere(points, 0.42), points[..., 2])
        return np.maximum(below, -shapes.sphere(points, 0.36))

    given = shapes.voxelise(bowl, 64, paint=clay)
    mesh = made(given, max_triangles=4000, occlusion_rays=64).mesh
    plain = dataclasses.replace(mesh, material=dataclasses.replace(mesh.material, occlusion_in_red=False))
    top, top_plain = drawn(mesh, "top"), drawn(plain, "top")
    assert top[80:120, 90:110, :3].mean() < 0.97 * top_plain[80:120, 90:110, :3].mean()
    assert np.abs(top - top_plain).max() > 5
    assert difference(drawn(mesh, "front"), drawn(plain, "front")) < 3


def test_an_unwrap_stopped_in_the_middle_gives_the_plain_layout_and_the_same_picture():
    """The unwrapper is at work when its time is over; it must stop, and nothing may overlap."""

    def bumpy(points):
        wobble = np.sin(60 * points[..., 0]) * np.sin(60 * points[..., 1]) * np.sin(60 * points[..., 2])
        return 0.6 * (shapes.sphere(points, 0.4) + 0.008 * wobble)

    given = shapes.voxelise(bumpy, 128)
    well = made(given, max_triangles=60_000)
    threads = len(list(THREADS.iterdir())) if THREADS.exists() else 0
    late = made(given, max_triangles=60_000, unwrap_timeout_seconds=0.02)
    assert (well.report.unwrap, late.report.unwrap) == ("uvunwrap", "box")
    raster = rasterize_atlas(late.mesh.uvs, late.mesh.triangles, 512)
    assert raster.overlap_texels == late.report.overlap_texels == 0
    assert len(late.mesh.triangles) == len(well.mesh.triangles)
    assert difference(drawn(well.mesh), drawn(late.mesh)) < 4
    until = time.monotonic() + 120
    while THREADS.exists() and len(list(THREADS.iterdir())) > threads and time.monotonic() < until:
        time.sleep(0.05)
    if threads:
        assert len(list(THREADS.iterdir())) <= threads  # nobody goes on unwrapping for nothing


@pytest.mark.parametrize(
    ("alpha", "mode"), [(1.0, "OPAQUE"), (0.0, "MASK"), (0.4, "BLEND")], ids=["solid", "cut out", "glass"]
)
def test_what_is_behind_shows_through_glass_and_cut_outs_and_through_nothing_else(alpha, mode):
    """A white ball with a front of some alpha; its back wall inside is red."""

    def paint(points):
        values = clay(points)
        values[..., :3] = np.where(points[..., 1:2] > 0, [1.0, 0.0, 0.0], [0.9, 0.9, 0.9])
        values[..., 5] = np.where(points[..., 1] < -0.1, alpha, 1.0)
        return values

    result = made(shapes.voxelise(shapes.sphere, 64, paint=paint), max_triangles=3000)
    assert result.report.alpha_mode == mode
    middle = drawn(result.mesh, "front")[90:110, 90:110].reshape(-1, 4).mean(axis=0)
    redness = middle[0] - middle[1]
    assert redness < 10 if mode == "OPAQUE" else redness > 20
