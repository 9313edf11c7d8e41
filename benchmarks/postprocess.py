"""A million-triangle voxel surface to a textured model, step by step, beside other tools doing the same step.

The shape is a ring with bumps, voxelised as a decoder would leave it: wound by axis, material in voxels.
`cpu` is what all threads used, the fairer figure on a busy machine. Peers get the input that our step got:
trimesh repairs the winding, fast-simplification simplifies, xatlas unwraps, point-cloud-utils looks for
closest points, each if it is installed and if its step is not expected to take minutes (`--slow` to insist).

    python -m benchmarks.postprocess [--resolution 448] [--triangles 100000] [--texture 2048]
                                     [--threads 2] [--no-remesh] [--peers] [--slow]
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import voxel_shapes as shapes

from trellis_pipeline.mesh.atlas import rasterize_atlas, texel_positions
from trellis_pipeline.mesh.postprocess.closest import closest_points
from trellis_pipeline.mesh.postprocess.options import PostprocessOptions, PostprocessReport
from trellis_pipeline.mesh.postprocess.pipeline import postprocess, repair
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.simplify import simplify
from trellis_pipeline.mesh.types import Mesh
from trellis_pipeline.mesh.unwrap import unwrap

GOALS = {(False, 100_000, 2048): 20, (True, 100_000, 2048): 35, (True, 500_000, 4096): 90}


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


def timed(label: str, call: Callable[[], object], note: Callable[[object], str] = lambda _: "") -> object:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {label:44} wall {wall:7.2f} s   cpu {cpu:7.2f} s   {note(result)}")
    return result


def beside_peers(made: shapes.Voxelised, options: PostprocessOptions, *, slow: bool) -> None:
    has = {
        name for name in ("trimesh", "fast_simplification", "xatlas", "point_cloud_utils") if _installed(name)
    }
    print("\nstep by step, one thread of ours")
    source = timed("repair, ours", lambda: repair(made.surface, options, drop_hidden=True))
    assert isinstance(source, Mesh)
    if "trimesh" in has and (slow or len(made.surface.triangles) < 200_000):
        import trimesh

        def fixed() -> object:
            body = trimesh.Trimesh(made.surface.vertices, made.surface.triangles, process=True)
            trimesh.repair.fix_normals(body, multibody=True)
            trimesh.repair.fill_holes(body)
            return body

        timed("repair, trimesh (winding, normals, holes)", fixed)
    budget = options.max_triangles
    model = timed(
        "simplify, ours", lambda: simplify(source, budget), lambda m: f"{len(m.triangles)} triangles"
    )
    assert isinstance(model, Mesh)
    if "fast_simplification" in has:
        import fast_simplification

        timed(
            "simplify, fast-simplification",
            lambda: fast_simplification.simplify(
                source.vertices, source.triangles, target_count=budget, agg=7.0
            ),
            lambda m: f"{len(m[1])} triangles",
        )
    px = options.texture_px
    layout = timed(
        "unwrap, uvunwrap as we call it", lambda: unwrap(model, texture_px=px, padding_px=px // 256)
    )
    if "xatlas" in has:
        few = model if slow else simplify(model, 10_000)

        def unwrapped(mesh: Mesh) -> object:
            import xatlas

            return xatlas.parametrize(mesh.vertices, mesh.triangles.astype(np.uint32))

        timed(f"unwrap, xatlas on {len(few.triangles)} triangles", lambda: unwrapped(few))
        timed(
            f"unwrap, ours on {len(few.triangles)} triangles",
            lambda: unwrap(few, texture_px=px, padding_px=px // 256),
        )
    raster = rasterize_atlas(layout.uvs, layout.triangles, px)
    _, places = texel_positions(raster, layout.triangles, layout.positions)
    sample = np.ascontiguousarray(places[: 200_000 if not slow else None])
    tree = timed("index the surface, ours", lambda: surface_tree(source))
    timed(f"closest points to {len(sample)} texels, ours", lambda: closest_points(tree, sample))
    if "point_cloud_utils" in has:
        import point_cloud_utils

        timed(
            f"the same with its index, point-cloud-utils on {len(sample)}",
            lambda: point_cloud_utils.closest_points_on_mesh(
                sample.astype(np.float64), source.vertices.astype(np.float64), source.triangles
            ),
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=448)
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-remesh", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--slow", action="store_true")
    chosen = parser.parse_args()

    warm = shapes.voxelise(shapes.sphere, 32)  # compiles everything, which is kept between runs
    postprocess(warm.surface, warm.voxels, PostprocessOptions(max_triangles=500, texture_px=256))
    made = shapes.voxelise(bumpy_ring, chosen.resolution)
    for remesh in (False,) if chosen.no_remesh else (False, True):
        options = PostprocessOptions(
            max_triangles=chosen.triangles, texture_px=chosen.texture, remesh=remesh, threads=chosen.threads
        )
        whole_way(made, options)
    if chosen.peers:
        options = PostprocessOptions(max_triangles=chosen.triangles, texture_px=chosen.texture)
        beside_peers(made, options, slow=chosen.slow)


if __name__ == "__main__":
    main()
