"""Things for the house and garden: table lamp, stool, watering can."""

from __future__ import annotations

import numpy as np

from . import textures
from .parts import Finish, Made, Part, View, upright
from .shapes import Surface, lathe, resample, rounded, skin, smooth, sweep, vessel


def _line(start: list[float], end: list[float], count: int = 2) -> np.ndarray:
    return np.linspace(np.asarray(start), np.asarray(end), count)


def lamp() -> Made:
    """A brass table lamp with a linen shade that is open above and below."""
    brass = Finish(
        "brushed-brass",
        "#c79a4e",
        roughness=0.3,
        metallic=1.0,
        bump=textures.brushed,
        bump_m=0.00003,
        tiles=(1, 4),
    )
    shade = Finish(
        "linen-shade", "#e6dcc6", roughness=0.9, bump=textures.linen, bump_m=0.0009, tiles=(8, 4), sheen=0.3
    )
    base = lathe(
        resample(
            rounded(
                [
                    [0, 0, 0],
                    [0.072, 0, 0.002],
                    [0.073, 0.016, 0.004],
                    [0.03, 0.0205, 0.02],
                    [0.011, 0.034, 0.012],
                    [0.0095, 0.05, 0],
                    [0, 0.05, 0],
                ]
            ),
            40,
        ),
        72,
    )
    stem = lathe(
        np.maximum(
            smooth(
                [
                    [0, 0.045],
                    [0.0065, 0.046],
                    [0.0065, 0.1],
                    [0.007, 0.128],
                    [0.019, 0.15],
                    [0.0235, 0.17],
                    [0.019, 0.19],
                    [0.007, 0.212],
                    [0.0062, 0.24],
                    [0.0062, 0.29],
                    [0, 0.291],
                ],
                60,
            ),
            0,
        ),
        40,
    )
    wall = np.array([[0.1255, 0.245], [0.1275, 0.245], [0.0885, 0.425], [0.0865, 0.425]])
    dense = np.vstack(
        [
            _line(wall[0], wall[1]),
            _line(wall[1], wall[2], 12)[1:],
            _line(wall[2], wall[3])[1:],
            _line(wall[3], wall[0], 12)[1:-1],
        ]
    )
    drum = lathe(dense, 96, loop=True)
    p = drum.points[drum.triangles]
    drum = Surface(
        drum.points, drum.triangles, np.stack([drum.uvs[..., 0], (0.425 - p[..., 1]) / 0.18], axis=-1)
    )
    trims = [
        lathe(
            np.array([[r - 0.0012, y], [r + 0.001, y], [r + 0.001, y + 0.005], [r - 0.0012, y + 0.005]]),
            96,
            loop=True,
        )
        for r, y in ((0.1273, 0.2445), (0.0888, 0.4205))
    ]
    spokes = [
        sweep(
            _line([0, 0.29, 0], [0.0875 * np.sin(a), 0.415, 0.0875 * np.cos(a)], 6),
            0.0014,
            up=(0, 1, 0.3),
            segments=8,
        )
        for a in np.radians([30, 150, 270])
    ]
    parts = [Part(s, brass) for s in (base, stem, *spokes)] + [Part(drum, shade)]
    parts += [Part(t, Finish("shade-trim", "#cbbd9f", roughness=0.8)) for t in trims]
    return Made("LAMP-BRASS-43", "Table lamp, brass and linen", "lighting", tuple(parts), View(0, 4))


def stool() -> Made:
    """A turned oak stool: round seat, four splayed legs, four rungs."""
    oak = Finish("oak", print=textures.oak, roughness=0.5)
    end = Finish("oak-turned", print=textures.oak, roughness=0.5, tiles=(0.35, 1.2))
    seat = lathe(
        resample(
            rounded(
                [
                    [0, 0.418, 0],
                    [0.148, 0.418, 0.01],
                    [0.166, 0.434, 0.012],
                    [0.163, 0.451, 0.01],
                    [0.1, 0.4465, 0.05],
                    [0, 0.444, 0],
                ]
            ),
            44,
        ),
        80,
    )
    parts = [Part(upright(seat, 2, 0, 0.34), oak)]
    feet, heads = [], []
    for a in np.radians([45, 135, 225, 315]):
        c, s = np.cos(a), np.sin(a)
        foot, head = np.array([0.178 * c, 0.013, 0.178 * s]), np.array([0.108 * c, 0.43, 0.108 * s])
        feet.append(foot)
        heads.append(head)
        leg = sweep(
            np.linspace(foot, head, 12), [0.0115, 0.0155, 0.0175, 0.0165, 0.014], up=(c, 0.3, s), segments=24
        )
        parts.append(Part(leg, end))
    for k in range(4):
        t = 0.36 if k % 2 else 0.30
        a, b = (feet[i] + t * (heads[i] - feet[i]) for i in (k, (k + 1) % 4))
        parts.append(
            Part(sweep(np.linspace(a, b, 7), [0.0075, 0.0098, 0.0075], up=(0, 1, 0), segments=14), end)
        )
    return Made("STOOL-OAK-45", "Oak stool, 45 cm", "furniture", tuple(parts), View(22, 13, 24))


def watering_can() -> Made:
    """A painted watering can with a brass rose; the long spout points to the left."""
    paint = Finish("mint-enamel", "#9cc4ae", roughness=0.3, clearcoat=0.3)
    outside = resample(
        rounded(
            [[0, 0, 0], [0.098, 0, 0.004], [0.1, 0.006, 0.002], [0.092, 0.19, 0.0], [0.0935, 0.196, 0.0]]
        ),
        26,
    )
    body = lathe(vessel(outside, 0.002, 0.004), 80)
    ring = [
        lathe(
            np.array(
                [
                    [r - 0.003, y],
                    [r, y - 0.001],
                    [r + 0.0032, y + 0.002],
                    [r + 0.0032, y + 0.006],
                    [r, y + 0.009],
                    [r - 0.003, y + 0.008],
                ]
            ),
            80,
            loop=True,
        )
        for r, y in ((0.0985, 0.004), (0.0925, 0.187))
    ]
    angle = np.linspace(0, np.pi, 24)
    cover = np.vstack([[0.0915 * np.sin(a), 0.0, 0.0915 * np.cos(a)] for a in angle])
    lidded = np.stack(
        [np.column_stack([cover[:, 0] * -1, np.full(24, y), cover[:, 2]]) for y in (0.178, 0.1805)]
    )
    cover_part = skin(lidded[::-1])
    spout = sweep(
        smooth([[-0.075, 0.05, 0], [-0.13, 0.095, 0], [-0.2, 0.175, 0], [-0.262, 0.248, 0]], 30),
        [0.0255, 0.0195, 0.014, 0.0115],
        segments=28,
    )
    rose = lathe(
        resample(
            rounded(
                [
                    [0, -0.012, 0],
                    [0.0125, -0.012, 0.001],
                    [0.0135, 0.004, 0.004],
                    [0.036, 0.034, 0.003],
                    [0.0375, 0.038, 0.0015],
                    [0.036, 0.041, 0.002],
                    [0, 0.0445, 0],
                ]
            ),
            30,
        ),
        48,
    )
    face = upright(rose, 0, 2, 0.077)
    tilt = 48.0
    rose_at = (-0.262, 0.248, 0.0)
    rose_part = face.turned("z", tilt).moved(rose_at)
    handle = sweep(
        smooth(
            [
                [0.02, 0.184, 0],
                [0.026, 0.262, 0],
                [0.075, 0.302, 0],
                [0.135, 0.272, 0],
                [0.152, 0.19, 0],
                [0.128, 0.105, 0],
                [0.092, 0.07, 0],
            ],
            48,
        ),
        0.0068,
        flat=1.5,
        segments=20,
    )
    brace = sweep(_line([-0.17, 0.145, 0], [-0.075, 0.186, 0], 8), 0.0042, segments=16)
    rose_finish = Finish("brass-rose", "#ffffff", roughness=0.34, metallic=1.0, print=textures.rose_holes)
    parts = [Part(s, paint) for s in (body, cover_part, spout, handle, brace)] + [
        Part(r, paint) for r in ring
    ]
    parts += [Part(rose_part, rose_finish)]
    return Made("CAN-GARDEN-5L", "Watering can, mint, 5 l", "garden", tuple(parts), View(8, 9))
