"""How long the mesh tools take, step by step, beside other libraries on the same mesh in the same run.

The mesh is a ring with bumps, closed and manifold. xatlas and those in simplify_peers.py are optional, left
out where they are not installed; the others come with the project. Every call runs once to warm up, then the
fastest of some repeats counts. `wall` is elapsed time, `cpu` what all threads used, the fairer one on a busy
machine; `ratio` is cpu time divided by ours. Run from the repository root:

    python -m benchmarks.mesh_tools [TRIANGLES] [BUDGET]
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import simplify_peers
from trellis_pipeline.mesh.atlas import fill_gutter, rasterize_atlas, texel_positions
from trellis_pipeline.mesh.clean import clean, is_closed_manifold
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.simplify import simplify
from trellis_pipeline.mesh.types import Material, Mesh, TexturedMesh
from trellis_pipeline.mesh.unwrap import UnwrappedMesh, unwrap

REPEATS = 3
TEXTURE_PX = 2048
PADDING_PX = 8


@dataclass(frozen=True, slots=True)
class Row:
    step: str
    tool: str
    wall_ms: float
    cpu_ms: float
    note: str


def bumpy_ring(triangles: int) -> Mesh:
    """About `triangles` triangles; the tube is 0.6 thick, bumps are 0.03 high."""
    minor = int(np.sqrt(triangles / 5))
    major = triangles // (2 * minor)
    u, v = (a.ravel() for a in np.meshgrid(np.arange(major), np.arange(minor), indexing="ij"))
    at = lambda i, j: (i % major) * minor + j % minor  # noqa: E731
    corners = [at(u, v), at(u + 1, v), at(u + 1, v + 1), at(u, v + 1)]
    a, b, c, d = corners
    around, across = 2 * np.pi * u / major, 2 * np.pi * v / minor
    tube = 0.3 + 0.03 * np.sin(9 * around) * np.sin(4 * across)
    reach = 1 + tube * np.cos(across)
    vertices = np.column_stack([reach * np.cos(around), tube * np.sin(across), -reach * np.sin(around)])
    faces = np.concatenate([np.column_stack([a, b, c]), np.column_stack([a, c, d])])
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32))


def timed(call: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float, object]:
    """Fastest wall and cpu milliseconds, and the result."""
    result = call()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return 1e3 * min(walls), 1e3 * min(cpus), result


def distance_note(source: Mesh, result: Mesh) -> str:
    """RMS distance of source vertices to the plane of the nearest face, and whether the result is closed."""
    from scipy.spatial import cKDTree

    corner = result.vertices.astype(np.float64)[result.triangles]
    rng = np.random.default_rng(0)
    weights = rng.dirichlet((1, 1, 1), size=(len(corner), 20))
    samples = np.einsum("tsk,tkx->tsx", weights, corner).reshape(-1, 3)
    points = source.vertices[rng.choice(len(source.vertices), 20_000)].astype(np.float64)
    face = cKDTree(samples).query(points)[1] // 20
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    gap = np.einsum("ij,ij->i", points - corner[face, 0], normal[face])
    closed = "closed" if is_closed_manifold(result.triangles) else "NOT a closed manifold"
    return f"{len(result.triangles):,} triangles, rms {np.sqrt((gap**2).mean()):.1e}, {closed}"


def simplify_rows(mesh: Mesh, budget: int) -> list[Row]:
    tools: dict[str, Callable[[], Mesh]] = {"ours": lambda: simplify(mesh, budget)}
    for name, peer in simplify_peers.installed().items():
        if peer is not None:
            tools[name] = partial(peer, mesh, budget)
    rows = []
    for tool, call in tools.items():
        wall, cpu, result = timed(call)
        rows.append(Row("simplify", tool, wall, cpu, distance_note(mesh, result)))
    return rows


def unwrap_rows(mesh: Mesh) -> list[Row]:
    def ours(seconds: float | None = None) -> UnwrappedMesh:
        return unwrap(mesh, texture_px=TEXTURE_PX, padding_px=PADDING_PX, timeout_seconds=seconds)

    def with_uvunwrap() -> object:
        import uvunwrap

        source = uvunwrap.Mesh(mesh.vertices, mesh.triangles.astype(np.uint32))
        return uvunwrap.generate([source], page_size=TEXTURE_PX, padding=PADDING_PX)

    def with_xatlas() -> UnwrappedMesh:
        import xatlas

        atlas = xatlas.Atlas()
        atlas.add_mesh(mesh.vertices, mesh.triangles.astype(np.uint32))
        options = xatlas.PackOptions()
        options.padding, options.resolution = PADDING_PX, TEXTURE_PX
        atlas.generate(pack_options=options)
        origin, triangles, uvs = atlas[0]
        triangles = triangles.astype(np.int32)
        return UnwrappedMesh(mesh.vertices[origin], uvs, triangles, origin.astype(np.int32), -1, "uvunwrap")

    def note(flat: UnwrappedMesh) -> str:
        raster = rasterize_atlas(np.clip(flat.uvs, 0, 1), flat.triangles, TEXTURE_PX)
        seams = len(flat.uvs) - len(mesh.vertices)
        share = raster.covered.mean()
        return f"{share:.0%} covered, {raster.overlap_texels} texels overlap, {seams:,} vertices added"

    rows = []
    for tool, call in (("ours, checked", ours), ("ours, box layout", lambda: ours(0.0))):
        wall, cpu, result = timed(call)
        rows.append(Row("unwrap", tool, wall, cpu, note(result)))
    wall, cpu, _ = timed(with_uvunwrap)
    rows.append(Row("unwrap", "uvunwrap alone", wall, cpu, ""))
    if importlib.util.find_spec("xatlas"):
        wall, cpu, result = timed(with_xatlas, repeats=1)
        rows.append(Row("unwrap", "xatlas", wall, cpu, note(result)))
    return rows


def atlas_rows(flat: UnwrappedMesh) -> list[Row]:
    from scipy.ndimage import distance_transform_edt

    wall, cpu, raster = timed(lambda: rasterize_atlas(flat.uvs, flat.triangles, TEXTURE_PX))
    rows = [Row("raster", "ours", wall, cpu, f"{TEXTURE_PX} px, {raster.covered.sum():,} texels")]
    wall, cpu, _ = timed(lambda: texel_positions(raster, flat.triangles, flat.positions))
    rows.append(Row("positions", "ours", wall, cpu, ""))

    def with_numpy() -> np.ndarray:
        at = np.flatnonzero(raster.covered)
        corner = flat.positions[flat.triangles[raster.triangle_id.ravel()[at]]]
        weight = raster.barycentrics.reshape(-1, 2)[at]
        weight = np.column_stack([weight, 1 - weight.sum(axis=1)])
        return np.einsum("nk,nkx->nx", weight, corner)

    wall, cpu, _ = timed(with_numpy)
    rows.append(Row("positions", "numpy", wall, cpu, ""))
    image = np.random.default_rng(0).integers(0, 255, (TEXTURE_PX, TEXTURE_PX, 3), np.uint8)
    wall, cpu, _ = timed(lambda: fill_gutter(image, raster.covered))
    rows.append(Row("gutter", "ours (cv2)", wall, cpu, "everything filled"))

    def with_scipy() -> np.ndarray:
        at = distance_transform_edt(~raster.covered, return_distances=False, return_indices=True)
        return image[tuple(at)]

    wall, cpu, _ = timed(with_scipy, repeats=1)
    rows.append(Row("gutter", "scipy", wall, cpu, "exact distances"))
    return rows


def small_rows(mesh: Mesh, flat: UnwrappedMesh) -> list[Row]:
    import trimesh

    torn = Mesh(
        mesh.vertices[mesh.triangles].reshape(-1, 3),
        np.arange(mesh.triangles.size, dtype=np.int32).reshape(-1, 3),
    )
    wall, cpu, _ = timed(lambda: clean(torn))
    rows = [Row("clean", "ours", wall, cpu, "every vertex torn")]
    wall, cpu, _ = timed(lambda: trimesh.Trimesh(torn.vertices, torn.triangles, process=True, validate=True))
    rows.append(Row("clean", "trimesh", wall, cpu, "process, validate"))
    wall, cpu, _ = timed(lambda: is_closed_manifold(mesh.triangles))
    rows.append(Row("closed?", "ours", wall, cpu, ""))
    wall, cpu, _ = timed(lambda: trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False).is_watertight)
    rows.append(Row("closed?", "trimesh", wall, cpu, ""))
    wall, cpu, normals = timed(lambda: vertex_normals(mesh))
    rows.append(Row("normals", "ours", wall, cpu, ""))
    wall, cpu, _ = timed(lambda: trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False).vertex_normals)
    rows.append(Row("normals", "trimesh", wall, cpu, ""))
    whole = TexturedMesh(flat.positions, normals[flat.source_vertex], flat.uvs, flat.triangles, Material())
    wall, cpu, glb = timed(lambda: write_glb(whole))
    rows.append(Row("write GLB", "ours", wall, cpu, f"{len(glb) / 1e6:.1f} MB"))
    uv = trimesh.visual.TextureVisuals(uv=flat.uvs)
    peer = trimesh.Trimesh(flat.positions, flat.triangles, visual=uv, process=False)
    wall, cpu, glb = timed(lambda: peer.export(file_type="glb"))
    rows.append(Row("write GLB", "trimesh", wall, cpu, f"{len(glb) / 1e6:.1f} MB"))
    return rows


def main(triangles: int = 200_000, budget: int = 20_000) -> None:
    mesh = bumpy_ring(triangles)
    print(
        f"{len(mesh.triangles):,} triangles to {budget:,}, texture {TEXTURE_PX} px, padding {PADDING_PX} px\n"
    )
    small = simplify(mesh, budget)
    flat = unwrap(small, texture_px=TEXTURE_PX, padding_px=PADDING_PX)
    rows = [*simplify_rows(mesh, budget), *unwrap_rows(small), *atlas_rows(flat), *small_rows(small, flat)]
    print(f"{'step':<11}{'tool':<22}{'wall ms':>9}{'cpu ms':>9}{'ratio':>8}  note")
    base: dict[str, float] = {}
    for row in rows:
        ratio = row.cpu_ms / base.setdefault(row.step, row.cpu_ms)
        print(f"{row.step:<11}{row.tool:<22}{row.wall_ms:>9.1f}{row.cpu_ms:>9.1f}{ratio:>7.2f}×  {row.note}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
