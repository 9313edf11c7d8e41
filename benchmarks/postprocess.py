"""A million-triangle voxel surface to a textured model, step by step, beside tools doing the same steps.

The shape is a ring with bumps, voxelised as a decoder would leave it: wound by axis, material in voxels.
`cpu` is what all threads used, the fairer figure on a busy machine.

    python -m benchmarks.postprocess [--resolution 448] [--triangles 100000] [--texture 2048] [--threads 2]
                                     [--model GLB] [--no-remesh | --only-remesh] [--peers] [--slow]

With `--peers` each step runs again on one thread, and then in other tools on the same input. trimesh is a
dependency; the others are installed for this benchmark only (MIT) and left out where they are not, which the
table says:

    pip install xatlas==0.0.11 point-cloud-utils==0.34.0 fast-simplification==0.2.0 meshoptimizer==0.2.30a0

What would take a peer minutes is run on less, and ours on the same less beside it; `--slow` runs it in full.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import voxel_models
import voxel_shapes as shapes

from benchmarks import simplify_peers
from trellis_pipeline.mesh.atlas import fill_gutter, rasterize_atlas, texel_positions
from trellis_pipeline.mesh.clean import is_closed_manifold
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.postprocess.closest import closest_points, distances
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions, PostprocessReport
from trellis_pipeline.mesh.postprocess.pipeline import postprocess, repair
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.simplify import simplify
from trellis_pipeline.mesh.types import Mesh
from trellis_pipeline.mesh.unwrap import unwrap

GOALS = {(False, 100_000, 2048): 20, (True, 100_000, 2048): 35, (True, 500_000, 4096): 90}
FEW_TEXELS = 20_000
FEW_TRIANGLES = 10_000
PEERS = ("trimesh", "xatlas", "point_cloud_utils")

T = TypeVar("T")


def bumpy_ring(points: np.ndarray) -> np.ndarray:
    """Distance to a ring with bumps, at most the true one."""
    around = np.arctan2(points[..., 1], points[..., 0])
    ring = np.hypot(points[..., 0], points[..., 1]) - 0.3
    across = np.arctan2(points[..., 2], ring)
    return 0.8 * (np.hypot(ring, points[..., 2]) - 0.14 - 0.012 * np.sin(9 * around) * np.sin(4 * across))


class Stopwatch:
    """Notes wall and cpu time whenever a step begins."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float, float]] = []

    def __call__(self, name: str) -> None:
        self.marks.append((name, time.perf_counter(), time.process_time()))

    def steps(self) -> list[tuple[str, float, float]]:
        return [
            (name, after[1] - wall, after[2] - cpu)
            for (name, wall, cpu), after in zip(self.marks, self.marks[1:], strict=False)
        ]


def whole_way(made: shapes.Voxelised, options: PostprocessOptions) -> PostprocessReport:
    watch = Stopwatch()
    report = postprocess(made.surface, made.voxels, options, progress=watch).report
    watch("end")
    how = "remesh" if options.remesh else "no remesh"
    print(f"\n{report.source_triangles} -> {report.triangles} triangles, {options.texture_px} px, {how}")
    for name, wall, cpu in watch.steps():
        print(f"  {name:16} wall {wall:7.2f} s   cpu {cpu:7.2f} s")
    wall, cpu = (watch.marks[-1][k] - watch.marks[0][k] for k in (1, 2))
    goal = GOALS.get((options.remesh, options.max_triangles, options.texture_px))
    print(
        f"  {'total':16} wall {wall:7.2f} s   cpu {cpu:7.2f} s"
        + (f"   goal {goal} s on 2 cores" if goal else "")
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  closed {report.closed}, overlapping texels {report.overlap_texels}, layout {report.unwrap}, "
        f"coverage {report.atlas_coverage:.2f}, peak memory so far {peak:.0f} MB"
    )
    return report


class Table:
    """Rows as they are measured; ratios are cpu time over that of our row of the same step."""

    def __init__(self) -> None:
        self._ours = 0.0
        print(f"\n{'step':<17}{'tool':<21}{'wall s':>8}{'cpu s':>8}{'ratio':>9}  note")

    def row(self, step: str, tool: str, call: Callable[[], T], note: Callable[[T], str] | str = "") -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if tool == "ours":
            self._ours = cpu
        said = note if isinstance(note, str) else note(result)
        ratio = cpu / max(self._ours, 1e-9)
        print(f"{step:<17}{tool:<21}{wall:>8.2f}{cpu:>8.2f}{ratio:>8.1f}×  {said}", flush=True)
        return result

    def skipped(self, step: str, tool: str) -> None:
        print(f"{step:<17}{tool:<21}{'skipped: not installed':>25}")


def off_by(source: Mesh) -> Callable[[Mesh], str]:
    """How far a simplified mesh is from its source, both ways, in thousandths of the object's size."""

    def note(result: Mesh) -> str:
        some = np.random.default_rng(0).choice(len(source.vertices), 20_000)
        away = distances(surface_tree(result), source.vertices[some])
        closed = "closed" if is_closed_manifold(result.triangles) else "NOT a closed manifold"
        return (
            f"{len(result.triangles)} triangles, off by {1e3 * np.sqrt((away**2).mean()):.2f}‰ rms, {closed}"
        )

    return note


def beside_peers(made: shapes.Voxelised, options: PostprocessOptions, *, slow: bool) -> None:
    has = {name for name in PEERS if importlib.util.find_spec(name) is not None}
    table = Table()
    source = table.row("repair", "ours", lambda: repair(made.surface, options, drop_hidden=True))
    if "trimesh" in has:
        table.row("repair", "trimesh", lambda: trimesh_repair(made.surface), "winding, normals, holes")
    else:
        table.skipped("repair", "trimesh")

    budget = options.max_triangles
    model = table.row("simplify", "ours", lambda: simplify(source, budget), off_by(source))
    for name, peer in simplify_peers.installed().items():
        if peer is not None:
            table.row("simplify", name, partial(peer, source, budget), off_by(source))
        else:
            table.skipped("simplify", name)

    px = options.texture_px
    layout = table.row("unwrap", "ours", lambda: unwrap(model, texture_px=px, padding_px=px // 512))
    few = model if slow else simplify(model, min(FEW_TRIANGLES, len(model.triangles)))
    step = f"unwrap {len(few.triangles)}"
    table.row(step, "ours", lambda: unwrap(few, texture_px=px, padding_px=px // 512))
    if "xatlas" in has:
        table.row(step, "xatlas", lambda: xatlas_unwrapped(few), "no room between charts")
    else:
        table.skipped(step, "xatlas")

    table.row("normals", "ours", lambda: vertex_normals(model))
    if "trimesh" in has:
        table.row("normals", "trimesh", lambda: trimesh_of(model).vertex_normals)
    raster = table.row("rasterise", "ours", lambda: rasterize_atlas(layout.uvs, layout.triangles, px))
    _, places = texel_positions(raster, layout.triangles, layout.positions)
    tree = table.row("index", "ours", lambda: surface_tree(source))
    table.row("closest points", "ours", lambda: closest_points(tree, places), f"{len(places)} texels")
    some = places if slow else np.ascontiguousarray(places[:: max(1, len(places) // FEW_TEXELS)])
    step = f"closest {len(some)}"
    exact = table.row(
        step, "ours", lambda: closest_points(tree, some), "scattered, without the index"
    ).distance
    others: dict[str, Callable[[], np.ndarray]] = {
        "scipy cKDTree": lambda: kd_tree_distances(source, some),
        "point-cloud-utils": lambda: point_cloud_utils_distances(source, some),
        "trimesh": lambda: trimesh_distances(source, some),
    }
    for tool, call in others.items():
        if tool != "scipy cKDTree" and tool.replace("-", "_") not in has:
            table.skipped(step, tool)
        elif tool == "trimesh" and not slow:
            print(f"{step:<17}{tool:<21}{'skipped: takes minutes (--slow)':>33}")
        else:
            table.row(
                step,
                tool,
                call,
                lambda far: f"with its index; off by {1e3 * np.abs(far - exact).max():.2f}‰ at most",
            )
    image = np.zeros((px, px, 3), np.uint8)
    table.row("gutter", "ours", lambda: fill_gutter(image, raster.covered))
    table.row("gutter", "scipy", lambda: scipy_gutter(image, raster.covered))


def trimesh_of(mesh: Mesh):
    import trimesh

    return trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False)


def trimesh_repair(mesh: Mesh) -> object:
    import trimesh

    body = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=True)
    trimesh.repair.fix_normals(body, multibody=True)
    trimesh.repair.fill_holes(body)
    return body


def trimesh_distances(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    import trimesh

    return trimesh.proximity.closest_point(trimesh_of(mesh), points)[1]


def xatlas_unwrapped(mesh: Mesh) -> object:
    import xatlas

    return xatlas.parametrize(mesh.vertices, mesh.triangles.astype(np.uint32))


def kd_tree_distances(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """To the nearest vertex, which is what is often taken for the nearest point."""
    from scipy.spatial import cKDTree

    return cKDTree(mesh.vertices).query(points)[0]


def point_cloud_utils_distances(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    import point_cloud_utils

    return point_cloud_utils.closest_points_on_mesh(
        points.astype(np.float64), mesh.vertices.astype(np.float64), mesh.triangles
    )[0]


def scipy_gutter(image: np.ndarray, covered: np.ndarray) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return image[tuple(distance_transform_edt(~covered, return_distances=False, return_indices=True))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=448)
    parser.add_argument("--model", type=Path, help="a GLB to voxelise instead of the ring")
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--no-remesh", action="store_true")
    ways.add_argument("--only-remesh", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--slow", action="store_true")
    chosen = parser.parse_args()

    # What is compiled is kept between runs, but loading it takes time too, each way its own.
    warm = shapes.voxelise(shapes.sphere, 32)
    for remesh in (False, True):
        options = PostprocessOptions(max_triangles=500, texture_px=256, remesh=remesh)
        postprocess(warm.surface, warm.voxels, options)
    made = voxel_models.voxelise_glb(chosen.model, chosen.resolution) if chosen.model else None
    made = made or shapes.voxelise(bumpy_ring, chosen.resolution)
    for remesh in (False, True):
        if chosen.no_remesh if remesh else chosen.only_remesh:
            continue
        options = PostprocessOptions(
            max_triangles=chosen.triangles, texture_px=chosen.texture, remesh=remesh, threads=chosen.threads
        )
        whole_way(made, options)
    if chosen.peers:
        options = PostprocessOptions(max_triangles=chosen.triangles, texture_px=chosen.texture)
        beside_peers(made, options, slow=chosen.slow)


if __name__ == "__main__":
    main()
