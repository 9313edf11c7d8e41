"""How well each matte method cuts real cut-outs back out of backgrounds they were pasted on.

    python benchmarks/matting.py --images DIR [--sheet FILE.png]

DIR holds images with a true alpha channel. Each is composited at 1024 px on five backgrounds, stored as
JPEG (quality 90) as a shop would, and matted by every method. Printed: IoU against the true alpha (both
thresholded at 0.8, as TRELLIS.2 does), mean / worst over the images, and CPU seconds per photo.
The fusion rule's constants were chosen while looking at such a table, so it is no held-out measurement.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from trellis_pipeline.imagery.crop import SOLID_ALPHA
from trellis_pipeline.imagery.decode import DecodedImage
from trellis_pipeline.imagery.matte import u2netp
from trellis_pipeline.imagery.matte.choose import make_matte

SIDE = 1024
BACKGROUNDS = ("white", "soft shadow", "hard shadow", "grey gradient", "texture")


def cut_out(path: Path) -> np.ndarray:
    """The image centred on a transparent 1024 px square, (H, W, 4) float32."""
    image = Image.open(path).convert("RGBA")
    image.thumbnail((900, 900))
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(canvas, dtype=np.float32)


def backdrop(name: str, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Background (H, W, 3) float32 of the given kind; shadows lie under the object of (H, W) `alpha`."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    white = np.full((SIDE, SIDE, 3), 250, dtype=np.float32)
    if name == "white":
        return white
    if name.endswith("shadow"):
        rows, columns = np.nonzero(alpha > 0.8)
        centre, half = (columns.min() + columns.max()) / 2, (columns.max() - columns.min()) * 0.525
        reach = ((x - centre) / half) ** 2 + ((y - rows.max() + 10) / 60) ** 2
        dark = np.exp(-(reach**1.5)) if name.startswith("soft") else 1 / (1 + np.exp((reach - 1) * 25))
        return white * (1 - 0.55 * dark[..., None])
    if name == "grey gradient":
        return np.repeat((150 + 60 * y / SIDE + 20 * x / SIDE)[..., None], 3, 2) + rng.normal(
            0, 2, (SIDE, SIDE, 1)
        )
    coarse, fine = (
        cv2.resize(rng.normal(0, 1, (n, n)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        for n in (40, 200)
    )
    return np.array([188, 160, 130], dtype=np.float32) + (7 * coarse + 8 * fine)[..., None]


def photos(directory: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, background, photo (H, W, 3) uint8 and true mask (H, W) bool."""
    for path in sorted(p for p in directory.iterdir() if p.suffix.lower() in (".png", ".webp")):
        pixels = cut_out(path)
        alpha = pixels[..., 3] / 255
        if alpha.min() > 0.5:
            continue
        for name in BACKGROUNDS:
            behind = backdrop(name, alpha, np.random.default_rng(7))
            photo = pixels[..., :3] * alpha[..., None] + behind * (1 - alpha[..., None])
            buffer = io.BytesIO()
            Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            yield path.stem, name, np.asarray(Image.open(buffer).convert("RGB")), alpha > 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="write photo and cut-out of every case by the last method")
    arguments = parser.parse_args()
    methods = ["classical"] + (["u2netp", "auto"] if u2netp.is_installed() else [])
    scores: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    tiles = []
    for stem, background, photo, truth in photos(arguments.images):
        rgba = np.dstack([photo, np.full(photo.shape[:2], 255, dtype=np.uint8)])
        image = DecodedImage(rgba, False, "JPEG", "RGB", SIDE, SIDE)
        line = []
        for method in methods:
            started = time.process_time()
            matte = make_matte(image, method)
            seconds[method].append(time.process_time() - started)
            found = matte.alpha > (127 if method == "u2netp" else SOLID_ALPHA)  # its blurred map means 0.5
            scores.setdefault((method, background), []).append((found & truth).sum() / (found | truth).sum())
            line.append(f"{method} {scores[method, background][-1]:.3f}")
        print(f"{stem:24} {background:14} {'  '.join(line)}  agreement {matte.agreement}", flush=True)
        share = matte.alpha[..., None] / 255
        shown = np.hstack([photo, (photo * share + np.array([255, 0, 255]) * (1 - share)).astype(np.uint8)])
        tiles.append(cv2.resize(shown, (400, 200), interpolation=cv2.INTER_AREA))
    print(f"\n{'IoU mean / worst':18}" + "".join(f"{b:>17}" for b in BACKGROUNDS) + f"{'CPU s':>8}")
    for method in methods:
        cells = [f"{np.mean(scores[method, b]):.3f} / {np.min(scores[method, b]):.2f}" for b in BACKGROUNDS]
        # The first call also loads the network.
        print(f"{method:18}" + "".join(f"{c:>17}" for c in cells) + f"{np.mean(seconds[method][1:]):8.2f}")
    if arguments.sheet:
        rows = [np.hstack(tiles[i : i + len(BACKGROUNDS)]) for i in range(0, len(tiles), len(BACKGROUNDS))]
        Image.fromarray(np.vstack(rows)).save(arguments.sheet)


if __name__ == "__main__":
    main()
