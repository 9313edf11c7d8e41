"""A UV layout that works for any triangles: charts seen along an axis, packed on shelves.

It is what stands behind the real unwrapper, so it must not fail. Neighbouring triangles that face the same
way along the same axis make a chart, which is projected along that axis. Where a chart folds over itself it
is sliced by depth, thinner each round; in the end a triangle is its own chart, and that cannot overlap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.types import Float32, Mesh

ROUNDS = 6  # of slicing by depth: up to 64 slices, then single triangles
CHECK_PX = 1024


def box_layout(mesh: Mesh, texture_px: int, padding_px: int) -> tuple[Float32, npt.NDArray[np.int64]]:
    """UVs (T, 3, 2) float32 in 0..1 for every corner, and the chart (T,) of every triangle.

    All charts have the same scale. Charts keep `padding_px` texels between them and to the border; on a
    texture with too little room for that the padding is halved until the charts fit.

    Raises MeshError if the charts do not fit even without padding.
    """
    corners = mesh.vertices.astype(np.float64)[mesh.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.abs(normal).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(normal, axis[:, None], axis=1)[:, 0] < 0)
    flat = np.stack([corners[np.arange(len(axis)), :, (axis + step) % 3] for step in (1, 2)], axis=2)
    depth = np.take_along_axis(corners.mean(axis=1), axis[:, None], axis=1)[:, 0]
    depth = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-30)
    slices = np.zeros(len(axis), dtype=np.int64)  # per triangle, log2 of how finely its depth is cut
    for cut in range(ROUNDS + 1):
        layer = np.minimum((depth * 2.0**slices).astype(np.int64), 2**slices - 1)
        chart = _connected(mesh, side * 1_000_000 + slices * 1_000 + layer)
        single = slices > ROUNDS
        chart[single] = chart.max() + 1 + np.arange(int(single.sum()))
        _, chart = np.unique(chart, return_inverse=True)
        uvs = _pack(flat, chart, texture_px, padding_px)
        triangles = np.arange(3 * len(axis), dtype=np.int32).reshape(-1, 3)
        raster = rasterize_atlas(uvs.reshape(-1, 2), triangles, min(texture_px, CHECK_PX))
        if raster.overlap_texels == 0:
            break
        folded = np.isin(chart, chart[raster.overlapping])
        slices[folded] = slices[folded] + 1 if cut < ROUNDS - 1 else ROUNDS + 1
    return uvs, chart


def _connected(mesh: Mesh, label: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(T,) component numbers: triangles that share an edge and a label belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.triangles)
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1).astype(np.int64)
    key = edges[:, 0] * len(mesh.vertices) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    triangle = order // 3
    same = (key[order[1:]] == key[order[:-1]]) & (label[triangle[1:]] == label[triangle[:-1]])
    links = (np.ones(int(same.sum()), np.int8), (triangle[:-1][same], triangle[1:][same]))
    _, component = connected_components(coo_array(links, shape=(count, count)), directed=False)
    return np.asarray(component, dtype=np.int64)


def _pack(
    flat: npt.NDArray[np.float64], chart: npt.NDArray[np.int64], texture_px: int, padding_px: int
) -> Float32:
    """Charts onto shelves, tallest first, at the largest common scale that fits (found by bisection)."""
    count = int(chart.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, chart, flat.min(axis=1))
    np.maximum.at(high, chart, flat.max(axis=1))
    size = high - low
    order = np.argsort(-size[:, 1], kind="stable")
    padding = padding_px
    while True:
        origin, scale = None, 0.0
        too_big = (texture_px - padding) / max(float(size.max()), 1e-30)
        for _ in range(24):
            middle = (scale + too_big) / 2
            tried = _shelves(size[order] * middle, texture_px, padding)
            if tried is None:
                too_big = middle
            else:
                origin, scale = tried, middle
        if origin is not None and (scale > 0 or padding == 0):
            break
        if padding == 0:
            raise MeshError(f"{count} charts do not fit a texture of {texture_px} px; use a larger one")
        padding //= 2
    place = np.empty((count, 2))
    place[order] = origin
    uvs = ((flat - low[chart][:, None]) * scale + place[chart][:, None]) / texture_px
    return np.asarray(np.clip(uvs, 0, 1), dtype=np.float32)


def _shelves(size: npt.NDArray[np.float64], texture_px: int, padding: int) -> npt.NDArray[np.float64] | None:
    """Top left corners for boxes of `size` texels given in falling height, or None if they do not fit."""
    cell = np.ceil(size) + 1 + padding
    corner = np.empty_like(size)
    x = y = float(padding)
    shelf = cell[0, 1]
    for index, (width, height) in enumerate(cell.tolist()):
        if x + width > texture_px:
            x, y, shelf = float(padding), y + shelf, height
        if x + width > texture_px or y + height > texture_px:
            return None
        corner[index] = x, y
        x += width
    return corner + 0.5
