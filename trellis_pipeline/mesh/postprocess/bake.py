"""Voxel material to textures: what each texel of the atlas is made of.

A texel lies on the simplified surface, which is a little off. The material is read where the texel's nearest
point on the original surface is, so that colours do not slide or fade where triangles cut a corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.atlas import AtlasRaster, fill_gutter, texel_positions
from trellis_pipeline.mesh.encode import encode_jpeg, encode_png, encode_webp
from trellis_pipeline.mesh.postprocess.closest import ClosestPoints, closest_points
from trellis_pipeline.mesh.postprocess.surface_tree import SurfaceTree
from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes, sample_voxels
from trellis_pipeline.mesh.types import EncodedImage, Float32, UInt8
from trellis_pipeline.mesh.unwrap import UnwrappedMesh

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
ImageFormat = Literal["jpeg", "png", "webp"]

# Of the surface: less than this may be see-through by a decoder's noise at rims, and drawing those texels
# transparent would make them sparkle.
SEE_THROUGH_SHARE = 0.01
CLEAR, SOLID = 0.1, 0.9  # alpha below and above which a texel counts as not there and as opaque
BLEND_SHARE = 0.3  # of the see-through texels that are in between; cut-outs only have some at their edges


@dataclass(frozen=True, slots=True)
class BakedAtlas:
    """Pixels (px, px, C) uint8, the gutter filled. base_color: sRGB, and alpha unless the mode is OPAQUE.

    metallic_roughness: R = occlusion (255 is none), G = roughness, B = metallic, linear.
    """

    base_color: UInt8
    metallic_roughness: UInt8
    alpha_mode: AlphaMode


def alpha_mode(alpha: Float32) -> AlphaMode:
    """How a surface with these alphas (N,) in 0..1, equally spaced over it, should be drawn.

    OPAQUE if less than 1 % of it is see-through, else MASK if what is see-through is mostly a clear cut-out,
    else BLEND.
    """
    if len(alpha) == 0:
        return "OPAQUE"
    through = np.count_nonzero(alpha < SOLID)
    if through < SEE_THROUGH_SHARE * len(alpha):
        return "OPAQUE"
    between = through - np.count_nonzero(alpha < CLEAR)
    return "MASK" if between < BLEND_SHARE * through else "BLEND"


def closest_to_texels(
    raster: AtlasRaster, layout: UnwrappedMesh, tree: SurfaceTree, *, threads: int = 1
) -> tuple[npt.NDArray[np.int64], ClosestPoints]:
    """Flat indices (N,) of the covered texels and the closest points of the original surface."""
    flat, places = texel_positions(raster, layout.triangles, layout.positions)
    return flat, closest_points(tree, places, threads=threads)


def bake(
    raster: AtlasRaster,
    flat: npt.NDArray[np.int64],
    points: Float32,
    voxels: VoxelAttributes,
    *,
    open_texels: Float32 | None = None,
    threads: int = 1,
) -> BakedAtlas:
    """Textures of a layout.

    flat, points: the covered texels and their places on the original surface. open_texels: (N,) how much
    light reaches them, 0..1; None is all.
    """
    values, known = sample_voxels(voxels, points, threads=threads)
    mode = alpha_mode(values[known, 5])
    texels = np.rint(values * np.float32(255)).astype(np.uint8)
    px = raster.triangle_id.shape[0]
    image = np.full((px * px, 7), 255, np.uint8)
    image[flat, :6] = texels
    if open_texels is not None:
        image[flat, 6] = np.rint(open_texels * 255)
    covered = raster.covered.copy()
    covered.reshape(-1)[flat[~known]] = False  # black and clear they would be seen; their neighbours' will do
    filled = np.asarray(fill_gutter(image.reshape(px, px, 7), covered), np.uint8)
    base = filled[..., :3] if mode == "OPAQUE" else filled[..., [0, 1, 2, 5]]
    surface = filled[..., [6, 4, 3]]
    return BakedAtlas(np.ascontiguousarray(base), np.ascontiguousarray(surface), mode)


def encode(pixels: UInt8, image_format: ImageFormat, *, quality: int = 92) -> EncodedImage:
    """One texture to bytes. JPEG has no alpha: pixels with four channels are then written as PNG."""
    if image_format == "webp":
        return encode_webp(pixels, quality=quality)
    if image_format == "png" or pixels.shape[2] == 4:
        return encode_png(pixels, compression=4)
    return encode_jpeg(pixels, quality=quality)
