"""The whole way from a decoded surface and its voxels to a textured model.

    repair -> (remesh) -> simplify -> unwrap -> find each texel's source -> bake -> encode

The repaired surface, not the one that was simplified or remeshed, is what colours and normals are taken
from. The decoder's space has z up; glTF has y up, so the last step turns the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import rasterize_atlas, texel_values
from trellis_pipeline.mesh.clean import check_mesh, is_closed_manifold
from trellis_pipeline.mesh.normals import vertex_normals
from trellis_pipeline.mesh.postprocess.bake import (
    BakedAtlas,
    alpha_mode,
    bake,
    closest_to_texels,
    encode,
)
from trellis_pipeline.mesh.postprocess.creases import part_at_creases
from trellis_pipeline.mesh.postprocess.narrow_band import (
    project_without_folds,
    remesh_narrow_band,
)
from trellis_pipeline.mesh.postprocess.normal_map import bake_normals
from trellis_pipeline.mesh.postprocess.options import Postprocessed, PostprocessOptions, PostprocessReport
from trellis_pipeline.mesh.postprocess.repair import (
    drop_crumbs,
    drop_inner_shells,
    fill_small_holes,
    make_manifold,
    part_touching,
)
from trellis_pipeline.mesh.postprocess.surface_tree import SurfaceTree, surface_tree
from trellis_pipeline.mesh.postprocess.visibility import face_outwards, openness
from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes, check_voxels
from trellis_pipeline.mesh.simplify import simplify_towards
from trellis_pipeline.mesh.transform import place_on_floor, scale_to_dimensions
from trellis_pipeline.mesh.types import EncodedImage, Float32, Material, Mesh, TexturedMesh
from trellis_pipeline.mesh.unwrap import UnwrappedMesh, unwrap
from trellis_pipeline.mesh.vertex_clustering import cluster_vertices

PADDING_SHARE = 512  # the texture's side over the gap between charts; twice that costs half of the texels
MIN_PADDING_PX = 2
FAST_ROUNDS = 6
PARTED = 1e-3  # voxels between surfaces that would touch

Progress = Callable[[str], None]


def postprocess(
    surface: Mesh,
    voxels: VoxelAttributes,
    options: PostprocessOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Postprocessed:
    """A model a shop can show out of what the decoders made.

    surface: vertices and triangles in the decoder's space, z up, any winding, may be torn, non-manifold and
    have loose vertices. voxels: the material in the same space. progress: called with each step's name
    before it begins; whatever it raises ends the work.

    Deterministic for given inputs and options, unless unwrapping runs out of time. Raises MeshError for
    surfaces and voxels that are empty, malformed or not finite, and for shapes that cannot be brought below
    max_triangles.
    """
    options = options or PostprocessOptions()
    clock = _Clock(progress)
    with clock.step("repair"):
        check_mesh(surface)
        check_voxels(voxels)
        opaque = alpha_mode(voxels.values[:, 5]) == "OPAQUE"
        drop_inner = options.drop_inner and opaque and not options.original_remesh
        source = repair(surface, options, drop_hidden=drop_inner)
    with clock.step("index"):
        tree = surface_tree(source)
    skin = source
    if options.remesh:
        with clock.step("remesh"):
            skin = remesh(source, tree, voxels.voxel_size, options, drop_inner=drop_inner)
    with clock.step("simplify"):
        model = part_touching(within_budget(skin, options.max_triangles), PARTED * voxels.voxel_size)
        closed = is_closed_manifold(model.triangles)
    with clock.step("unwrap"):
        layout = unwrap(
            model,
            texture_px=options.texture_px,
            padding_px=max(MIN_PADDING_PX, options.texture_px // PADDING_SHARE),
            timeout_seconds=options.unwrap_timeout_seconds,
        )
    with clock.step("rasterise"):
        raster = rasterize_atlas(layout.uvs, layout.triangles, options.texture_px)
    with clock.step("normals"):
        layout, normals = part_at_creases(model, layout)
    with clock.step("closest points"):
        flat, closest = closest_to_texels(raster, layout, tree, threads=options.threads)
    light = None
    if options.occlusion_rays:
        with clock.step("occlusion"):
            smooth = vertex_normals(model)
            reached = openness(model, smooth, options.occlusion_rays, threads=options.threads)
            light = texel_values(raster, layout.triangles, reached[layout.source_vertex, None])[1][:, 0]
    with clock.step("bake"):
        atlas = bake(raster, flat, closest.points, voxels, open_texels=light, threads=options.threads)
        bumps = bake_normals(raster, layout, normals, source, closest) if options.normal_map else None
    with clock.step("encode"):
        material = _material(
            atlas,
            encode(bumps, options.image_format, quality=options.image_quality) if bumps is not None else None,
            options,
            double_sided=not closed or atlas.alpha_mode == "MASK",
        )
        mesh = _in_gltf_space(layout, normals, material, options)
    report = PostprocessReport(
        source_triangles=len(surface.triangles),
        surface_triangles=len(skin.triangles),
        triangles=len(mesh.triangles),
        vertices=len(mesh.positions),
        closed=closed,
        remeshed=options.remesh,
        alpha_mode=atlas.alpha_mode,
        unwrap=layout.method,
        overlap_texels=raster.overlap_texels,
        atlas_coverage=float(raster.covered.mean()),
        seconds=clock.seconds,
    )
    return Postprocessed(mesh, report)


def repair(surface: Mesh, options: PostprocessOptions, *, drop_hidden: bool) -> Mesh:
    """Manifold, wound outwards, without pinholes, specks and, with `drop_hidden`, walls nobody sees."""
    mesh = make_manifold(surface)
    mesh = drop_crumbs(mesh, options.min_part_area)
    mesh = fill_small_holes(mesh, options.max_hole_perimeter)
    return face_outwards(mesh, drop_hidden=drop_hidden, threads=options.threads)


def remesh(
    source: Mesh, tree: SurfaceTree, voxel_size: float, options: PostprocessOptions, *, drop_inner: bool
) -> Mesh:
    """A closed skin around `source`, on a grid of the voxels' size around its bounding box."""
    band = 1.0 if options.original_remesh else options.remesh_band_cells
    low, high = source.vertices.min(axis=0).astype(np.float64), source.vertices.max(axis=0).astype(np.float64)
    resolution = _halvable(int(np.ceil((high - low).max() / voxel_size + 2 * band + 2)))
    middle = (low + high) / 2
    skin = remesh_narrow_band(
        tree,
        center=(float(middle[0]), float(middle[1]), float(middle[2])),
        scale=resolution * voxel_size,
        resolution=resolution,
        band_cells=band,
        threads=options.threads,
    )
    skin = make_manifold(skin, wound_alike=True)
    if options.original_remesh:
        return skin
    if drop_inner:
        skin = drop_inner_shells(skin)
    return project_without_folds(skin, tree, options.remesh_project, threads=options.threads)


def within_budget(mesh: Mesh, max_triangles: int) -> Mesh:
    """At most `max_triangles`: topology kept where that is possible, at any price where it is not.

    Raises MeshError if even the coarse way has nothing left.
    """
    simple = simplify_towards(mesh, max_triangles)
    if len(simple.triangles) <= max_triangles:
        return simple
    asked = max_triangles
    for _ in range(FAST_ROUNDS):
        coarse = make_manifold(cluster_vertices(simple, asked), wound_alike=True)
        if len(coarse.triangles) <= max_triangles:
            return coarse
        # Telling sheets apart that were merged costs triangles; ask for that many fewer.
        asked = max(4, asked - 2 * (len(coarse.triangles) - max_triangles))
    raise MeshError(f"the shape cannot be brought under {max_triangles} triangles; raise the triangle limit")


def _halvable(cells: int) -> int:
    """The smallest number from `cells` on that is at most 32 times a power of two."""
    power = 1
    while cells > 32 * power:
        power *= 2
    return -(-cells // power) * power


def _material(
    atlas: BakedAtlas, normal: EncodedImage | None, options: PostprocessOptions, *, double_sided: bool
) -> Material:
    return Material(
        base_color=encode(atlas.base_color, options.image_format, quality=options.image_quality),
        metallic_roughness=encode(
            atlas.metallic_roughness, options.image_format, quality=options.image_quality
        ),
        normal=normal,
        occlusion_in_red=options.occlusion_rays > 0,
        metallic=1.0,
        roughness=1.0,
        alpha_mode=atlas.alpha_mode,
        double_sided=double_sided,
    )


def _in_gltf_space(
    layout: UnwrappedMesh, normals: Float32, material: Material, options: PostprocessOptions
) -> TexturedMesh:
    positions = scale_to_dimensions(
        y_up(layout.positions),
        height_m=options.height_m,
        width_m=options.width_m,
        depth_m=options.depth_m,
    )
    if options.on_floor:
        positions = place_on_floor(positions)
    return TexturedMesh(positions, y_up(normals), layout.uvs, layout.triangles, material)


def y_up(rows: Float32) -> Float32:
    """(N, 3) points or directions from z up to glTF's y up: (x, y, z) becomes (x, z, -y)."""
    return np.ascontiguousarray(np.stack([rows[:, 0], rows[:, 2], -rows[:, 1]], axis=1), dtype=np.float32)


class _Clock:
    """Times the steps and announces them."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
