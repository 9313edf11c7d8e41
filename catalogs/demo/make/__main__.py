"""Writes catalogs/demo: `python -m catalogs.demo.make [--only SKU] [--samples 16] [--no-photos]`.

Models, cameras, masks and catalog.csv need only numpy, scipy and Pillow. The photos need Mitsuba 3
(BSD-3-Clause, in the `dev` extra); it is fastest with LLVM 16 or newer, whose library DRJIT_LIBLLVM_PATH may
name.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from .camera import place
from .develop import clean, encode, expose, silhouette
from .glb import glb_bytes
from .parts import Made
from .products import all_products

FOLDER = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m catalogs.demo.make", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a SKU; may be repeated")
    parser.add_argument("--samples", type=int, default=16, help="paths per pixel")
    parser.add_argument("--size", type=int, default=1024, help="pixels per side")
    parser.add_argument(
        "--no-photos", action="store_true", help="models, cameras, masks and catalog.csv only"
    )
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    products = all_products()
    for folder in ("images", "truth"):
        (args.output / folder).mkdir(parents=True, exist_ok=True)
    write_catalog(products, args.output)
    for made in products:
        if args.only and made.sku not in args.only:
            continue
        began = time.perf_counter()
        alpha = write_truth(made, args.output, args.size)
        if not args.no_photos:
            from .render import photograph

            linear = clean(photograph(made, alpha, samples=args.samples), alpha)
            strip = slice(-args.size // 10, None)
            picture = expose(linear, float(np.median(linear[strip][alpha[strip] == 0])))
            (args.output / photo_path(made)).write_bytes(encode(picture, alpha, made.photo))
        print(f"{made.sku:24s} {time.perf_counter() - began:6.1f} s", flush=True)


def photo_path(made: Made) -> str:
    """Where the photo lies, relative to the catalog."""
    return f"images/{made.sku}.{made.photo}"


def write_catalog(products: tuple[Made, ...], output: Path) -> None:
    """catalog.csv: one row a product, dimensions in metres from the models themselves."""
    with (output / "catalog.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sku", "title", "category", "image", "width_m", "height_m", "depth_m"])
        for made in products:
            low, high = made.bounds()
            rows.writerow(
                [made.sku, made.title, made.category, photo_path(made), *(f"{x:.3f}" for x in high - low)]
            )


def write_truth(made: Made, output: Path, size: int) -> np.ndarray:
    """The model, its camera and the true alpha of its photo. Returns the alpha, (size, size) uint8."""
    camera = place(made)
    (output / "truth" / f"{made.sku}.glb").write_bytes(glb_bytes(made))
    record = {
        "sku": made.sku,
        "image": photo_path(made),
        "width": size,
        "height": size,
        "fov_degrees": camera.fov,
        "azimuth_degrees": made.view.azimuth,
        "elevation_degrees": made.view.elevation,
        "eye_m": np.round(camera.eye, 6).tolist(),
        "target_m": np.round(camera.target, 6).tolist(),
        "camera_to_world": np.round(camera.camera_to_world(), 6).tolist(),
    }
    (output / "truth" / f"{made.sku}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    alpha = silhouette(made, camera, size)
    Image.fromarray(alpha, "L").save(output / "truth" / f"{made.sku}.mask.png", optimize=True)
    return alpha


if __name__ == "__main__":
    main()
