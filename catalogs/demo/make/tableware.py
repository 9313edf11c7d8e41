"""Ceramics and packaging: mug, vase, teapot, shampoo bottle, tea carton."""

from __future__ import annotations

import numpy as np

from . import textures
from .parts import Finish, Made, Part, View
from .shapes import Surface, box, lathe, resample, rounded, smooth, sweep, vessel


def _even(corners: list[list[float]], count: int) -> np.ndarray:
    return resample(rounded(corners), count)


def mug() -> Made:
    """A stoneware mug with a bare clay foot."""
    outside = _even([[0, 0, 0], [0.0335, 0, 0.003], [0.0425, 0.016, 0.012], [0.0435, 0.094, 0]], 44)
    body = lathe(vessel(outside, 0.0038, 0.006), 80)
    path = smooth(
        [
            [0.0445, 0.078, 0],
            [0.058, 0.0795, 0],
            [0.070, 0.069, 0],
            [0.0715, 0.051, 0],
            [0.062, 0.034, 0],
            [0.0435, 0.026, 0],
        ],
        34,
    )
    handle = sweep(path, [0.0042, 0.0036, 0.0035, 0.0035, 0.0042], flat=2.0, segments=20)
    glaze = Finish("stoneware", print=textures.stoneware, roughness=0.32, clearcoat=0.25)
    grip = Finish("glazed-handle", "#dfd6c3", roughness=0.32, clearcoat=0.25)
    return Made(
        "MUG-STONE-01",
        "Stoneware mug, oatmeal, 300 ml",
        "tableware",
        (Part(body, glaze), Part(handle, grip)),
        View(-14, 11),
    )


def vase() -> Made:
    """A cobalt vase with soft ribs that fade towards neck and foot."""
    outside = resample(
        smooth(
            [
                [0, 0],
                [0.03, 0],
                [0.043, 0.006],
                [0.066, 0.06],
                [0.074, 0.11],
                [0.058, 0.175],
                [0.031, 0.215],
                [0.028, 0.24],
                [0.041, 0.272],
            ],
            120,
        ),
        46,
    )
    outside = np.maximum(outside, 0.0)
    outside[0] = 0.0
    body = lathe(vessel(outside, 0.004, 0.008), 112)
    p = body.points.copy()
    angle = np.arctan2(p[:, 2], p[:, 0])
    fade = np.clip(np.sin(np.clip((p[:, 1] - 0.004) / 0.205, 0, 1) * np.pi), 0, 1)
    swell = 1 + 0.045 * fade * (np.abs(np.sin(8 * angle)) ** 0.8 - 0.6)
    p[:, 0] *= swell
    p[:, 2] *= swell
    glaze = Finish("cobalt-glaze", "#1f4c8f", roughness=0.16, clearcoat=0.6)
    return Made(
        "VASE-COBALT-27",
        "Ribbed vase, cobalt glaze",
        "decoration",
        (Part(Surface(p, body.triangles, body.uvs), glaze),),
        View(0, 9),
    )


def teapot() -> Made:
    """A round teapot. Its inside cannot be seen, so the body is solid."""
    glaze = Finish("celadon-glaze", "#5d8f84", roughness=0.2, clearcoat=0.5)
    knob = Finish("walnut", "#6b452c", roughness=0.45)
    body = lathe(
        np.maximum(
            smooth(
                [
                    [0, 0],
                    [0.042, 0],
                    [0.047, 0.005],
                    [0.072, 0.035],
                    [0.078, 0.062],
                    [0.066, 0.095],
                    [0.043, 0.112],
                    [0.038, 0.113],
                    [0, 0.113],
                ],
                52,
            ),
            0,
        ),
        80,
    )
    lid = lathe(
        _even(
            [
                [0, 0.108, 0],
                [0.041, 0.108, 0.001],
                [0.0425, 0.115, 0.003],
                [0.026, 0.1245, 0.02],
                [0.006, 0.127, 0.004],
                [0, 0.127, 0],
            ],
            30,
        ),
        72,
    )
    top = lathe(
        np.maximum(
            smooth(
                [[0, 0.125], [0.0065, 0.1255], [0.0055, 0.131], [0.012, 0.139], [0.0115, 0.146], [0, 0.149]],
                24,
            ),
            0,
        ),
        40,
    )
    spout = sweep(
        smooth(
            [
                [-0.058, 0.036, 0],
                [-0.085, 0.046, 0],
                [-0.101, 0.072, 0],
                [-0.112, 0.098, 0],
                [-0.128, 0.11, 0],
            ],
            30,
        ),
        [0.021, 0.0165, 0.0115, 0.0085, 0.0078],
        segments=28,
    )
    handle = sweep(
        smooth(
            [
                [0.06, 0.1, 0],
                [0.085, 0.112, 0],
                [0.112, 0.1, 0],
                [0.118, 0.07, 0],
                [0.102, 0.041, 0],
                [0.069, 0.03, 0],
            ],
            40,
        ),
        [0.0062, 0.0052, 0.005, 0.005, 0.0058],
        flat=1.5,
        segments=20,
    )
    parts = (Part(body, glaze), Part(lid, glaze), Part(spout, glaze), Part(handle, glaze), Part(top, knob))
    return Made("TEAPOT-CELADON-09", "Teapot, celadon glaze, 0.9 l", "tableware", parts, View(10, 10))


def bottle() -> Made:
    """A plastic bottle with a paper label and a flip cap."""
    body = lathe(
        _even(
            [
                [0, 0, 0],
                [0.0345, 0, 0.005],
                [0.0345, 0.146, 0.02],
                [0.0155, 0.169, 0.008],
                [0.0145, 0.178, 0],
                [0, 0.178, 0],
            ],
            48,
        ),
        80,
    )
    ring = np.array([[0.0342, 0.026], [0.03475, 0.026], [0.03475, 0.118], [0.0342, 0.118]])
    label = lathe(ring, 80, loop=True)
    # The loop's four sides would share the label between them; the outer side gets all of it.
    p = label.points[label.triangles]
    v = (0.118 - p[..., 1]) / 0.092
    label = Surface(label.points, label.triangles, np.stack([label.uvs[..., 0], np.clip(v, 0, 1)], axis=-1))
    cap = lathe(
        _even([[0, 0.168, 0], [0.0215, 0.168, 0.0015], [0.0205, 0.204, 0.004], [0, 0.2052, 0]], 40), 72
    )
    seam = lathe(
        np.array([[0.0205, 0.1925], [0.0212, 0.1925], [0.0212, 0.1932], [0.0205, 0.1932]]), 72, loop=True
    )
    parts = (
        Part(body, Finish("green-plastic", "#35503f", roughness=0.28)),
        Part(label, Finish("paper-label", print=textures.shampoo_label, roughness=0.6)),
        Part(cap, Finish("black-cap", "#26282a", roughness=0.42)),
        Part(seam, Finish("cap-seam", "#0c0d0e", roughness=0.6)),
    )
    return Made("SHAMPOO-ROSEMARY-400", "Rosemary shampoo, 400 ml", "care", parts, View(0, 6))


def carton() -> Made:
    """A folded carton, printed on all six sides."""
    shell = box((0.076, 0.128, 0.058), 0.0011, arc=3, fine=6, bulge=(0.0006, 0.0, 0.0008), cells=True).moved(
        (0, 0.064, 0)
    )
    return Made(
        "TEA-HIGHLAND-20",
        "Highland black tea, 20 bags",
        "grocery",
        (Part(shell, Finish("printed-board", print=textures.tea_carton, roughness=0.42, clearcoat=0.15)),),
        View(32, 15, 24),
    )
