"""Real GLBs turned into what a decoder would give for them: a dual-grid surface and voxels of material.

Every grid edge that a triangle crosses is a crossed edge, inner parts and overlapping parts included; the
result is as untidy as the model.
"""

from __future__ import annotations

import io
from pathlib import Path

import numba
import numpy as np
from PIL import Image
from voxel_shapes import AROUND, Voxelised

from trellis_pipeline.mesh.glb_container import GlbContainer, parse_glb
from trellis_pipeline.mesh.glb_read import image_bytes, read_primitives
from trellis_pipeline.mesh.postprocess.closest import closest_points
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes
from trellis_pipeline.mesh.texels import linear_to_srgb, srgb_to_linear
from trellis_pipeline.mesh.types import Mesh


def voxelise_glb(path: Path, resolution: int) -> Voxelised:
    """The model, fitted into the decoder's space with z up, on a grid of `resolution` cells."""
    container = parse_glb(path.read_bytes())
    primitives = read_primitives(container)
    sizes = np.cumsum([0, *(len(p.positions) for p in primitives)])
    points = np.concatenate([p.positions for p in primitives]).astype(np.float64)
    points = points[:, [0, 2, 1]] * [1, -1, 1]
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (0.9 / (high - low).max())
    triangles = np.concatenate([p.triangles + at for p, at in zip(primitives, sizes, strict=False)])
    mesh = Mesh(points.astype(np.float32), triangles.astype(np.int32))
    corners = (mesh.vertices.astype(np.float64)[mesh.triangles] + 0.5) * resolution
    edges, places = _crossings(corners + 1.234e-7)
    cells, surface = _dual_grid(edges, places, resolution)
    middles = ((cells + 0.5) / resolution - 0.5).astype(np.float32)
    found = closest_points(surface_tree(mesh), middles)
    owner = np.repeat(np.arange(len(primitives)), [len(p.triangles) for p in primitives])[found.triangle]
    values = np.empty((len(cells), 6), np.float32)
    for index, primitive in enumerate(primitives):
        mine = owner == index
        uvs = primitive.uvs if primitive.uvs is not None else np.zeros((len(primitive.positions), 2))
        corner = np.asarray(uvs)[mesh.triangles[found.triangle[mine]] - sizes[index]]
        uv = np.einsum("nk,nkx->nx", found.barycentrics[mine], corner)
        values[mine] = _material(container, primitive.material, uv)
    return Voxelised(surface, VoxelAttributes(cells.astype(np.int32), values, 1 / resolution))


def _material(container: GlbContainer, index: int | None, uv: np.ndarray) -> np.ndarray:
    """The six values at `uv` of one glTF material."""
    material = {} if index is None else container.document["materials"][index]
    pbr = material.get("pbrMetallicRoughness", {})
    factor = np.asarray(pbr.get("baseColorFactor", (1, 1, 1, 1)), float)
    rgba, surface = np.ones((2, len(uv), 4))
    if "baseColorTexture" in pbr:
        rgba = _texel(container, pbr["baseColorTexture"]["index"], uv)
    if "metallicRoughnessTexture" in pbr:
        surface = _texel(container, pbr["metallicRoughnessTexture"]["index"], uv)
    values = np.empty((len(uv), 6))
    values[:, :3] = linear_to_srgb(srgb_to_linear(rgba[:, :3]) * factor[:3])
    values[:, 3] = surface[:, 2] * pbr.get("metallicFactor", 1.0)
    values[:, 4] = surface[:, 1] * pbr.get("roughnessFactor", 1.0)
    values[:, 5] = rgba[:, 3] * factor[3] if material.get("alphaMode", "OPAQUE") != "OPAQUE" else 1.0
    return values


def _texel(container: GlbContainer, texture: int, uv: np.ndarray) -> np.ndarray:
    """RGBA in 0..1, the nearest texel of a copy at a quarter of the size: a mean of its surroundings."""
    data, _ = image_bytes(container, texture)
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image = image.resize((max(1, image.width // 4), max(1, image.height // 4)), Image.Resampling.BOX)
    pixels = np.asarray(image) / 255
    column = np.floor(np.mod(uv[:, 0], 1) * image.width).astype(int).clip(0, image.width - 1)
    row = np.floor(np.mod(uv[:, 1], 1) * image.height).astype(int).clip(0, image.height - 1)
    return pixels[row, column]


def _dual_grid(edges: np.ndarray, places: np.ndarray, resolution: int) -> tuple[np.ndarray, Mesh]:
    """Cells (N, 3) and their surface. edges: (E, 4) axis and lowest corner; places: (E,) where along it."""
    around, faces, sums = [], [], []
    for axis, steps in AROUND.items():
        mine = edges[:, 0] == axis
        corner, place = edges[mine, 1:], places[mine]
        owner = corner - 1
        owner[:, axis] = corner[:, axis]
        around.append((owner[:, None] + np.array(steps)).reshape(-1, 3))
        point = corner.astype(float)
        point[:, axis] = place
        sums.append(np.repeat(point, 4, axis=0))
        once = np.unique(owner, axis=0)
        faces.append((once[:, None] + np.array(steps)).reshape(-1, 3))
    cells, index = np.unique(np.concatenate(around), axis=0, return_inverse=True)
    total = np.stack([np.bincount(index, weights=np.concatenate(sums)[:, k]) for k in range(3)], axis=1)
    vertices = total / np.bincount(index)[:, None] / resolution - 0.5
    word = lambda c: (c[:, 0].astype(np.int64) * 8192 + c[:, 1]) * 8192 + c[:, 2]  # noqa: E731
    quads = np.searchsorted(word(cells), word(np.concatenate(faces))).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return cells, Mesh(vertices.astype(np.float32), triangles.astype(np.int32))


@numba.njit(cache=True)
def _crossings(corners):
    """Grid edges (E, 4) that triangles (T, 3, 3), in cells, cross: axis and corner; and where along it."""
    edges, places = [], []
    for t in range(len(corners)):
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            a, b, c = corners[t, 0], corners[t, 1], corners[t, 2]
            area = (b[u] - a[u]) * (c[v] - a[v]) - (b[v] - a[v]) * (c[u] - a[u])
            if abs(area) < 1e-12:
                continue
            for i in range(int(np.ceil(min(a[u], b[u], c[u]))), int(np.floor(max(a[u], b[u], c[u]))) + 1):
                for j in range(int(np.ceil(min(a[v], b[v], c[v]))), int(np.floor(max(a[v], b[v], c[v]))) + 1):
                    wb = ((i - a[u]) * (c[v] - a[v]) - (j - a[v]) * (c[u] - a[u])) / area
                    wc = ((b[u] - a[u]) * (j - a[v]) - (b[v] - a[v]) * (i - a[u])) / area
                    if wb < 0 or wc < 0 or wb + wc > 1:
                        continue
                    place = a[axis] + wb * (b[axis] - a[axis]) + wc * (c[axis] - a[axis])
                    edge = np.zeros(4, np.int64)
                    edge[0] = axis
                    edge[1 + axis] = int(np.floor(place))
                    edge[1 + u] = i
                    edge[1 + v] = j
                    edges.append(edge)
                    places.append(place)
    flat = np.empty((len(edges), 4), np.int64)
    for n in range(len(edges)):
        flat[n] = edges[n]
    return flat, np.array(places)
