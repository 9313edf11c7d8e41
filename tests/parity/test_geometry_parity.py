"""The geometry kernels give what the original ones gave: sampling, closest point, narrow-band remeshing.

Like test_parity.py this takes any files of the directory; here those that need no PyTorch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from trellis_pipeline.mesh.postprocess.closest import closest_points
from trellis_pipeline.mesh.postprocess.narrow_band import project_back, remesh_narrow_band
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.postprocess.voxels import sample_trilinear
from trellis_pipeline.mesh.types import Mesh


def largest_difference(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    assert ours.shape == theirs.shape, name
    worst = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0))
    assert worst <= tolerance * max(1.0, float(np.abs(theirs).max(initial=0))), f"{name}: {worst:.3g}"
    return worst


def check_sampling(arrays: dict[str, np.ndarray], config: dict) -> str:
    worst = 0.0
    coords = arrays["input/coords"]
    for sample, points in enumerate(arrays["input/grid"]):
        mine = coords[:, 0] == sample
        out = sample_trilinear(coords[mine, 1:], arrays["input/feats"][mine], points)
        worst = max(worst, largest_difference("out", out, arrays["output/out"][sample], config["tolerance"]))
    return f"max difference {worst:.2g}, tolerance {config['tolerance']:.0e}"


def check_closest_point(arrays: dict[str, np.ndarray], config: dict) -> str:
    tolerance = config["tolerance"]
    mesh = Mesh(arrays["input/vertices"], arrays["input/faces"])
    found = closest_points(surface_tree(mesh), arrays["input/points"])
    worst = largest_difference("distance", found.distance, arrays["output/distance"], tolerance)
    worst = max(worst, largest_difference("closest", found.points, arrays["output/closest"], tolerance))
    # Which of the triangles around a corner is named is free; where it is the same, so are the weights.
    same = found.triangle == arrays["output/face_id"]
    largest_difference("uvw", found.barycentrics[same], arrays["output/uvw"][same], tolerance)
    corners = mesh.vertices[mesh.triangles[found.triangle]]
    again = np.einsum("nk,nkx->nx", found.barycentrics, corners)
    largest_difference("point from uvw", again, found.points, tolerance)
    return f"max difference {worst:.2g}, tolerance {tolerance:.0e}"


def check_remesh(arrays: dict[str, np.ndarray], config: dict) -> str:
    args, tolerance, worst = config["args"], config["tolerance"], 0.0
    tree = surface_tree(Mesh(arrays["input/vertices"], arrays["input/faces"]))
    skin = remesh_narrow_band(
        tree,
        center=tuple(args["center"]),
        scale=args["scale"],
        resolution=args["resolution"],
        band_cells=args["band"],
    )
    shares = [name.removeprefix("output/vertices_pb") for name in arrays if "output/vertices_pb" in name]
    assert shares
    for share in shares:
        ours = project_back(skin, tree, float(share))
        theirs = Mesh(arrays[f"output/vertices_pb{share}"], arrays[f"output/faces_pb{share}"])
        assert ours.vertices.shape == theirs.vertices.shape
        # The grid is walked in another order; vertices are matched one to one before faces are compared.
        gap, index = cKDTree(theirs.vertices).query(ours.vertices)
        assert len(np.unique(index)) == len(index)
        assert gap.max() <= tolerance
        worst = max(worst, float(gap.max()))
        assert rotated(index[ours.triangles]) == rotated(theirs.triangles)
    return f"max difference {worst:.2g}, tolerance {tolerance:.0e}, faces equal"


def rotated(triangles: np.ndarray) -> list[tuple[int, ...]]:
    """Triangles in a canonical order, each starting at its lowest corner; winding is kept."""
    first = triangles.argmin(axis=1)
    turned = np.take_along_axis(triangles, (first[:, None] + np.arange(3)) % 3, axis=1)
    return sorted(map(tuple, turned.tolist()))


CHECKS = {
    "flex_gemm grid_sample_3d trilinear": check_sampling,
    "cuBVH.unsigned_distance(return_uvw=True)": check_closest_point,
    "cumesh.remeshing.remesh_narrow_band_dc": check_remesh,
}


def kind_of(config: dict) -> str | None:
    """The original kernel, without the commit that its name may end with."""
    return next((kind for kind in CHECKS if str(config.get("class")).startswith(kind)), None)


def geometry_files(config: pytest.Config) -> list[Path]:
    directory = config.getoption("--parity-dir", default=None) or os.environ.get("TRELLIS_PARITY_DIR")
    files = sorted(Path(directory).glob("*.npz")) if directory else []
    return [path for path in files if kind_of(read(path)[1])]


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(path, allow_pickle=False) as archive:
        config = json.loads(str(archive["config"]))
        names = [name for name in archive.files if name != "config"] if kind_of(config) else []
        return {name: archive[name] for name in names}, config


def pytest_generate_tests(metafunc):
    skip = pytest.mark.skip(reason="no parity files: give --parity-dir or set TRELLIS_PARITY_DIR")
    files = geometry_files(metafunc.config) or [pytest.param(None, marks=skip)]
    metafunc.parametrize("geometry_file", files, ids=lambda path: path.stem if path else "no-files")


def test_geometry_is_what_the_original_kernels_gave(geometry_file: Path, report):
    arrays, config = read(geometry_file)
    report(geometry_file.stem, CHECKS[kind_of(config)](arrays, config))
