"""The bundled catalog is what its README says: complete, small, decodable, its true models closed."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trellis_pipeline.catalog.readers import load_catalog
from trellis_pipeline.imagery.decode import decode_image
from trellis_pipeline.mesh.glb_read import Primitive, parse_glb, read_primitives

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "catalogs" / "demo"
ROWS = list(csv.DictReader((DEMO / "catalog.csv").read_text(encoding="utf-8").splitlines()))
SKUS = [row["sku"] for row in ROWS]
KINDS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@pytest.fixture(scope="module")
def made():
    """The products as the maker's scripts build them now, by SKU."""
    sys.path.insert(0, str(ROOT))
    try:
        from catalogs.demo.make.products import all_products
    finally:
        sys.path.remove(str(ROOT))
    return {product.sku: product for product in all_products()}


def truth_primitives(sku: str) -> tuple[Primitive, ...]:
    return read_primitives(parse_glb((DEMO / "truth" / f"{sku}.glb").read_bytes()))


def welded(primitive: Primitive) -> tuple[np.ndarray, np.ndarray]:
    points, index = np.unique(primitive.positions, axis=0, return_inverse=True)
    return points.astype(np.float64), index.reshape(-1)[primitive.triangles]


def test_there_are_twelve_products_of_many_categories() -> None:
    assert len(set(SKUS)) == len(ROWS) == 12
    assert len({row["category"] for row in ROWS}) >= 8
    assert all(row["title"] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=SKUS)
def test_every_photo_is_a_whole_1024_px_picture_in_the_format_its_name_says(row: dict[str, str]) -> None:
    path = DEMO / row["image"]
    with Image.open(path) as photo:
        photo.load()
        assert photo.format == KINDS[path.suffix]
        assert photo.size == (1024, 1024)
        assert photo.mode == ("RGBA" if path.suffix == ".png" else "RGB")
    assert path.stat().st_size < (1_000_000 if path.suffix == ".png" else 250_000)


@pytest.mark.parametrize("row", ROWS, ids=SKUS)
def test_every_photo_is_well_lit_on_a_light_unclipped_background(row: dict[str, str]) -> None:
    photo = np.asarray(Image.open(DEMO / row["image"]).convert("RGB")).astype(float)
    mask = np.asarray(Image.open(DEMO / "truth" / f"{row['sku']}.mask.png"))
    if not row["image"].endswith(".png"):
        paper = photo[mask == 0]
        assert np.percentile(paper, 5) > 195
        assert (paper.min(axis=1) >= 254).mean() < 0.01
    product = photo[mask == 255]
    assert (product.min(axis=1) >= 254).mean() < 0.02
    assert 20 < product.mean() < 235


def test_the_photos_cover_every_format_the_line_reads() -> None:
    assert {Path(row["image"]).suffix for row in ROWS} == set(KINDS)


def test_the_photo_with_alpha_carries_the_true_alpha() -> None:
    row = next(row for row in ROWS if row["image"].endswith(".png"))
    alpha = np.asarray(Image.open(DEMO / row["image"]))[..., 3]
    assert (alpha == np.asarray(Image.open(DEMO / "truth" / f"{row['sku']}.mask.png"))).all()


@pytest.mark.parametrize("sku", SKUS)
def test_every_part_of_a_true_model_is_closed_and_faces_outwards(sku: str) -> None:
    for number, primitive in enumerate(truth_primitives(sku)):
        points, t = welded(primitive)
        edges = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
        forward, there = np.unique(edges, axis=0, return_counts=True)
        backward, back = np.unique(edges[:, ::-1], axis=0, return_counts=True)
        assert forward.shape == backward.shape, f"part {number} has a hole"
        assert (forward == backward).all(), f"part {number} has a hole"
        assert (there == back).all(), f"part {number} is folded"
        corners = points[t]
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0, f"part {number} is inside out"


@pytest.mark.parametrize("row", ROWS, ids=SKUS)
def test_true_models_have_the_catalogs_dimensions_and_stand_on_the_ground(row: dict[str, str]) -> None:
    points = np.vstack([primitive.positions for primitive in truth_primitives(row["sku"])])
    low, high = points.min(axis=0), points.max(axis=0)
    assert high - low == pytest.approx([float(row[k]) for k in ("width_m", "height_m", "depth_m")], abs=6e-4)
    assert [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("sku", SKUS)
def test_the_camera_sees_the_model_where_the_mask_has_it(sku: str) -> None:
    camera = json.loads((DEMO / "truth" / f"{sku}.json").read_text(encoding="utf-8"))
    mask = np.asarray(Image.open(DEMO / "truth" / f"{sku}.mask.png"))
    assert mask.shape == (camera["height"], camera["width"]) == (1024, 1024)
    to_camera = np.linalg.inv(np.array(camera["camera_to_world"]))
    points = np.vstack([primitive.positions for primitive in truth_primitives(sku)])
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    flat = seen[:, :2] / -seen[:, 2:] / np.tan(np.radians(camera["fov_degrees"] / 2))
    pixels = np.stack([flat[:, 0] + 1, 1 - flat[:, 1]], 1) * 512
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert pixels.min(axis=0) == pytest.approx([columns[0], rows[0]], abs=1.5)
    assert pixels.max(axis=0) == pytest.approx([columns[-1] + 1, rows[-1] + 1], abs=1.5)


@pytest.mark.parametrize("sku", SKUS)
def test_the_scripts_still_make_the_committed_models(sku: str, made) -> None:
    # Geometry to a hundredth of a millimetre, not bytes: sines and JPEGs differ in their last bit.
    product = made[sku]
    committed = truth_primitives(sku)
    assert len(product.parts) == len(committed)
    for part, primitive in zip(product.parts, committed, strict=True):
        corners = part.surface.points[part.surface.triangles]
        assert primitive.positions[primitive.triangles] == pytest.approx(corners, abs=1e-5)


def test_the_scripts_write_the_committed_catalog_camera_and_mask(tmp_path: Path, made) -> None:
    from catalogs.demo.make.__main__ import write_catalog, write_truth

    (tmp_path / "truth").mkdir()
    write_catalog(tuple(made.values()), tmp_path)
    assert (tmp_path / "catalog.csv").read_text() == (DEMO / "catalog.csv").read_text()
    alpha = write_truth(made[SKUS[0]], tmp_path, 1024)
    committed = np.asarray(Image.open(DEMO / "truth" / f"{SKUS[0]}.mask.png"))
    assert np.abs(alpha.astype(int) - committed).mean() < 0.05
    now = json.loads((tmp_path / "truth" / f"{SKUS[0]}.json").read_text())
    before = json.loads((DEMO / "truth" / f"{SKUS[0]}.json").read_text())
    assert now["image"] == before["image"]
    assert now["eye_m"] == pytest.approx(before["eye_m"], abs=1e-5)


def test_model_textures_are_small_and_decode() -> None:
    for sku in SKUS:
        path = DEMO / "truth" / f"{sku}.glb"
        assert path.stat().st_size < 400_000
        container = parse_glb(path.read_bytes())
        for image in container.document.get("images", []):
            view = container.document["bufferViews"][image["bufferView"]]
            data = bytes(container.binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                assert max(picture.size) <= 512


def test_the_folder_is_small_and_says_that_it_is_free() -> None:
    assert "CC0 1.0 Universal" in (DEMO / "LICENSE").read_text(encoding="utf-8")
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_the_line_reads_every_row() -> None:
    loaded = load_catalog(str(DEMO / "catalog.csv"))
    assert not loaded.problems
    assert [product.sku for product in loaded.products] == SKUS
    for product in loaded.products:
        picture = decode_image(Path(product.image).read_bytes(), max_pixels=64_000_000)
        assert picture.rgba.shape == (1024, 1024, 4)
        assert picture.has_alpha == product.image.endswith(".png")
