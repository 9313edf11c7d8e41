"""Soft and worn things: rain boot, backpack, headphones; and a toy robot."""

from __future__ import annotations

import numpy as np

from . import textures
from .parts import Finish, Made, Part, View
from .shapes import Float, Surface, box, lathe, resample, rounded, skin, smooth, sweep


def _sole(y: float, toe: float, heel: float, half: float, count: int = 72, waist: float = 0.0) -> Float:
    """A level foot outline: toe towards -x, `half` wide at the ball; waist 0..1 narrows the arch."""
    t = np.arange(count) / count * 2 * np.pi
    c, s = np.cos(t), np.sin(t)
    middle, reach = (heel + toe) / 2, (heel - toe) / 2
    x = middle + reach * np.sign(c) * np.abs(c) ** 0.85
    along = (x - toe) / (heel - toe)
    width = half * (1 - 0.16 * along - waist * 0.2 * np.exp(-(((along - 0.62) / 0.16) ** 2)))
    z = width * np.sign(s) * np.abs(s) ** 0.8
    return np.stack([x, np.full(count, y), z], axis=1)[::-1]


def boot() -> Made:
    """A rain boot seen from its side, toe to the left, hollow down to the ankle."""
    rubber = Finish("yellow-rubber", "#e8b21c", roughness=0.3, clearcoat=0.3)
    dark = Finish("brown-sole", "#5b3a26", roughness=0.6, bump=textures.grainy, bump_m=0.0004, tiles=(16, 2))
    heights = np.array(
        [0.012, 0.022, 0.04, 0.055, 0.066, 0.075, 0.084, 0.094, 0.108, 0.13, 0.16, 0.2, 0.24, 0.272]
    )
    toes = np.array(
        [
            -0.163,
            -0.167,
            -0.164,
            -0.154,
            -0.138,
            -0.115,
            -0.092,
            -0.075,
            -0.061,
            -0.055,
            -0.056,
            -0.06,
            -0.064,
            -0.066,
        ]
    )
    heels = np.array(
        [0.078, 0.082, 0.083, 0.081, 0.079, 0.077, 0.075, 0.073, 0.0705, 0.0685, 0.069, 0.072, 0.075, 0.0765]
    )
    halves = np.array(
        [
            0.046,
            0.049,
            0.0495,
            0.0485,
            0.047,
            0.0465,
            0.046,
            0.0455,
            0.046,
            0.048,
            0.052,
            0.056,
            0.0595,
            0.061,
        ]
    )
    levels = smooth(np.stack([heights, toes, heels, halves], 1).tolist(), 46)
    outer = [_sole(*level) for level in levels]
    inner = [_sole(y, t + 0.0035, h - 0.0035, w - 0.0035) for y, t, h, w in levels[::-1] if y > 0.085]
    rim_y, t, h, w = levels[-1]
    lip = [
        _sole(rim_y + 0.0012, t + 0.001, h - 0.001, w - 0.001),
        _sole(rim_y + 0.0012, t + 0.0025, h - 0.0025, w - 0.0025),
    ]
    shaft = skin(np.asarray([*outer, *lip, *inner]))
    sole = skin(
        np.asarray(
            [
                _sole(y, -0.172 + e, 0.088 - e, 0.0535 - e, waist=0.8)
                for y, e in ((0.006, 0.002), (0.0075, 0.0), (0.022, 0.0), (0.0245, 0.002))
            ]
        )
    )
    heel = skin(
        np.asarray(
            [
                _sole(y, 0.005 + e, 0.087 - e, 0.047 - e)
                for y, e in ((0.0, 0.0015), (0.0015, 0.0), (0.012, 0.0))
            ]
        )
    )
    ball = skin(
        np.asarray(
            [
                _sole(y, -0.15 + e, -0.03 - e, 0.05 - e)
                for y, e in ((0.0, 0.0015), (0.0015, 0.0), (0.012, 0.0))
            ]
        )
    )
    trim = _band(levels, 0.262, 0.274, 0.002)
    parts = (
        Part(shaft, rubber),
        Part(sole, dark),
        Part(heel, dark),
        Part(ball, dark),
        Part(trim, Finish("trim", "#5b3a26", roughness=0.5)),
    )
    return Made("BOOT-RAIN-YELLOW-38", "Rain boot, yellow, size 38", "footwear", parts, View(16, 8))


def _band(levels: Float, low: float, high: float, out: float) -> Surface:
    """A ring that lies around the boot's shaft between two heights and stands out by `out` metres."""

    def at(y: float, grow: float) -> Float:
        _, t, h, w = (np.interp(y, levels[:, 0], levels[:, k]) for k in range(4))
        return _sole(y, t - grow, h + grow, w + grow)

    return skin(np.asarray([at(low, -0.001), at(low, out), at(high, out), at(high, -0.001)]), loop=True)


def backpack() -> Made:
    """A soft city backpack with a front pocket, zips and a grab handle."""
    cloth = Finish(
        "canvas", "#46586b", roughness=0.9, bump=textures.weave, bump_m=0.0011, tiles=(5, 6), sheen=0.5
    )
    cloth2 = Finish(
        "canvas-pocket", "#3d4e60", roughness=0.9, bump=textures.weave, bump_m=0.0011, tiles=(4, 3), sheen=0.5
    )
    leather = Finish("leather", "#8a5a35", roughness=0.5, bump=textures.grainy, bump_m=0.0004, tiles=(2, 2))
    zipper = Finish("zip", "#1d2126", roughness=0.5)
    metal = Finish("nickel", "#c9c9c6", roughness=0.25, metallic=1.0)

    def soften(surface: Surface, top: float, tip: float) -> Surface:
        """Lean the upper part in, as a filled bag does."""
        p = surface.points.copy()
        k = np.clip(p[:, 1] / top, 0, 1) ** 2
        p[:, 0] *= 1 - tip * k
        p[:, 2] = p[:, 2] * (1 - 0.22 * k) - 0.012 * k
        return Surface(p, surface.triangles, surface.uvs)

    body = soften(
        box((0.285, 0.42, 0.125), 0.05, arc=5, fine=9, bulge=(0.012, 0.018, 0.026)).moved((0, 0.21, 0)),
        0.42,
        0.12,
    )
    pocket = box((0.215, 0.165, 0.07), 0.024, arc=4, fine=6, bulge=(0.004, 0.004, 0.014)).moved(
        (0, 0.115, 0.078)
    )
    flap = box((0.221, 0.045, 0.02), 0.008, arc=3, fine=5, bulge=(0, 0, 0.011)).moved((0, 0.186, 0.1045))
    sides = [
        box((0.035, 0.15, 0.09), 0.014, arc=3, fine=4, bulge=(0.008, 0, 0.004)).moved(
            (sx * 0.148, 0.1, 0.004)
        )
        for sx in (-1, 1)
    ]
    arch = smooth(
        [
            [-0.118, 0.2, 0.066],
            [-0.119, 0.29, 0.062],
            [-0.098, 0.366, 0.052],
            [0, 0.397, 0.052],
            [0.098, 0.366, 0.052],
            [0.119, 0.29, 0.062],
            [0.118, 0.2, 0.066],
        ],
        52,
    )
    zip_line = sweep(arch, 0.004, flat=0.9, up=(0, 0.3, 1), segments=10)
    pull = sweep(
        np.linspace([0.106, 0.338, 0.066], [0.1, 0.305, 0.083], 6),
        0.0036,
        flat=0.5,
        up=(0, 0, 1),
        segments=12,
    )
    grab = sweep(
        smooth(
            [
                [-0.045, 0.412, -0.035],
                [-0.043, 0.45, -0.035],
                [0, 0.472, -0.035],
                [0.043, 0.45, -0.035],
                [0.045, 0.412, -0.035],
            ],
            28,
        ),
        0.0045,
        flat=2.6,
        segments=14,
    )
    straps = [
        sweep(
            smooth(
                [
                    [sx * 0.06, 0.4, -0.05],
                    [sx * 0.085, 0.418, -0.085],
                    [sx * 0.1, 0.35, -0.122],
                    [sx * 0.11, 0.22, -0.125],
                    [sx * 0.13, 0.1, -0.09],
                    [sx * 0.135, 0.05, -0.05],
                ],
                32,
            ),
            0.007,
            flat=3.6,
            up=(1, 0, 0),
            segments=16,
            power=3,
        )
        for sx in (-1, 1)
    ]
    patch = box((0.062, 0.04, 0.006), 0.0025, arc=3, fine=2).turned("x", -7).moved((0, 0.3, 0.0805))
    stud = (
        lathe(
            resample(rounded([[0, 0, 0], [0.0075, 0, 0.001], [0.007, 0.004, 0.002], [0, 0.005, 0]]), 14), 32
        )
        .turned("x", 90)
        .moved((0, 0.176, 0.1235))
    )
    parts = (
        Part(body, cloth),
        Part(pocket, cloth2),
        Part(flap, leather),
        *(Part(s, cloth2) for s in sides),
        Part(zip_line, zipper),
        Part(pull, leather),
        Part(grab, leather),
        *(Part(s, cloth2) for s in straps),
        Part(patch, leather),
        Part(stud, metal),
    )
    return Made("BAG-CITY-18L", "City backpack, slate canvas, 18 l", "bags", parts, View(18, 7))


def headphones() -> Made:
    """Over-ear headphones, standing on their cups."""
    shell = Finish("matte-shell", "#2b2d31", roughness=0.38, clearcoat=0.15)
    pad = Finish("pad-leather", "#3a332e", roughness=0.55, bump=textures.grainy, bump_m=0.0003, tiles=(6, 3))
    metal = Finish("brushed-steel", "#c4c5c7", roughness=0.28, metallic=1.0)
    accent = Finish("copper-ring", "#c27a4e", roughness=0.3, metallic=1.0)
    cup = lathe(
        resample(
            rounded(
                [
                    [0, -0.002, 0],
                    [0.034, -0.002, 0.004],
                    [0.0365, 0.008, 0.006],
                    [0.033, 0.0235, 0.009],
                    [0.02, 0.026, 0.01],
                    [0, 0.026, 0],
                ]
            ),
            32,
        ),
        56,
    )
    ring = lathe(
        np.array([[0.0265, 0.0235], [0.0285, 0.0235], [0.0285, 0.0268], [0.0265, 0.0268]]), 64, loop=True
    )
    cushion_path = np.stack(
        [
            0.0255 * np.cos(np.arange(48) / 48 * 2 * np.pi),
            np.full(48, -0.009),
            0.0255 * np.sin(np.arange(48) / 48 * 2 * np.pi),
        ],
        1,
    )
    cushion = sweep(cushion_path, 0.0102, flat=1.0, up=(0, 1, 0), segments=20, loop=True)
    parts: list[Part] = []
    for sx in (1, -1):
        for surface, finish in ((cup, shell), (ring, accent), (cushion, pad)):
            placed = surface.scaled((1.0, 1.0, 0.9)).turned("x", 90).turned("y", 90).turned("z", -7)
            placed = placed.moved((0.076, 0.041, 0))
            parts.append(Part(placed if sx > 0 else placed.mirrored_x(), finish))
        rod = sweep(
            smooth([[0.0935, 0.044, 0], [0.1015, 0.075, 0], [0.0995, 0.108, 0], [0.092, 0.128, 0]], 24),
            0.0032,
            flat=1.6,
            up=(0, 0, 1),
            segments=16,
        )
        parts.append(Part(rod if sx > 0 else rod.mirrored_x(), metal))
    a = np.linspace(-0.12, np.pi + 0.12, 56)
    arc = np.stack([0.094 * np.cos(a), 0.106 + 0.086 * np.sin(a), np.zeros(56)], 1)
    parts.append(
        Part(sweep(arc, [0.0032, 0.0042, 0.0046, 0.0042, 0.0032], flat=4.0, segments=20, power=3), shell)
    )
    inner = np.stack([0.0885 * np.cos(a[11:45]), 0.106 + 0.0805 * np.sin(a[11:45]), np.zeros(34)], 1)
    parts.append(Part(sweep(inner, [0.0035, 0.0062, 0.0068, 0.0062, 0.0035], flat=2.5, segments=20), pad))
    return Made("HEADPHONE-ONYX-2", "Over-ear headphones, onyx", "audio", tuple(parts), View(30, 9), "webp")


def robot() -> Made:
    """A tin toy robot with a printed chest."""
    red = Finish("red-tin", "#c8372d", roughness=0.28, clearcoat=0.4)
    blue = Finish("blue-tin", "#356d8f", roughness=0.28, clearcoat=0.4)
    steel = Finish("steel", "#c9cacc", roughness=0.25, metallic=1.0)
    eye = Finish("eye", "#f6c443", roughness=0.2, clearcoat=0.5)
    dark = Finish("dark", "#22262b", roughness=0.5)
    disc = lathe(
        resample(rounded([[0, 0, 0], [0.0095, 0, 0.001], [0.0095, 0.005, 0.002], [0, 0.0065, 0]]), 12), 32
    ).turned("x", 90)
    collar = lathe(
        resample(rounded([[0, 0, 0], [0.013, 0, 0.001], [0.013, 0.004, 0.001], [0, 0.004, 0]]), 11), 28
    ).turned("x", 90)
    parts = [
        Part(box((0.1, 0.082, 0.062), 0.007, arc=3, fine=1).moved((0, 0.1, 0)), red),
        Part(
            box((0.076, 0.057, 0.003), 0.0012, arc=3, fine=1).moved((0, 0.101, 0.0318)),
            Finish("chest-panel", print=textures.robot_chest, roughness=0.35, clearcoat=0.3),
        ),
        Part(box((0.07, 0.054, 0.055), 0.008, arc=3, fine=1).moved((0, 0.179, 0)), red),
        Part(
            lathe(
                resample(
                    rounded([[0, 0.138, 0], [0.018, 0.138, 0.001], [0.018, 0.155, 0.001], [0, 0.155, 0]]), 13
                ),
                32,
            ),
            steel,
        ),
        Part(box((0.036, 0.009, 0.006), 0.0025, arc=2, fine=0).moved((0, 0.164, 0.0275)), dark),
    ]
    for k in range(4):
        tooth = box((0.0035, 0.007, 0.003), 0.001, arc=2).moved((-0.0115 + 0.0077 * k, 0.164, 0.0302))
        parts += [Part(tooth, steel)]
    for sx in (-1, 1):
        parts += [
            Part(collar.moved((sx * 0.0165, 0.186, 0.026)), steel),
            Part(disc.moved((sx * 0.0165, 0.186, 0.0285)), eye),
            Part(
                lathe(
                    resample(
                        rounded([[0, 0, 0], [0.011, 0, 0.001], [0.011, 0.007, 0.002], [0, 0.007, 0]]), 11
                    ),
                    28,
                )
                .turned("z", -90 * sx)
                .moved((sx * 0.0335, 0.182, 0)),
                steel,
            ),
            Part(
                lathe(
                    resample(
                        rounded([[0, 0, 0], [0.015, 0, 0.002], [0.015, 0.011, 0.003], [0, 0.011, 0]]), 13
                    ),
                    32,
                )
                .turned("z", -90 * sx)
                .moved((sx * 0.049, 0.126, 0)),
                steel,
            ),
            Part(
                box((0.019, 0.075, 0.024), 0.005, arc=3, fine=0)
                .turned("z", 8 * sx)
                .moved((sx * 0.0695, 0.098, 0)),
                blue,
            ),
            Part(box((0.036, 0.05, 0.044), 0.005, arc=3, fine=0).moved((sx * 0.026, 0.036, 0)), blue),
            Part(box((0.043, 0.018, 0.068), 0.006, arc=3, fine=0).moved((sx * 0.026, 0.009, 0.008)), red),
        ]
        grip = smooth([[-0.009, 0.0, 0], [-0.0115, -0.012, 0], [-0.005, -0.021, 0]], 10)
        for side in (-1, 1):
            claw = sweep(grip * np.array([side, 1, 1]), 0.0026, flat=2.4, segments=10).moved(
                (sx * 0.0745, 0.062, 0)
            )
            parts.append(Part(claw, steel))
        parts.append(
            Part(
                sweep(np.linspace([sx * 0.022, 0.2, 0], [sx * 0.03, 0.232, 0], 6), 0.0014, segments=10), steel
            )
        )
        ball = np.stack(
            [0.0045 * np.sin(np.linspace(0, np.pi, 12)), -0.0045 * np.cos(np.linspace(0, np.pi, 12))], 1
        )
        parts.append(Part(lathe(np.maximum(ball, [[0, -1]]), 18).moved((sx * 0.0305, 0.236, 0)), eye))
    return Made("ROBOT-TIN-7", "Tin toy robot Robo-7", "toys", tuple(parts), View(24, 8), "png")
