"""One crop in, one GLB out: the draft from decoding to bytes.

A draft is a blockout: the outline of one photo given a body, with the photo on its front. It costs nothing,
needs no network and always comes out closed, textured and to scale, so a whole line can be tried with it
before anything is paid for. It is not a generated model, and it says so inside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.generation.draft import colour, shape, silhouette
from trellis_pipeline.generation.draft.model import DraftModel, DraftOptions
from trellis_pipeline.mesh.types import Float32, Material, Mesh, TexturedMesh, UInt8

USEFUL_TRIANGLES = 12_000  # beyond this a blockout shows no more
LEAST_TRIANGLES = 64
LEAST_TEXTURE_PX = 64
MOST_TEXTURE_PX = 2048
ATLAS_FILL = 0.6  # share of a square atlas that the unwrapper usually covers
PADDING_SHARE = 256  # the texture's side over the gap between charts
JPEG_QUALITY = 88


def build_draft(crop_png: bytes, options: DraftOptions, extras: Mapping[str, object]) -> DraftModel:
    """Build a blockout from a square RGBA PNG whose object touches the sides on its longer axis.

    extras: JSON data for `asset.extras`; an entry `draft` is added that says what the file is. The front
    faces +Z, Y is up, the origin is the bottom centre, units are metres. Scale: height_m if given, else
    width_m, else depth_m; depth_m beside another one replaces the guessed depth; with none the longest side
    is 1 m. Same arguments, same bytes.

    Raises GenerationError when the crop cannot be read or holds no solid object, and MeshError when the
    limits or dimensions are impossible.
    """
    from trellis_pipeline.mesh.encode import encode_jpeg
    from trellis_pipeline.mesh.glb_write import write_glb

    _check(options)
    rng = np.random.default_rng([options.seed & 0xFFFF_FFFF, options.seed >> 32 & 0xFFFF_FFFF])
    rgba = silhouette.decode_crop(crop_png)
    prior, mesh = _solid(silhouette.object_alpha(rgba[..., 3]), options, rng)
    palette = colour.gather(rgba, lathe=prior.method == "lathe", rng=rng)
    texture_px = _texture_px(mesh, crop_px=rgba.shape[0], limit=options.texture_px)
    placed, scale = _to_metres(mesh, options)
    textured, image = _texture(mesh, placed, palette, texture_px, seed=int(rng.integers(1 << 16)))
    depth_ratio = float(scale[2] / max(scale[0], scale[1]))
    label = {
        "what": "blockout: the outline of one photo given a body; not a generated model",
        "method": prior.method,
        "seed": options.seed,
        "depth": "given" if options.depth_m is not None else "guessed",
        "unseen_sides": "invented from the colours of the front",
    }
    material = Material(
        name="draft",
        base_color=encode_jpeg(image, quality=JPEG_QUALITY),
        metallic=0.0,
        roughness=shape.ROUGHNESS,
    )
    glb = write_glb(
        TexturedMesh(textured.positions, textured.normals, textured.uvs, textured.triangles, material),
        name="draft",
        extras={**extras, "draft": label},
    )
    return DraftModel(
        glb=glb,
        triangles=len(textured.triangles),
        vertices=len(textured.positions),
        texture_px=texture_px,
        method=prior.method,
        depth_ratio=depth_ratio,
    )


def _check(options: DraftOptions) -> None:
    if options.max_triangles < LEAST_TRIANGLES:
        raise MeshError(
            f"a draft needs at least {LEAST_TRIANGLES} triangles; the limit is {options.max_triangles}"
        )
    if options.texture_px < LEAST_TEXTURE_PX:
        raise MeshError(
            f"a draft needs a texture of {LEAST_TEXTURE_PX} px; the limit is {options.texture_px}"
        )
    for name in ("width_m", "height_m", "depth_m"):
        value = getattr(options, name)
        if value is not None and not 1e-4 <= value <= 1e4:
            raise MeshError(f"{name} is {value}; a product is between 0.0001 and 10000 m")


def _solid(alpha: UInt8, options: DraftOptions, rng: np.random.Generator) -> tuple[shape.Prior, Mesh]:
    """The simplified surface in units of the crop's side, centred on nothing in particular."""
    from trellis_pipeline.mesh.clean import is_closed_manifold, weld
    from trellis_pipeline.mesh.simplify import simplify

    prior: shape.Prior | None = None
    target = min(options.max_triangles, USEFUL_TRIANGLES)
    cells = silhouette.usual_cells(alpha)
    # Tried in turn until the shape fits the triangle limit; at last one piece without holes.
    for grid, simple in ((cells, False), (min(96, cells), False), (min(96, cells), True), (32, True)):
        outline = silhouette.trace(alpha, grid, simple=simple)
        if prior is None:
            prior = shape.guess(outline, rng, _known_depth(outline, options))
        try:
            solid = simplify(shape.build_solid(outline, prior), target)
        except MeshError:
            continue  # too many pieces and holes for so few triangles: try a plainer outline
        mesh = weld(shape.fit_box(solid, outline, alpha))
        if is_closed_manifold(mesh.triangles):
            return prior, mesh
    raise MeshError(f"the outline does not fit into {options.max_triangles} triangles; raise the limit")


def _known_depth(outline: silhouette.Silhouette, options: DraftOptions) -> float | None:
    """depth_m in units of the crop's side, if another dimension gives the scale."""
    if options.depth_m is None:
        return None
    if options.height_m is not None:
        return options.depth_m / options.height_m * float(outline.inside.any(axis=1).sum()) / outline.cells
    if options.width_m is not None:
        return options.depth_m / options.width_m * float(outline.inside.any(axis=0).sum()) / outline.cells
    return None


def _to_metres(mesh: Mesh, options: DraftOptions) -> tuple[Mesh, Float32]:
    """The mesh in metres with its origin at the bottom centre, and its (width, height, depth)."""
    low, high = mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)
    extent = high - low
    if options.height_m is not None:
        scale = np.full(3, options.height_m / extent[1])
    elif options.width_m is not None:
        scale = np.full(3, options.width_m / extent[0])
    elif options.depth_m is not None:
        scale = np.full(3, options.depth_m / extent[2])
    else:
        scale = np.full(3, 1.0 / extent.max())
    if options.depth_m is not None:
        scale[2] = options.depth_m / extent[2]
    origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    vertices = ((mesh.vertices - origin) * scale).astype(np.float32)
    return Mesh(vertices, mesh.triangles), (extent * scale).astype(np.float32)


def _texture_px(mesh: Mesh, *, crop_px: int, limit: int) -> int:
    """The power of two within the limit at which a texel is about as large as a pixel of the photo."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]].astype(np.float64) for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    wanted = crop_px * np.sqrt(area / ATLAS_FILL)
    side = LEAST_TEXTURE_PX
    while 2 * side <= min(limit, MOST_TEXTURE_PX) and side < 0.75 * wanted:
        side *= 2
    return side


@dataclass(frozen=True, slots=True)
class _Textured:
    positions: Float32
    normals: Float32
    uvs: Float32
    triangles: shape.Int32


def _texture(
    mesh: Mesh, placed: Mesh, palette: colour.Palette, px: int, *, seed: int
) -> tuple[_Textured, UInt8]:
    """Unwrap the mesh and paint its atlas. `mesh` is in units of the crop, `placed` the same in metres."""
    from trellis_pipeline.mesh.atlas import fill_gutter, rasterize_atlas, texel_values
    from trellis_pipeline.mesh.normals import vertex_normals
    from trellis_pipeline.mesh.unwrap import unwrap

    layout = unwrap(placed, texture_px=px, padding_px=max(2, px // PADDING_SHARE))
    # Painting follows the shape as guessed, whatever depth it was stretched to afterwards.
    facing = vertex_normals(mesh)[layout.source_vertex]
    points = mesh.vertices[layout.source_vertex]
    raster = rasterize_atlas(layout.uvs, layout.triangles, px)
    flat, values = texel_values(raster, layout.triangles, np.hstack([points, facing]).astype(np.float32))
    length = np.sqrt(np.einsum("ij,ij->i", values[:, 3:], values[:, 3:]))
    image = np.zeros((px, px, 3), np.uint8)
    image.reshape(-1, 3)[flat] = colour.paint(
        values[:, :3], values[:, 5] / np.maximum(length, 1e-6), palette, seed=seed
    )
    filled = np.asarray(fill_gutter(image, raster.covered), dtype=np.uint8)
    normals = vertex_normals(placed)[layout.source_vertex]
    return _Textured(layout.positions, normals, layout.uvs, layout.triangles), filled
