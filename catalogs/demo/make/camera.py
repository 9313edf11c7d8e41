"""The photo's camera: far enough to hold the product, slightly above it, and written down for scorers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .parts import Made
from .shapes import Float


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera. eye, target: metres in the frame of the product. fov: degrees."""

    eye: Float
    target: Float
    fov: float

    def axes(self) -> Float:
        """Rows: right, up, backwards (towards the viewer), unit length."""
        back = self.eye - self.target
        back = back / np.linalg.norm(back)
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def camera_to_world(self) -> Float:
        """4 x 4, OpenGL and glTF convention: x right, y up, looking along -z."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes().T
        matrix[:3, 3] = self.eye
        return matrix


def place(made: Made, fill: float = 0.74) -> Camera:
    """Aim at the middle of what is seen and step back until the product fills `fill` of the square frame."""
    view = made.view
    azimuth, elevation = np.radians(view.azimuth), np.radians(view.elevation)
    back = np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    )
    points = np.vstack([part.surface.points for part in made.parts])
    low, high = made.bounds()
    target = (low + high) / 2
    distance = float(np.linalg.norm(high - low)) * 3
    half = np.tan(np.radians(view.fov / 2))
    for _ in range(12):
        camera = Camera(target + back * distance, target, view.fov)
        seen = (points - camera.eye) @ camera.axes().T
        image = seen[:, :2] / -seen[:, 2:] / half
        lo, hi = image.min(axis=0), image.max(axis=0)
        middle = (lo + hi) / 2 * half * distance
        target = target + camera.axes()[0] * middle[0] + camera.axes()[1] * middle[1]
        distance *= float((hi - lo).max()) / 2 / fill
    return Camera(target + back * distance, target, view.fov)
