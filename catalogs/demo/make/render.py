"""Photographs a product in a small studio: a paper sweep, one large soft key light, a fill and an even surround.

Mitsuba 3 traces the paths. It is needed for the photos only; the geometry, the masks and everything a test
checks come without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .camera import Camera, place
from .glb import linear
from .parts import Finish, Made
from .shapes import Float, Surface, corner_normals, rotation, smooth

PAPER = 0.80


def _start(threads: int) -> Any:
    import mitsuba as mi

    for variant in ("llvm_ad_rgb", "scalar_rgb"):
        try:
            mi.set_variant(variant)
            break
        except (ImportError, RuntimeError):
            continue
    if mi.variant().startswith("llvm"):
        import drjit as dr

        dr.set_thread_count(threads)
    else:
        mi.Thread.set_thread_count(threads)
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
    """Floor and back wall in one bent sheet, as photographers use; `size` is the product's diagonal in metres."""
    line = smooth([[-14, 0], [-6, 0], [0, 0], [3.2, 0.0], [4.6, 0.35], [5.3, 1.5], [5.5, 4], [5.6, 12]], 90) * size
    line[:, 1] = np.maximum(line[:, 1], 0)
    rows = [np.stack([np.full(len(line), x), line[:, 1], -line[:, 0]], 1) for x in (-16 * size, 16 * size)]
    points = np.vstack(rows)
    n = len(line)
    a = np.arange(n - 1)
    triangles = np.concatenate([np.stack([a, a + n, a + n + 1], 1), np.stack([a, a + n + 1, a + 1], 1)])
    return Surface(points, triangles, np.zeros((len(triangles), 3, 2)))


def photograph(made: Made, *, size: int = 1024, samples: int = 96, threads: int = 2) -> tuple[Float, dict[str, Float]]:
    """Trace one photo: linear RGB (size, size, 3), where 1 is the white of the lit paper, and its feature images.

    Features: `albedo` and `normal` (size, size, 3) and `depth` (size, size), noise-free guides for the denoiser.
    """
    mi = _start(threads)
    camera = place(made)
    low, high = made.bounds()
    unit = float(np.linalg.norm(high - low))
    spin = np.eye(4)
    spin[:3, :3] = rotation("y", made.view.azimuth)
    world = mi.ScalarTransform4f(spin)

    def lamp(at: list[float], aim: list[float], wide: float, tall: float, power: float) -> dict[str, Any]:
        stand = mi.ScalarTransform4f().look_at(
            origin=[c * unit for c in at], target=[c * unit for c in aim], up=[0, 1, 0.01]
        )
        return {
            "type": "rectangle",
            "to_world": world @ stand @ mi.ScalarTransform4f().scale([wide * unit, tall * unit, 1]),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [power] * 3}},
        }

    paper = _sweep_paper(unit)
    turned = Surface(paper.points @ spin[:3, :3].T, paper.triangles, paper.uvs)
    sheet = mi.load_dict({"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": PAPER}}})
    scene: dict[str, Any] = {
        "type": "scene",
        "integrator": {
            "type": "aov",
            "aovs": "nn:sh_normal,dd:depth,al:albedo",
            "img": {"type": "path", "max_depth": 7},
        },
        "sensor": _sensor(mi, camera, size),
        "paper": _mesh(mi, "paper", turned, sheet, 80),
        "key": lamp([-1.9, 2.6, 2.2], [0, 0.25, 0], 1.15, 1.15, 5.2),
        "fill": lamp([2.6, 1.3, 1.9], [0, 0.3, 0], 0.7, 1.0, 2.0),
        "rim": lamp([0.9, 2.7, -1.6], [0, 0.3, 0], 0.9, 0.45, 3.0),
        "wall": lamp([0, 3.6, -2.2], [0, 0.9, -5.4], 2.6, 0.8, 4.2),
        "surround": {"type": "constant", "radiance": {"type": "rgb", "value": [0.42, 0.425, 0.435]}},
    }
    bsdfs = {part.finish: _bsdf(mi, part.finish) for part in made.parts}
    for k, part in enumerate(made.parts):
        scene[f"part{k}"] = _mesh(mi, f"part{k}", part.surface, bsdfs[part.finish])
    loaded = mi.load_dict(scene)
    batch = max(1, min(samples, 8 * 1024 * 1024 // (size * size)))
    total, done = None, 0
    while done < samples:
        image = np.asarray(mi.render(loaded, spp=batch, seed=done), dtype=np.float64)
        total = image * batch if total is None else total + image * batch
        done += batch
    assert total is not None
    total /= done
    colour = total[..., :3]
    return colour, {"normal": total[..., 3:6], "depth": total[..., 6], "albedo": total[..., 7:10]}


def _sensor(mi: Any, camera: Camera, size: int) -> dict[str, Any]:
    return {
        "type": "perspective",
        "fov": camera.fov,
        "to_world": mi.ScalarTransform4f().look_at(
            origin=camera.eye.tolist(), target=camera.target.tolist(), up=[0, 1, 0]
        ),
        "film": {
            "type": "hdrfilm",
            "width": size,
            "height": size,
            "pixel_format": "rgb",
            "rfilter": {"type": "gaussian"},
        },
        "sampler": {"type": "independent"},
    }

