"""Photos that vanish or change while the run is under way, and photos that never were any."""

import struct
import zlib

import pytest
from line_process import Plan, assert_consistent, assert_whole, finish, run, start, statuses, wait_until
from PIL import Image
from small_catalogs import draw_photo, write_catalog


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png():
    """A valid header that announces 2.5 gigapixels, and a few bytes that unpack to rows of zeros."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bad_photos_are_named_with_their_reason_and_good_products_finish(tmp_path):
    folder = tmp_path / "shop"
    bad = {
        "HUGE": ("huge.png", "50000 x 50000"),
        "CUT": ("cut.jpg", "JPEG"),
        "VECTOR": ("vector.png", "SVG"),
        "GHOST": ("ghost.png", "transparent"),
    }
    rows = [{"sku": sku, "image": image} for sku, (image, _) in bad.items()]
    catalog = write_catalog(folder, ["A", "B"], rows)
    (folder / "huge.png").write_bytes(huge_png())
    Image.effect_noise((300, 300), 80).convert("RGB").save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "vector.png").write_text('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')
    Image.new("RGBA", (200, 200), (0, 0, 0, 0)).save(folder / "ghost.png")

    home = tmp_path / "home"
    summary = run(Plan(str(home), str(catalog)))
    products = {product["sku"]: product for product in summary["products"]}
    assert {sku: product["status"] for sku, product in products.items()} == {
        "A": "generated",
        "B": "generated",
        **dict.fromkeys(bad, "failed"),
    }
    for sku, (_, reason) in bad.items():
        assert reason in products[sku]["error"], products[sku]["error"]
        assert "unexpected" not in products[sku]["error"]
    report = (home / "output" / "shop" / "report.html").read_text()
    assert all(sku in report for sku in products)
    assert_whole(home / "output")
    assert_consistent(home / "output", "A")


@pytest.mark.slow
def test_a_photo_that_vanishes_or_changes_in_the_middle_is_its_own_products_problem(tmp_path):
    folder = tmp_path / "shop"
    catalog = write_catalog(folder, ["A", "B", "C"])
    home, gate = tmp_path / "home", tmp_path / "go on"
    one_by_one = {"run": {"workers": 1, "in_flight": 1}}
    plan = Plan(str(home), str(catalog), wait_for=str(gate), sections=one_by_one)
    process = start(plan)
    wait_until((home / "asked.log").exists, "the first generation")
    # The catalog is loaded, A is with the generator, B and C have not been fetched yet.
    (folder / "B.png").unlink()
    before = (folder / "C.png").read_bytes()
    draw_photo(folder / "C.png", number=5)
    assert (folder / "C.png").read_bytes() != before
    gate.touch()
    summary = finish(process)
    assert statuses(summary) == {"A": "generated", "B": "failed", "C": "generated"}
    error = next(product["error"] for product in summary["products"] if product["sku"] == "B")
    assert "B.png does not exist" in error
    assert_consistent(home / "output", "A")
    assert_consistent(home / "output", "C")
    photo = home / "output" / "shop" / "products" / "C" / "photo.png"
    assert photo.read_bytes() == (folder / "C.png").read_bytes()

    draw_photo(folder / "B.png", number=1)
    assert statuses(run(plan)) == {"A": "cached", "B": "generated", "C": "cached"}
    assert_consistent(home / "output", "B")


@pytest.mark.slow
def test_a_photo_replaced_after_it_was_fetched_is_made_anew_by_the_next_run(tmp_path):
    folder = tmp_path / "shop"
    catalog = write_catalog(folder, ["A"])
    home, gate = tmp_path / "home", tmp_path / "go on"
    plan = Plan(str(home), str(catalog), wait_for=str(gate))
    process = start(plan)
    wait_until((home / "asked.log").exists, "the first generation")
    old = (folder / "A.png").read_bytes()
    draw_photo(folder / "A.png", number=4)
    gate.touch()
    assert statuses(finish(process)) == {"A": "generated"}
    photo = home / "output" / "shop" / "products" / "A" / "photo.png"
    assert photo.read_bytes() == old
    assert_consistent(home / "output", "A")
    assert statuses(run(plan)) == {"A": "generated"}
    assert photo.read_bytes() == (folder / "A.png").read_bytes()
    assert_consistent(home / "output", "A")
