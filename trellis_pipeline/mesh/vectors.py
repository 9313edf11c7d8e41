"""Three numbers at a time inside kernels: a call reads better than the same line written three times."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy.typing as npt

Vector = tuple[float, float, float]
ZERO: Vector = (0.0, 0.0, 0.0)

inner = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Marks a function that kernels call. Division by zero gives infinity there, as in numpy."""


@inner
def dot(a: Vector, b: Vector) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inner
def cross(a: Vector, b: Vector) -> Vector:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inner
def combined(p: float, a: Vector, q: float, b: Vector) -> Vector:
    """The sum p · a + q · b."""
    return p * a[0] + q * b[0], p * a[1] + q * b[1], p * a[2] + q * b[2]


@inner
def unit(a: Vector) -> Vector:
    """The vector with length 1; zero if its length is 0 or not a finite number."""
    length = math.sqrt(dot(a, a))
    if not 0.0 < length < math.inf:
        return ZERO
    return a[0] / length, a[1] / length, a[2] / length


@inner
def facing(a: Vector, b: Vector) -> Vector:
    """The vector a, turned around if it points away from b."""
    if dot(a, b) < 0.0:
        return -a[0], -a[1], -a[2]
    return a


@inner
def at_corner(values: npt.NDArray[Any], row: int) -> Vector:
    """Row of a (N, 3) array as a vector."""
    return float(values[row, 0]), float(values[row, 1]), float(values[row, 2])


@inner
def weighted(values: npt.NDArray[Any], corners: tuple[int, int, int], share: Vector) -> Vector:
    """Rows of a (N, 3) array at a triangle's corners, weighted with its barycentric coordinates."""
    i, j, k = corners
    a, b, c = share
    return (
        a * values[i, 0] + b * values[j, 0] + c * values[k, 0],
        a * values[i, 1] + b * values[j, 1] + c * values[k, 1],
        a * values[i, 2] + b * values[j, 2] + c * values[k, 2],
    )
