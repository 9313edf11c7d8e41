"""A tree of boxes over the triangles of a surface, for questions about what is near and what is in the way.

The tree is balanced and therefore needs no pointers: the children of node i are 2i and 2i + 1, and every
node's triangles are a stretch of one array.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import check_mesh
from trellis_pipeline.mesh.types import Float32, Int32, Mesh
from trellis_pipeline.mesh.vectors import inner

LEAF_TRIANGLES = 2
MAX_DEPTH = 64


class SurfaceTree(NamedTuple):
    """order: (T,) int32, triangle numbers, those of a node side by side. corners: (T, 9) float32, their
    positions in that order. boxes: (2L, 6) float32, low and high of node i; node 1 is all, L to 2L - 1 are
    leaves. Leaf k holds the triangles from k T // L to (k + 1) T // L of `order`.
    """

    order: Int32
    corners: Float32
    boxes: Float32


def surface_tree(mesh: Mesh) -> SurfaceTree:
    """The tree over a mesh. Faces may be anything, also without area.

    Raises MeshError for malformed arrays or no triangles.
    """
    check_mesh(mesh)
    if len(mesh.triangles) == 0:
        raise MeshError("there is no surface to be near to: the mesh has no triangles")
    corners = np.ascontiguousarray(mesh.vertices, dtype=np.float32)[mesh.triangles].reshape(-1, 9)
    triple = corners.reshape(-1, 3, 3)
    middles = (triple.min(axis=1) + triple.max(axis=1)) * np.float32(0.5)
    leaves = 1 << max(0, (-(-len(corners) // LEAF_TRIANGLES) - 1).bit_length())
    order = np.arange(len(corners), dtype=np.int32)
    _split(middles, order, leaves)
    corners = np.ascontiguousarray(corners[order])
    boxes = np.empty((2 * leaves, 6), np.float32)
    _bound(corners, boxes)
    return SurfaceTree(order, corners, boxes)


@numba.njit(cache=True, nogil=True)
def _split(middles: Float32, order: Int32, leaves: int) -> None:
    """Sort `order` so that each half of each stretch lies on one side along the stretch's longest axis."""
    count = len(order)
    width = leaves  # leaves below a node of this level
    while width > 1:
        for first in range(0, leaves, width):
            start, stop = first * count // leaves, (first + width) * count // leaves
            middle = (first + width // 2) * count // leaves
            if not start < middle < stop:
                continue
            axis, longest = 0, np.float32(-1)
            for k in range(3):
                low = high = middles[order[start], k]
                for n in range(start + 1, stop):
                    low, high = min(low, middles[order[n], k]), max(high, middles[order[n], k])
                if high - low > longest:
                    axis, longest = k, high - low
            _select(middles, axis, order, start, stop - 1, middle)
        width //= 2


@inner
def _select(middles: Float32, axis: int, order: Int32, low: int, high: int, place: int) -> None:
    """Hoare's selection: afterwards nothing before `place` is larger, nothing behind it smaller."""
    while low < high:
        a, b, c = (
            middles[order[low], axis],
            middles[order[(low + high) // 2], axis],
            middles[order[high], axis],
        )
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while middles[order[i], axis] < pivot:
                i += 1
            while pivot < middles[order[j], axis]:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            return


@numba.njit(cache=True, nogil=True)
def _bound(corners: Float32, boxes: Float32) -> None:
    leaves, count = len(boxes) // 2, len(corners)
    boxes[:, :3] = np.inf
    boxes[:, 3:] = -np.inf
    for leaf in range(leaves):
        for n in range(leaf * count // leaves, (leaf + 1) * count // leaves):
            for k in range(9):
                box = boxes[leaves + leaf]
                box[k % 3] = min(box[k % 3], corners[n, k])
                box[3 + k % 3] = max(box[3 + k % 3], corners[n, k])
    for node in range(leaves - 1, 0, -1):
        for k in range(3):
            boxes[node, k] = min(boxes[2 * node, k], boxes[2 * node + 1, k])
            boxes[node, 3 + k] = max(boxes[2 * node, 3 + k], boxes[2 * node + 1, 3 + k])
