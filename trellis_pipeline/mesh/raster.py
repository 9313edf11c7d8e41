"""Which triangle is seen at which sample: a z-buffer in two small kernels, with no graphics library.

The same answer feeds the preview, the silhouette check and the shadow maps, on any machine and bit for bit
the same. Triangles are filled with homogeneous edge functions (Olano & Greer, "Triangle Scan Conversion using
2D Homogeneous Coordinates", 1997): perspective-correct barycentrics fall out of them, and a triangle that
crosses the near plane needs no clipping, because each sample is tested against the clip volume itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.camera import Camera, Float64
from trellis_pipeline.mesh.types import Float32, Int32
from trellis_pipeline.mesh.vectors import inner

FAR = np.float32(2.0)
"""Depth of a sample that nothing covers; the clip volume ends at 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """What is nearest at each sample of a (height, width) picture, row 0 at the top.

    triangle: (H, W) int32, the row of the triangle seen, -1 where there is none.
    barycentric: (H, W, 3) float32, perspective-correct weights of its three corners, 0 where there is none.
    depth: (H, W) float32, clip-space z / w from -1 (near) to 1 (far), `FAR` where there is none.
    """

    triangle: Int32
    barycentric: Float32
    depth: Float32


def rasterise(
    vertices: npt.ArrayLike, triangles: npt.ArrayLike, camera: Camera, *, width: int, height: int
) -> Raster:
    """Find the nearest triangle at the centre of every pixel. Both sides of a triangle count.

    vertices: (V, 3) metres. triangles: (T, 3) integers below V. Triangles without area and triangles with a
    corner that is not a finite number are passed over.

    Raises MeshError if a triangle points outside of `vertices` or the picture has no pixel.
    """
    if width < 1 or height < 1:
        raise MeshError(f"a picture of {width} x {height} px has no pixels")
    points = to_screen(camera.project(vertices), width, height)
    faces = checked_triangles(triangles, len(points))
    depth, seen = nearest(points, faces, width, height)
    weights = np.zeros((height, width, 3), np.float32)
    _weigh(points, faces, seen, weights)
    return Raster(triangle=seen, barycentric=weights, depth=depth)


def silhouette(
    vertices: npt.ArrayLike, triangles: npt.ArrayLike, camera: Camera, *, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """(H, W) bool: the pixels whose centre is covered by the mesh. Raises MeshError like `rasterise`."""
    if width < 1 or height < 1:
        raise MeshError(f"a picture of {width} x {height} px has no pixels")
    points = to_screen(camera.project(vertices), width, height)
    _, seen = nearest(points, checked_triangles(triangles, len(points)), width, height)
    return np.asarray(seen >= 0)


def to_screen(clip: Float64, width: int, height: int) -> Float64:
    """(N, 4) clip coordinates to (N, 4) homogeneous pixels: x / w from the left, y / w from the top, z, w."""
    screen = np.empty_like(clip)
    screen[:, 0] = (clip[:, 0] + clip[:, 3]) * (0.5 * width)
    screen[:, 1] = (clip[:, 3] - clip[:, 1]) * (0.5 * height)
    screen[:, 2:] = clip[:, 2:]
    return screen


def checked_triangles(triangles: npt.ArrayLike, vertex_count: int) -> Int32:
    """(T, 3) contiguous int32 whose corners all exist. Raises MeshError otherwise."""
    faces = np.ascontiguousarray(np.asarray(triangles).reshape(-1, 3), dtype=np.int32)
    if faces.size and (int(faces.min()) < 0 or int(faces.max()) >= vertex_count):
        raise MeshError(f"a triangle points outside of the mesh's {vertex_count} vertices")
    return faces


def nearest(
    points: Float64,
    faces: Int32,
    width: int,
    height: int,
    *,
    in_front_of: Float32 | None = None,
    behind: Float32 | None = None,
) -> tuple[Float32, Int32]:
    """Depth (H, W) float32 and triangle (H, W) int32 of what is nearest at each sample.

    points: (V, 4) homogeneous pixels from `to_screen`. With `in_front_of` and `behind` (both (H, W) float32)
    only what lies strictly between the two is seen: that is how transparent layers are peeled one by one.
    """
    depth = np.full((height, width), FAR, np.float32) if in_front_of is None else in_front_of.copy()
    seen = np.full((height, width), -1, np.int32)
    floor = np.empty((0, 0), np.float32) if behind is None else behind
    _fill(np.ascontiguousarray(points, dtype=np.float64), faces, floor, depth, seen)
    return depth, seen


@inner
def edges(points: Float64, i: int, j: int, k: int) -> tuple[float, ...]:
    """The three edge functions of a triangle in pixels, each a·x + b·y + c, and their determinant.

    At pixel (x, y) they are proportional to barycentric / w. They are signed so that all are positive inside;
    a determinant of 0 means that the triangle has no area. Neighbours get exactly opposite numbers for the
    edge they share, so no sample falls between them.
    """
    x0, y0, w0 = points[i, 0], points[i, 1], points[i, 3]
    x1, y1, w1 = points[j, 0], points[j, 1], points[j, 3]
    x2, y2, w2 = points[k, 0], points[k, 1], points[k, 3]
    a0, b0, c0 = y1 * w2 - y2 * w1, w1 * x2 - w2 * x1, x1 * y2 - x2 * y1
    a1, b1, c1 = y2 * w0 - y0 * w2, w2 * x0 - w0 * x2, x2 * y0 - x0 * y2
    a2, b2, c2 = y0 * w1 - y1 * w0, w0 * x1 - w1 * x0, x0 * y1 - x1 * y0
    determinant = a0 * x0 + b0 * y0 + c0 * w0
    if determinant < 0.0:
        return -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2, -determinant
    return a0, b0, c0, a1, b1, c1, a2, b2, c2, determinant


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill(points: Float64, faces: Int32, behind: Float32, depth: Float32, seen: Int32) -> None:
    height, width = depth.shape
    peel = behind.shape[0] == height
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        w0, w1, w2 = points[i, 3], points[j, 3], points[k, 3]
        left, right, top, bottom = 0.0, float(width), 0.0, float(height)
        if w0 > 0.0 and w1 > 0.0 and w2 > 0.0:
            x0, x1, x2 = points[i, 0] / w0, points[j, 0] / w1, points[k, 0] / w2
            y0, y1, y2 = points[i, 1] / w0, points[j, 1] / w1, points[k, 1] / w2
            left, right = max(left, min(x0, x1, x2)), min(right, max(x0, x1, x2))
            top, bottom = max(top, min(y0, y1, y2)), min(bottom, max(y0, y1, y2))
        elif w0 <= 0.0 and w1 <= 0.0 and w2 <= 0.0:
            continue
        # Written so that a corner that is not a number fails the test.
        if not (left <= right and top <= bottom):
            continue
        first_x, last_x = math.ceil(left - 0.5), min(math.floor(right - 0.5), width - 1)
        first_y, last_y = math.ceil(top - 0.5), min(math.floor(bottom - 0.5), height - 1)
        if first_x > last_x or first_y > last_y:
            continue
        a0, b0, c0, a1, b1, c1, a2, b2, c2, determinant = edges(points, i, j, k)
        if not (0.0 < determinant < math.inf):
            continue
        z0, z1, z2 = points[i, 2] / determinant, points[j, 2] / determinant, points[k, 2] / determinant
        # A sample exactly on an edge belongs to one of the two neighbours.
        own0 = a0 > 0.0 or (a0 == 0.0 and b0 > 0.0)
        own1 = a1 > 0.0 or (a1 == 0.0 and b1 > 0.0)
        own2 = a2 > 0.0 or (a2 == 0.0 and b2 > 0.0)
        for row in range(first_y, last_y + 1):
            y = row + 0.5
            r0, r1, r2 = b0 * y + c0, b1 * y + c1, b2 * y + c2
            for column in range(first_x, last_x + 1):
                x = column + 0.5
                e0, e1, e2 = a0 * x + r0, a1 * x + r1, a2 * x + r2
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                if (e0 == 0.0 and not own0) or (e1 == 0.0 and not own1) or (e2 == 0.0 and not own2):
                    continue
                z = np.float32(e0 * z0 + e1 * z1 + e2 * z2)
                if z < depth[row, column] and -1.0 <= z <= 1.0 and not (peel and z <= behind[row, column]):
                    depth[row, column] = z
                    seen[row, column] = t


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _weigh(points: Float64, faces: Int32, seen: Int32, weights: Float32) -> None:
    for row in range(seen.shape[0]):
        y = row + 0.5
        for column in range(seen.shape[1]):
            t = seen[row, column]
            if t < 0:
                continue
            x = column + 0.5
            a0, b0, c0, a1, b1, c1, a2, b2, c2, _ = edges(points, faces[t, 0], faces[t, 1], faces[t, 2])
            e0, e1, e2 = a0 * x + b0 * y + c0, a1 * x + b1 * y + c1, a2 * x + b2 * y + c2
            total = e0 + e1 + e2
            if total > 0.0:
                weights[row, column, 0] = e0 / total
                weights[row, column, 1] = e1 / total
                weights[row, column, 2] = e2 / total
