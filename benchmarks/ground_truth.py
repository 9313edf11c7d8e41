"""Scores a generator's GLBs against the ground truth of a catalog whose true models are known.

    python benchmarks/ground_truth.py [--generator draft] [--sheet sheet.png]
    python benchmarks/ground_truth.py --models DIR        # DIR/<sku>.glb, from any generator

Three crude peers, a card, an extrusion and a balloon of the same cut-out, are scored in the same run, so that
a figure has something to be compared with.

Alignment, the same for everybody, without any fitting to the surface:

1. Frame. A model stands either as the camera saw it (`camera`: its +Z points at the viewer of the photo, as
   reconstruction from one view has it) or upright with the product's own front at +Z (`object`).
   `--frame auto` scores a method in both, keeps the one whose mean F-score over all products is higher, and
   says which.
2. The centres of the axis-aligned bounding boxes coincide.
3. One uniform scale makes the diagonals of the boxes' front sides (x, y) equal: the photo pins those, depth
   is what is being judged. Lengths are then in units of the true model's longest side.

The outline in the photo is compared after its own bounding box has been centred and scaled likewise: the true
alpha against the model, in true perspective if the frame is `object` and straight on if it is `camera`. It
asks for a view, not for a place, so `auto` chooses its frame apart from that of the other figures.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import baselines
import numpy as np
from PIL import Image
from shape_scores import (
    GRID,
    NOVEL_VIEWS,
    Bool,
    Float,
    Shape,
    fitted,
    iou,
    occupied,
    outline,
    seen_from,
    skin_samples,
    surface_scores,
)

from trellis_pipeline.errors import TrellisError
from trellis_pipeline.mesh.glb_read import parse_glb, read_primitives

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("input_iou", "novel_iou", "chamfer", "f_score", "volume_iou", "colour_error")
SMALLER_IS_BETTER = ("chamfer", "colour_error")


@dataclass(frozen=True, slots=True)
class Case:
    """One product with its truth. alpha: the photo's true alpha. cut_out: the line's crop, RGBA PNG."""

    sku: str
    photo: bytes
    cut_out: bytes
    dimensions: dict[str, float]
    glb: bytes
    truth: Shape
    alpha: Bool
    eye: Float
    axes: Float
    fov: float


@dataclass(frozen=True, slots=True)
class Score:
    """One model's figures. Chamfer in longest sides of the truth; colour_error is a mean CIE76 difference."""

    input_iou: float
    novel_iou: float
    chamfer: float
    f_score: float
    volume_iou: float
    colour_error: float | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The truth in one frame, measured once for all methods."""

    shape: Shape
    half: float
    inside: Bool
    samples: Float
    views: list[Bool]
    front_diagonal: float


def shape_of(glb: bytes) -> Shape:
    """Every triangle of a GLB's scene as one shape."""
    points, triangles, start = [], [], 0
    for primitive in read_primitives(parse_glb(glb)):
        points.append(primitive.positions.astype(np.float64))
        triangles.append(primitive.triangles + start)
        start += len(primitive.positions)
    return Shape(np.vstack(points), np.vstack(triangles).astype(np.int32))


def read_cases(catalog: Path, only: Sequence[str]) -> list[Case]:
    """The products with truth/<sku>.glb, .json and .mask.png; the cut-outs come from the line's own code."""
    from trellis_pipeline.imagery.make_crop import CropOptions, make_crop

    cases = []
    with (catalog / "catalog.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if only and row["sku"] not in only:
                continue
            stem = catalog / "truth" / row["sku"]
            camera = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            photo = (catalog / row["image"]).read_bytes()
            glb = stem.with_suffix(".glb").read_bytes()
            to_world = np.array(camera["camera_to_world"])
            cases.append(
                Case(
                    sku=row["sku"],
                    photo=photo,
                    cut_out=make_crop(photo, CropOptions()).png,
                    dimensions={k: float(row[k]) for k in ("width_m", "height_m", "depth_m")},
                    glb=glb,
                    truth=shape_of(glb),
                    alpha=np.asarray(Image.open(f"{stem}.mask.png")) >= 128,
                    eye=to_world[:3, 3],
                    axes=to_world[:3, :3].T,
                    fov=float(camera["fov_degrees"]),
                )
            )
    return cases


def prepare(case: Case, frame: str) -> Prepared:
    """The truth turned into the frame, its longest side 1, its box centred."""
    turn = case.axes if frame == "camera" else np.eye(3)
    turned = case.truth.used() @ turn.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    size = high - low
    shape = case.truth.placed(turn, (low + high) / 2, 1 / size.max())
    half = 0.75
    inside = occupied(shape, half)
    return Prepared(
        shape,
        half,
        inside,
        skin_samples(shape, inside, half),
        outlines(shape),
        float(np.linalg.norm(size[:2]) / size.max()),
    )


def outlines(shape: Shape) -> list[Bool]:
    """The four novel silhouettes."""
    return [outline(seen_from(shape.points, *view) / 1.1, shape.triangles, 256) for view in NOVEL_VIEWS]


def score(case: Case, truth: Prepared, model: Shape, frame: str) -> Score:
    """All geometric figures of one model in one frame."""
    points = model.used()
    low, high = points.min(axis=0), points.max(axis=0)
    scale = truth.front_diagonal / float(np.linalg.norm((high - low)[:2]))
    placed = model.placed(np.eye(3), (low + high) / 2, scale)
    inside = occupied(placed, truth.half)
    samples = skin_samples(placed, inside, truth.half)
    chamfer, f_score = surface_scores(truth.samples, samples)
    if frame == "camera":
        flat = placed.points[:, :2] / 1.3
    else:
        metres = case.truth.used()
        centre, longest = (metres.min(0) + metres.max(0)) / 2, float(np.ptp(metres, axis=0).max())
        seen = (placed.points * longest + centre - case.eye) @ case.axes.T
        flat = seen[:, :2] / -seen[:, 2:] / np.tan(np.radians(case.fov / 2))
    return Score(
        input_iou=iou(fitted(case.alpha), fitted(outline(flat, placed.triangles, 1024))),
        novel_iou=float(np.mean([iou(a, b) for a, b in zip(truth.views, outlines(placed), strict=True)])),
        chamfer=chamfer,
        f_score=f_score,
        volume_iou=iou(truth.inside, inside),
    )


def colour_error(case: Case, glb: bytes) -> float:
    """Mean CIE76 difference between the photo's product and the model's rendered front, where both cover."""
    import cv2

    from trellis_pipeline.mesh.render import render_views

    def lab(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        solid = rgba[..., 3] > 127
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        tight = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        small = cv2.resize(tight, (96, 96), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small[..., :3].astype(np.float32) / 255, cv2.COLOR_RGB2Lab), small[..., 3] > 200

    photo, a = lab(np.asarray(Image.open(io.BytesIO(case.cut_out)).convert("RGBA")))
    front, b = lab(render_views(glb, ("front",), 256)[0])
    both = a & b
    return float(np.linalg.norm(photo - front, axis=2)[both].mean()) if both.any() else float("nan")


def generators(args: argparse.Namespace) -> Callable[[Case], bytes]:
    """What makes the GLB of a case: files from a folder, or the named generator."""
    if args.models is not None:
        return lambda case: (args.models / f"{case.sku}.glb").read_bytes()
    if args.generator != "draft":
        raise SystemExit(f"generator {args.generator!r} cannot run here; save its GLBs and give --models DIR")
    from trellis_pipeline.generation.draft.build import build_draft
    from trellis_pipeline.generation.draft.model import DraftOptions

    def draft(case: Case) -> bytes:
        known = case.dimensions if args.dimensions else {}
        return build_draft(case.cut_out, DraftOptions(texture_px=1024, **known), {}).glb

    return draft


def peers(case: Case) -> dict[str, Shape]:
    """The baselines' models of one cut-out."""
    alpha = Image.open(io.BytesIO(case.cut_out)).convert("RGBA").getchannel("A")
    mask = np.asarray(alpha.resize((baselines.PX, baselines.PX), Image.Resampling.BOX)) >= 128
    return {
        "slab": baselines.slab(mask),
        "extrusion": baselines.extrusion(mask),
        "poisson": baselines.poisson(mask),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", default="draft")
    parser.add_argument("--models", type=Path, help="folder of <sku>.glb instead of a generator")
    parser.add_argument("--catalog", type=Path, default=ROOT / "catalogs" / "demo")
    parser.add_argument("--frame", choices=("auto", "camera", "object"), default="auto")
    parser.add_argument(
        "--dimensions", action="store_true", help="tell the draft generator the catalog's dimensions"
    )
    parser.add_argument("--only", action="append", default=[], help="a SKU; may be repeated")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="write all figures")
    args = parser.parse_args()

    began = time.perf_counter()
    make = generators(args)
    name = "models" if args.models is not None else args.generator
    frames = ("camera", "object") if args.frame == "auto" else (args.frame,)
    results: dict[str, dict[str, dict[str, Score]]] = {}
    glbs: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    cases = read_cases(args.catalog, args.only)
    for case in cases:
        truths = {frame: prepare(case, frame) for frame in frames}
        models = dict(peers(case))
        error: float | None = None
        try:
            glbs[case.sku] = make(case)
            models[name] = shape_of(glbs[case.sku])
            error = colour_error(case, glbs[case.sku])
        except (TrellisError, OSError) as problem:
            failed[case.sku] = str(problem)
        for method, model in models.items():
            for frame in frames:
                found = score(case, truths[frame], model, frame)
                if method == name:
                    found = Score(*(getattr(found, m) for m in METRICS[:-1]), colour_error=error)
                results.setdefault(method, {}).setdefault(frame, {})[case.sku] = found
    chosen = {method: best_frame(by_frame, "f_score") for method, by_frame in results.items()}
    for method, by_frame in results.items():
        seen = by_frame[best_frame(by_frame, "input_iou")]
        scores = by_frame[chosen[method]]
        by_frame[chosen[method]] = {
            sku: replace(found, input_iou=seen[sku].input_iou) for sku, found in scores.items()
        }
    report(results, chosen, name, failed)
    print(f"{len(cases)} products, grid {GRID}^3, {time.perf_counter() - began:.0f} s")
    if args.json is not None:
        record = {
            m: {f: {s: asdict(v) for s, v in d.items()} for f, d in by.items()} for m, by in results.items()
        }
        args.json.write_text(
            json.dumps({"frame": chosen, "failed": failed, "scores": record}, indent=1) + "\n"
        )
    if args.sheet is not None:
        contact_sheet(cases, glbs, args.sheet)


def best_frame(by_frame: dict[str, dict[str, Score]], metric: str) -> str:
    """The frame in which the mean of a metric, larger being better, is highest."""
    return max(by_frame, key=lambda f: float(np.mean([getattr(s, metric) for s in by_frame[f].values()])))


def report(
    results: dict[str, dict[str, dict[str, Score]]], chosen: dict[str, str], name: str, failed: dict[str, str]
) -> None:
    """The table: every product of the method under test, then mean and worst of all methods."""
    heads = ("in-view IoU", "novel IoU", "Chamfer", "F@3%", "vol IoU", "colour dE")

    def line(label: str, values: Sequence[float | None]) -> str:
        cells = ["-" if v is None or np.isnan(v) else f"{v:.1f}" if v > 2 else f"{v:.3f}" for v in values]
        return f"{label:34s}" + "".join(f"{cell:>13s}" for cell in cells)

    print(f"{'':34s}" + "".join(f"{head:>13s}" for head in heads))
    if name in results:
        for sku, found in results[name][chosen[name]].items():
            print(line(sku, [getattr(found, m) for m in METRICS]))
    for sku, reason in failed.items():
        print(f"{sku:34s}  failed: {reason}")
    print()
    for method, by_frame in results.items():
        scores = list(by_frame[chosen[method]].values())
        columns = {m: [v for s in scores if (v := getattr(s, m)) is not None] for m in METRICS}
        label = f"{method} ({chosen[method]} frame)"
        print(line(f"{label} mean", [float(np.mean(columns[m])) if columns[m] else None for m in METRICS]))
        worst = [
            None if not columns[m] else max(columns[m]) if m in SMALLER_IS_BETTER else min(columns[m])
            for m in METRICS
        ]
        print(line(f"{label} worst", worst))


def contact_sheet(cases: list[Case], glbs: dict[str, bytes], path: Path, px: int = 224) -> None:
    """A row a product: photo, truth from three quarters, then the model from three sides."""
    from trellis_pipeline.mesh.render import render_views
    from trellis_pipeline.review import contact_sheet as sheets

    white = (255, 255, 255)
    rows = []
    for case in cases:
        pictures = [case.photo, *render_views(case.glb, ("three_quarter",), px, background=white)]
        if case.sku in glbs:
            pictures += render_views(glbs[case.sku], ("front", "three_quarter", "back"), px, background=white)
        rows.append(sheets.SheetRow(case.sku, tuple(pictures)))
    columns = ("photo", "ground truth", "model, front", "three quarters", "back")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sheets.contact_sheet(rows, cell_px=px, columns=columns))


if __name__ == "__main__":
    main()
