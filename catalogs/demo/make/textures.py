"""What is printed, woven, grown or glazed: images drawn with Pillow and numpy, all from fixed seeds.

The lettering is Pillow's built-in typeface (Aileron, CC0), so nothing here depends on the fonts of a machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Float = npt.NDArray[np.float64]
Colour = tuple[int, int, int]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def noise(
    height: int, width: int, cells: int, seed: int, *, cells_x: int | None = None, octaves: int = 4
) -> Float:
    """Tileable value noise in 0..1, (height, width): `cells` waves down, `cells_x` across, in octaves."""
    rng = np.random.default_rng(seed)
    total, weight = np.zeros((height, width)), 0.0
    across = cells if cells_x is None else cells_x
    for k in range(octaves):
        n, m = cells * 2**k, across * 2**k
        if n > height or m > width:
            break
        grid = rng.random((n, m))
        y = np.arange(height) / height * n
        x = np.arange(width) / width * m
        iy, ix = y.astype(int), x.astype(int)
        fy, fx = (f * f * (3 - 2 * f) for f in (y - iy, x - ix))
        top = grid[iy][:, ix] * (1 - fx) + grid[iy][:, (ix + 1) % m] * fx
        low = grid[(iy + 1) % n][:, ix] * (1 - fx) + grid[(iy + 1) % n][:, (ix + 1) % m] * fx
        total += (top * (1 - fy[:, None]) + low * fy[:, None]) * 0.5**k
        weight += 0.5**k
    total /= weight
    return (total - total.min()) / (total.max() - total.min())


def _blend(amount: Float, low: Colour, high: Colour) -> Float:
    return np.asarray(low) + amount[..., None] * (np.asarray(high, dtype=np.float64) - np.asarray(low))


def _image(values: Float) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), "RGB")


def stoneware() -> Image.Image:
    """A speckled oatmeal glaze above a bare clay foot (v = 1), for a vessel turned on a lathe."""
    h = w = 1024
    base = _blend(noise(h, w, 5, 1), (212, 202, 182), (230, 222, 206))
    rng = np.random.default_rng(2)
    specks = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(specks)
    for _ in range(1700):
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), rng.gamma(1.6, 0.75) + 0.7
        draw.ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(120, 235)))
    spots = np.asarray(specks.filter(ImageFilter.GaussianBlur(0.9)), dtype=np.float64)[..., None] / 255
    base = base * (1 - spots) + np.array([112, 88, 66]) * spots
    edge = 0.785 + 0.012 * (noise(1, w, 1, 4, cells_x=6)[0] - 0.5)
    v = (np.arange(h)[:, None] + 0.5) / h
    clay = _blend(noise(h, w, 64, 5), (150, 104, 74), (172, 122, 88))
    seam = np.exp(-(((v - edge) / 0.006) ** 2))[..., None]
    out = np.where((v > edge)[..., None], clay, base)
    return _image(out * (1 - 0.35 * seam) + np.array([120, 82, 56]) * 0.35 * seam)


def oak(seed: int = 11) -> Image.Image:
    """Oak with its grain running down the image."""
    h, w = 512, 512
    bend = 0.05 * noise(h, w, 2, seed, octaves=2)
    x = np.arange(w)[None] / w + bend
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (9 * x + 2.5 * noise(h, w, 1, seed + 1, cells_x=4, octaves=2)))
    pores = noise(h, w, 6, seed + 2, cells_x=128, octaves=2)
    tone = (
        0.5 * rings**1.5
        + 0.25 * noise(h, w, 3, seed + 3, cells_x=48, octaves=3)
        + 0.25 * noise(h, w, 2, seed + 4)
    )
    out = _blend(np.clip(tone, 0, 1), (214, 171, 120), (176, 127, 79))
    return _image(out * (1 - 0.16 * np.clip((pores - 0.62) * 5, 0, 1))[..., None])


def shampoo_label() -> Image.Image:
    """A paper label that goes once around the bottle; the middle faces the viewer."""
    w, h = 1200, 500
    image = Image.new("RGB", (w, h), (240, 235, 222))
    draw = ImageDraw.Draw(image)
    green, clay = (46, 74, 58), (186, 112, 78)
    draw.rectangle((0, 0, w, 26), fill=green)
    draw.rectangle((0, h - 26, w, h), fill=green)
    cx = w // 2
    for side in (-1, 1):
        for k in range(7):
            x, y = cx + side * (18 + 4 * k), 176 - 17 * k
            draw.ellipse((x - 17 + side * 12, y - 7, x + 17 + side * 12, y + 7), fill=green)
    draw.line((cx, 60, cx, 196), fill=green, width=5)
    draw.text((cx, 246), "ROSEMARY", font=_font(62), fill=green, anchor="mm")
    draw.text((cx, 302), "& SEA SALT", font=_font(34), fill=clay, anchor="mm")
    draw.line((cx - 130, 336, cx + 130, 336), fill=clay, width=3)
    draw.text((cx, 368), "daily shampoo", font=_font(30), fill=green, anchor="mm")
    draw.text((cx, 424), "400 ml  ·  13.5 fl oz", font=_font(24), fill=green, anchor="mm")
    for k, line in enumerate(
        (
            "Massage into wet hair,",
            "rinse well. Made with",
            "rosemary leaf water and",
            "coastal sea salt.",
            "Keep away from eyes.",
        )
    ):
        draw.text((40, 90 + 34 * k), line, font=_font(24), fill=green)
    rng = np.random.default_rng(5)
    x = w - 220
    while x < w - 50:
        wide = int(rng.integers(2, 7))
        draw.rectangle((x, 300, x + wide, 420), fill=(20, 20, 20))
        x += wide + int(rng.integers(2, 7))
    return image


def tea_carton() -> Image.Image:
    """Six panels in the 3 x 2 atlas of `shapes.box(cells=True)`: +x, -x, +y / -y, +z, -z."""
    s = 512
    image = Image.new("RGB", (3 * s, 2 * s), (196, 84, 52))
    draw = ImageDraw.Draw(image)
    cream, red, dark, gold = (246, 236, 214), (196, 84, 52), (74, 34, 28), (226, 172, 84)

    def panel(column: int, row: int) -> tuple[int, int]:
        return column * s, row * s

    x, y = panel(1, 1)  # +z, the front; 0.58 as wide as it is high, so shapes are drawn flat and wide
    draw.rectangle((x, y, x + s, y + s), fill=red)
    draw.ellipse((x + 96, y + 40, x + 416, y + 226), fill=gold)
    draw.polygon(
        [
            (x, y + 236),
            (x + 150, y + 120),
            (x + 270, y + 215),
            (x + 370, y + 150),
            (x + s, y + 240),
            (x + s, y + 268),
            (x, y + 268),
        ],
        fill=dark,
    )
    draw.rectangle((x, y + 262, x + s, y + 430), fill=cream)
    draw.text((x + s // 2, y + 312), "HIGHLAND", font=_font(86), fill=dark, anchor="mm")
    draw.text((x + s // 2, y + 368), "BLACK TEA", font=_font(48), fill=red, anchor="mm")
    draw.text((x + s // 2, y + 408), "whole leaf · single estate", font=_font(28), fill=dark, anchor="mm")
    draw.text((x + s // 2, y + 466), "20 pyramid bags  50 g", font=_font(34), fill=cream, anchor="mm")
    image.paste(image.crop((x, y, x + s, y + s)), panel(2, 1))
    for column in (0, 1):  # the sides
        x, y = panel(column, 0)
        draw.rectangle((x, y, x + s, y + s), fill=dark)
        draw.rectangle((x, y + 262, x + s, y + 430), fill=cream)
        draw.text((x + s // 2, y + 70), "BREW", font=_font(70), fill=gold, anchor="mm")
        for k, line in enumerate(("one bag a cup", "water at 95 °C", "four minutes")):
            draw.text((x + s // 2, y + 132 + 42 * k), line, font=_font(40), fill=cream, anchor="mm")
        draw.text((x + 24, y + 280), "NUTRITION per 200 ml", font=_font(36), fill=dark)
        for k, line in enumerate(("Energy  4 kJ / 1 kcal", "Fat  0 g", "Sugars  0 g")):
            draw.text((x + 24, y + 326 + 32 * k), line, font=_font(30), fill=dark)
        draw.rectangle((x + 80, y + 446, x + s - 80, y + 496), fill=(255, 255, 255))
        rng = np.random.default_rng(column)
        at = x + 96
        while at < x + s - 100:
            wide = int(rng.integers(3, 9))
            draw.rectangle((at, y + 452, at + wide, y + 490), fill=(20, 20, 20))
            at += wide + int(rng.integers(3, 9))
    x, y = panel(2, 0)  # the lid
    draw.rectangle((x, y, x + s, y + s), fill=red)
    draw.rectangle((x + 40, y + 40, x + s - 40, y + s - 40), outline=gold, width=8)
    draw.text((x + s // 2, y + 220), "HIGHLAND", font=_font(80), fill=cream, anchor="mm")
    draw.text((x + s // 2, y + 300), "press here to open", font=_font(34), fill=gold, anchor="mm")
    draw.arc((x + 190, y + 330, x + 322, y + 430), 0, 180, fill=gold, width=6)
    return image


def robot_chest() -> Image.Image:
    """The control panel on the toy's chest."""
    image = Image.new("RGB", (512, 384), (238, 232, 214))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((10, 10, 502, 374), 28, outline=(40, 52, 66), width=8)
    for k, (cx, colour) in enumerate(((120, (214, 64, 48)), (256, (240, 178, 52)), (392, (58, 128, 168)))):
        draw.ellipse((cx - 56, 50, cx + 56, 162), fill=(40, 52, 66))
        draw.ellipse((cx - 47, 59, cx + 47, 153), fill=(252, 250, 244))
        angle = np.radians(-150 + 55 * k)
        draw.line((cx, 106, cx + 38 * np.cos(angle), 106 + 38 * np.sin(angle)), fill=colour, width=8)
        draw.ellipse((cx - 8, 98, cx + 8, 114), fill=(40, 52, 66))
    for k in range(5):
        draw.rounded_rectangle(
            (60 + 82 * k, 200, 116 + 82 * k, 236), 8, fill=[(214, 64, 48), (240, 178, 52)][k % 2]
        )
    draw.text((256, 306), "ROBO-7", font=_font(84), fill=(40, 52, 66), anchor="mm")
    return image


def rose_holes() -> Image.Image:
    """The sprinkler plate: rings of holes around the centre of the image."""
    image = Image.new("RGB", (256, 256), (196, 150, 82))
    draw = ImageDraw.Draw(image)
    for ring in range(5):
        count = max(1, 6 * ring)
        for k in range(count):
            a = 2 * np.pi * k / count
            x, y = 128 + 23 * ring * np.cos(a), 128 + 23 * ring * np.sin(a)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(52, 38, 20))
    return image


def weave(size: int = 256) -> Float:
    """Heights 0..1 of one tile of a plain weave, 16 x 16 threads."""
    y, x = np.mgrid[0:size, 0:size] / size * 16 * np.pi
    over = np.sign(np.sin(x) * np.sin(y))
    h = np.where(over > 0, np.abs(np.sin(x)) ** 0.6, np.abs(np.sin(y)) ** 0.6)
    return np.asarray(0.8 * h + 0.2 * noise(size, size, 8, 21))


def brushed(size: int = 256) -> Float:
    """Heights 0..1 of fine scratches that run along u."""
    return noise(size, size, 128, 22, cells_x=2, octaves=1)


def grainy(size: int = 256) -> Float:
    """Heights 0..1 of an even, fine leather or powder-coat grain."""
    return noise(size, size, 48, 23, octaves=2)


def linen(size: int = 256) -> Float:
    """Heights 0..1 of slubby linen."""
    a = noise(size, size, 64, 24, cells_x=6, octaves=2)
    b = noise(size, size, 6, 25, cells_x=64, octaves=2)
    return np.asarray(np.maximum(a, b))
