"""Photographs a product in a small studio: a paper sweep, one soft key light, a fill and an even surround.

Mitsuba 3 traces the paths. It is needed for the photos only; the geometry, the masks and everything a test
checks come without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .camera import Camera, place
from .glb import linear
from .parts import Finish, Made
from .shapes import Float, Surface, corner_normals, rotation, smooth

PAPER = 0.80


def _start(threads: int) -> Any:
    """Mitsuba with its vectorised kernels where a recent LLVM is found (older ones abort), else without."""
    import drjit as dr
    import mitsuba as mi

    try:
        recent = dr.detail.llvm_version()[0] >= 16
    except (AttributeError, RuntimeError, TypeError):
        recent = False
    mi.set_variant("llvm_ad_rgb" if recent else "scalar_rgb")
    dr.set_thread_count(threads)
    return mi


def _bsdf(mi: Any, finish: Finish) -> Any:
    tint = np.asarray(linear(finish.colour))
    base: dict[str, Any] = {"type": "rgb", "value": tint.tolist()}
    tiling = mi.ScalarTransform3f().scale([finish.tiles[0], finish.tiles[1]])
    if finish.print is not None:
        pixels = np.asarray(finish.print(), dtype=np.float32) / 255
        pixels = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
        base = {
            "type": "bitmap",
            "bitmap": mi.Bitmap((pixels * tint).astype(np.float32)),
            "raw": True,
            "to_uv": tiling,
        }
    look: dict[str, Any] = {
        "type": "principled",
        "base_color": base,
        "roughness": finish.roughness,
        "metallic": finish.metallic,
        "specular": 0.5,
        "clearcoat": finish.clearcoat,
        "clearcoat_gloss": 0.92,
        "sheen": finish.sheen,
    }
    if finish.bump is not None:
        look = {
            "type": "bumpmap",
            "scale": finish.bump_m,
            "height": {
                "type": "bitmap",
                "bitmap": mi.Bitmap(finish.bump().astype(np.float32)[..., None]),
                "raw": True,
                "to_uv": tiling,
            },
            "bsdf": look,
        }
    return mi.load_dict({"type": "twosided", "bsdf": look} if finish.bump is None else look)


def _mesh(mi: Any, name: str, surface: Surface, bsdf: Any, crease: float = 40.0) -> Any:
    corners = surface.triangles.ravel()
    count = len(corners)
    props = mi.Properties()
    props["bsdf"] = bsdf
    mesh = mi.Mesh(name, count, count // 3, has_vertex_normals=True, has_vertex_texcoords=True, props=props)
    params = mi.traverse(mesh)
    params["vertex_positions"] = surface.points[corners].astype(np.float32).ravel()
    params["vertex_normals"] = corner_normals(surface, crease).astype(np.float32).ravel()
    params["vertex_texcoords"] = surface.uvs.astype(np.float32).ravel()
    params["faces"] = np.arange(count, dtype=np.uint32)
    params.update()
    return mesh


def _sweep_paper(size: float) -> Surface:
    """Floor and back wall in one bent sheet, as photographers use; `size`: the product's diagonal, metres."""
    line = (
        smooth([[-14, 0], [-6, 0], [0, 0], [3.2, 0.0], [4.6, 0.35], [5.3, 1.5], [5.5, 4], [5.6, 12]], 90)
        * size
    )
    line[:, 1] = np.maximum(line[:, 1], 0)
    rows = [np.stack([np.full(len(line), x), line[:, 1], -line[:, 0]], 1) for x in (-16 * size, 16 * size)]
    points = np.vstack(rows)
    n = len(line)
    a = np.arange(n - 1)
    triangles = np.concatenate([np.stack([a, a + n, a + n + 1], 1), np.stack([a, a + n + 1, a + 1], 1)])
    return Surface(points, triangles, np.zeros((len(triangles), 3, 2)))


@dataclass(frozen=True, slots=True)
class Exposure:
    """A traced photo before development. All (size, size, ...) float64, linear.

    colour: RGB. variance: RGB, of `colour` as an estimate. albedo: RGB and normal: XYZ, guides for the
    denoiser.
    """

    colour: Float
    variance: Float
    albedo: Float
    normal: Float


def photograph(made: Made, alpha: np.ndarray, *, samples: int = 96, threads: int = 2) -> Exposure:
    """Trace one photo in the size of `alpha`, its true alpha (size, size) uint8.

    Around the product `samples` paths are traced a pixel; of the rest of the paper, which is smooth, an
    eighth.
    """
    mi = _start(threads)
    size = len(alpha)
    camera = place(made)
    scene = _studio(mi, made)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    margin = size // 32
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    bottom, right = min(size, rows[-1] + 1 + 2 * margin), min(size, columns[-1] + 1 + margin)
    frame = _trace(mi, scene, camera, size, (0, 0, size, size), max(3, samples // 6), seed=1000)
    inner = _trace(mi, scene, camera, size, (left, top, right - left, bottom - top), samples, seed=1)
    whole = [plane.copy() for plane in frame]
    for plane, part in zip(whole, inner, strict=True):
        plane[top:bottom, left:right] = part
    return Exposure(*whole)


def _trace(
    mi: Any,
    scene: dict[str, Any],
    camera: Camera,
    size: int,
    window: tuple[int, int, int, int],
    samples: int,
    seed: int,
) -> tuple[Float, Float, Float, Float]:
    """Colour, its variance, albedo and normal of a window (left, top, width, height) of the picture."""
    left, top, width, height = window
    film = {
        "type": "hdrfilm",
        "width": size,
        "height": size,
        "crop_offset_x": int(left),
        "crop_offset_y": int(top),
        "crop_width": int(width),
        "crop_height": int(height),
        "pixel_format": "rgb",
        "rfilter": {"type": "gaussian", "stddev": 0.45},
    }
    sensor = {
        "type": "perspective",
        "fov": camera.fov,
        "to_world": mi.ScalarTransform4f().look_at(
            origin=camera.eye.tolist(), target=camera.target.tolist(), up=[0, 1, 0]
        ),
        "film": film,
        "sampler": {"type": "independent"},
    }
    loaded = mi.load_dict(scene | {"sensor": sensor})
    rounds = max(3, samples // 8)
    batch = max(1, samples // rounds)
    total = squares = 0.0
    for k in range(rounds):
        image = np.asarray(mi.render(loaded, spp=batch, seed=seed + k), dtype=np.float64)
        image[..., :3] = np.minimum(image[..., :3], 6.0)
        total = total + image
        squares = squares + image[..., :3] ** 2
    mean = np.asarray(total) / rounds
    variance = np.maximum(squares / rounds - mean[..., :3] ** 2, 0) / (rounds - 1)
    return mean[..., :3], variance, mean[..., 6:9], mean[..., 3:6]


def _lights(height: int = 256) -> Float:
    """Soft boxes far away, as an equirectangular picture (height, 2 height, 3) of radiance.

    One emitter that knows where it is bright makes far less noise than several lamps, and from far away the
    paper is lit evenly up to its upper end. Column 0 looks along -Z, u grows towards +X (Mitsuba's
    convention).
    """
    theta = (np.arange(height)[:, None] + 0.5) / height * np.pi
    phi = (np.arange(2 * height)[None] + 0.5) / (2 * height) * 2 * np.pi
    towards = np.stack(
        [np.sin(theta) * np.sin(phi), np.cos(theta) + 0 * phi, -np.sin(theta) * np.cos(phi)], axis=-1
    )
    out = np.full((height, 2 * height), 0.42) + 0.1 * towards[..., 1]
    for at, wide, tall, power in (
        ((-1.7, 2.3, 2.3), 0.36, 0.36, 7.0),
        ((2.6, 1.2, 1.9), 0.22, 0.34, 2.4),
        ((0.3, 1.1, 3.0), 0.9, 0.12, 0.7),
    ):
        axis = np.asarray(at) / np.linalg.norm(at)
        right = np.cross([0, 1, 0], axis)
        right /= np.linalg.norm(right)
        front = towards @ axis
        x = towards @ right / np.maximum(front, 1e-3)
        y = towards @ np.cross(axis, right) / np.maximum(front, 1e-3)
        edge = np.maximum(np.abs(x) / wide, np.abs(y) / tall)
        out += power * (front > 0) / (1 + np.exp(np.clip((edge - 1) / 0.06, -50, 50)))
    return out[..., None] * np.array([1.0, 1.0, 1.01])


def _studio(mi: Any, made: Made) -> dict[str, Any]:
    """The set, turned so that the lights keep their places relative to the camera."""
    low, high = made.bounds()
    unit = float(np.linalg.norm(high - low))
    spin = np.eye(4)
    spin[:3, :3] = rotation("y", made.view.azimuth)
    paper = _sweep_paper(unit)
    turned = Surface(paper.points @ spin[:3, :3].T, paper.triangles, paper.uvs)
    sheet = mi.load_dict(
        {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": PAPER}}}
    )
    scene: dict[str, Any] = {
        "type": "scene",
        "integrator": {
            "type": "aov",
            "aovs": "nn:sh_normal,al:albedo",
            "img": {"type": "path", "max_depth": 4},
        },
        "paper": _mesh(mi, "paper", turned, sheet, 80),
        "lights": {
            "type": "envmap",
            "bitmap": mi.Bitmap(_lights().astype(np.float32)),
            "to_world": mi.ScalarTransform4f(spin),
        },
    }
    bsdfs = {part.finish: _bsdf(mi, part.finish) for part in made.parts}
    for k, part in enumerate(made.parts):
        scene[f"part{k}"] = _mesh(mi, f"part{k}", part.surface, bsdfs[part.finish])
    return scene
