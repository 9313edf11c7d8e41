"""Where a model is looked at from: one record that turns points into clip space, and the ways to make one.

Previews, turntables and the silhouette check must agree on what "front" means, so it is said once, here:
the camera stands on +Z and looks at -Z with +Y up, like the viewer of the source photo. Azimuth turns the
camera to the viewer's right (+X), elevation lifts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError

Float64 = npt.NDArray[np.float64]
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""An axis-aligned box: its smallest and its largest corner, metres."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A view and a projection, both 4 × 4 float64, column vectors, OpenGL clip space (z from -1 to 1).

    view: world to camera; the camera looks along its own -Z.
    projection: camera to clip space; the last row is (0, 0, -1, 0) for perspective, (0, 0, 0, 1) otherwise.
    """

    view: Float64
    projection: Float64

    @property
    def is_perspective(self) -> bool:
        """Whether near things look larger."""
        return bool(self.projection[3, 2] != 0.0)

    @property
    def position(self) -> Float64:
        """(3,) world position of the eye; an orthographic camera has a direction only."""
        return -self.view[:3, :3].T @ self.view[:3, 3]

    @property
    def towards_eye(self) -> Float64:
        """(3,) unit world direction from the scene to the camera along its axis."""
        return self.view[2, :3].copy()

    def project(self, points: npt.ArrayLike) -> Float64:
        """(N, 3) world points to (N, 4) homogeneous clip coordinates."""
        matrix = self.projection @ self.view
        return np.asarray(points, dtype=np.float64) @ matrix[:, :3].T + matrix[:, 3]


def box_of(points: npt.ArrayLike) -> Box:
    """The bounding box of (N, 3) points, metres.

    Raises MeshError if there is no point or a coordinate is not finite: nothing could be framed.
    """
    array = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if len(array) == 0:
        raise MeshError("the model has no vertices, so there is nothing to look at")
    low, high = array.min(axis=0), array.max(axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise MeshError("the model has vertices that are not finite numbers")
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def orthographic_front(box: Box, *, margin: float = 0.05, aspect: float = 1.0) -> Camera:
    """Look straight at the front of `box` without perspective.

    margin: free share of the frame on each side of the longer direction, 0 to below 0.5.
    aspect: width / height of the picture; the box's proportions are kept.
    """
    centre, corners = _centre_and_corners(box)
    view = _view(centre, 0.0, 0.0, 0.0)
    extent = np.abs(_apply(view, corners)).max(axis=0)
    half_height = max(extent[1], extent[0] / aspect, 1e-9) / (1.0 - 2.0 * margin)
    reach = max(extent[2], 1e-9) * 1.01
    projection = np.diag([1.0 / (half_height * aspect), 1.0 / half_height, -1.0 / reach, 1.0])
    return Camera(view=view, projection=projection)


def three_quarter(
    box: Box,
    azimuth_deg: float = 30.0,
    elevation_deg: float = 20.0,
    *,
    fov_deg: float = 26.0,
    margin: float = 0.08,
) -> Camera:
    """A perspective view from any side, as close as `box` fits a square picture.

    azimuth_deg: 0 is the front, 90 the viewer's right (+X), 180 the back. elevation_deg: -89 to 89.
    fov_deg: vertical field of view. A long lens (20 to 30) is what product photographs are taken with.
    margin: free share of the frame on each side.
    """
    _, corners = _centre_and_corners(box)
    return frame_points(corners, azimuth_deg, elevation_deg, fov_deg=fov_deg, margin=margin)


def frame_points(
    points: npt.ArrayLike,
    azimuth_deg: float,
    elevation_deg: float,
    *,
    fov_deg: float = 26.0,
    margin: float = 0.08,
    at_least: float = 0.0,
) -> Camera:
    """Like `three_quarter`, but framing the (N, 3) points themselves: tighter, and centred as they appear.

    at_least: no closer than this (metres), so that several views of one product share a scale; see
    `fitting_distance`.
    """
    box = box_of(points)
    centre, corners = _centre_and_corners(box)
    level = _view(centre, azimuth_deg, elevation_deg, 0.0)
    shift, distance = _fit(_apply(level, np.asarray(points, dtype=np.float64)), fov_deg, margin)
    distance = max(distance, at_least)
    target = centre + shift[0] * level[0, :3] + shift[1] * level[1, :3]
    view = _view(target, azimuth_deg, elevation_deg, distance)
    reach = 1.5 * (float(np.linalg.norm(corners[0] - centre)) or 1e-9)
    near, far = max(distance - reach, 0.02 * distance), distance + reach
    focal = 1.0 / math.tan(math.radians(fov_deg) / 2.0)
    projection = np.array(
        [
            [focal, 0.0, 0.0, 0.0],
            [0.0, focal, 0.0, 0.0],
            [0.0, 0.0, (far + near) / (near - far), 2.0 * far * near / (near - far)],
            [0.0, 0.0, -1.0, 0.0],
        ]
    )
    return Camera(view=view, projection=projection)


def fitting_distance(
    points: npt.ArrayLike,
    azimuth_deg: float,
    elevation_deg: float,
    *,
    fov_deg: float = 26.0,
    margin: float = 0.08,
) -> float:
    """Metres from the eye to the plane through the box's centre at which all points just fit."""
    centre, _ = _centre_and_corners(box_of(points))
    level = _view(centre, azimuth_deg, elevation_deg, 0.0)
    return _fit(_apply(level, np.asarray(points, dtype=np.float64)), fov_deg, margin)[1]


def _fit(seen: Float64, fov_deg: float, margin: float) -> tuple[Float64, float]:
    """Sideways and upward shift of the eye, and its distance, for which points in view space just fit.

    A point is inside to the right if x - shift <= t (distance - z), and likewise on the other sides, so the
    best shift and distance follow from the extremes of t z + x and t z - x.
    """
    tangent = math.tan(math.radians(fov_deg) / 2.0) * (1.0 - 2.0 * margin)
    forward = tangent * seen[:, 2:]
    high, low = (forward + seen[:, :2]).max(axis=0), (forward - seen[:, :2]).max(axis=0)
    # Something long and thin that points at the eye would fit from inside of itself.
    clear = float(seen[:, 2].max()) + 0.5 * (float(np.linalg.norm(np.ptp(seen, axis=0))) or 1e-6)
    return (high - low) / 2.0, max(float((high + low).max()) / (2.0 * tangent), clear)


def _centre_and_corners(box: Box) -> tuple[Float64, Float64]:
    low, high = np.asarray(box[0], dtype=np.float64), np.asarray(box[1], dtype=np.float64)
    corners = np.array([[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)])
    return (low + high) / 2.0, corners


def _view(centre: Float64, azimuth_deg: float, elevation_deg: float, distance: float) -> Float64:
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    back = np.array(
        [
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
            math.cos(azimuth) * math.cos(elevation),
        ]
    )
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    up = np.cross(back, right)
    view = np.eye(4)
    view[:3, :3] = np.stack([right, up, back])
    view[:3, 3] = -view[:3, :3] @ (centre + distance * back)
    return view


def _apply(view: Float64, points: Float64) -> Float64:
    return points @ view[:3, :3].T + view[:3, 3]
