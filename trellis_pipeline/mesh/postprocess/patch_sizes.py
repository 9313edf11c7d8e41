"""How large each patch of a surface is: what tells a crumb from a part and a hollow from a body."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.types import Float32, Int32, Mesh
from trellis_pipeline.mesh.vectors import Vector, at_corner, combined, cross, dot

Float64 = npt.NDArray[np.float64]


def areas(mesh: Mesh, label: Int32) -> Float64:
    """(P,) the area of each patch. label: (T,) int32, the patch of each face, from 0."""
    return _areas(mesh.vertices, mesh.triangles, label, int(label.max(initial=-1)) + 1)


def signed_volumes(mesh: Mesh, label: Int32) -> Float64:
    """(P,) the volume that each patch encloses, negative if its normals point inwards (divergence theorem).

    Of a patch that is not closed, what is missing is closed by a cone to the middle of all vertices.
    """
    x, y, z = mesh.vertices.mean(axis=0, dtype=np.float64).tolist()
    return _volumes(mesh.vertices, mesh.triangles, label, (x, y, z), int(label.max(initial=-1)) + 1)


@numba.njit(cache=True, nogil=True)
def _areas(vertices: Float32, triangles: Int32, label: Int32, patches: int) -> Float64:
    total = np.zeros(patches)
    for t in range(len(triangles)):
        a = at_corner(vertices, triangles[t, 0])
        along = combined(1.0, at_corner(vertices, triangles[t, 1]), -1.0, a)
        normal = cross(along, combined(1.0, at_corner(vertices, triangles[t, 2]), -1.0, a))
        total[label[t]] += 0.5 * math.sqrt(dot(normal, normal))
    return total


@numba.njit(cache=True, nogil=True)
def _volumes(vertices: Float32, triangles: Int32, label: Int32, middle: Vector, patches: int) -> Float64:
    total = np.zeros(patches)
    for t in range(len(triangles)):
        a = combined(1.0, at_corner(vertices, triangles[t, 0]), -1.0, middle)
        b = combined(1.0, at_corner(vertices, triangles[t, 1]), -1.0, middle)
        c = combined(1.0, at_corner(vertices, triangles[t, 2]), -1.0, middle)
        total[label[t]] += dot(a, cross(b, c)) / 6.0
    return total
