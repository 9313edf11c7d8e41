"""Snapshots keep a catalog whole, and their difference is exactly what has to be done."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis_pipeline.catalog.columns import SETTING_TYPES
from trellis_pipeline.catalog.diff import CatalogDiff, ChangedProduct, diff_snapshots
from trellis_pipeline.catalog.image_state import image_states, last_known, local_image_state
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.catalog.readers import load_catalog
from trellis_pipeline.catalog.snapshot import (
    Snapshot,
    encode_snapshot,
    products_from_parquet,
    skus_from_parquet,
    snapshot_from_parquet,
    snapshot_to_parquet,
    take_snapshot,
)
from trellis_pipeline.errors import BlobMissing, CatalogError, SourceImageError, StorageUnavailable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LENGTH = st.none() | st.floats(min_value=1e-4, max_value=100)
VALUES = {int: st.integers(-(2**64), 2**64), float: st.floats(allow_nan=False), bool: st.booleans()}
SETTINGS = st.fixed_dictionaries({}, optional={path: VALUES[kind] for path, kind in SETTING_TYPES.items()})
STATE = st.sampled_from(["", "1:2", "3:4", "missing"])


PRODUCTS = st.builds(
    Product,
    sku=TEXT,
    image=TEXT,
    title=TEXT,
    category=TEXT,
    width_m=LENGTH,
    height_m=LENGTH,
    depth_m=LENGTH,
    settings=SETTINGS.map(MappingProxyType),
    row=st.integers(0, 2**40),
)


def snapshots() -> st.SearchStrategy[Snapshot]:
    rows = st.lists(st.tuples(PRODUCTS, STATE), max_size=8, unique_by=lambda row: row[0].sku)
    return rows.map(lambda pairs: take_snapshot([p for p, _ in pairs], {p.sku: s for p, s in pairs}))


def product(sku: str, **fields: Any) -> Product:
    return Product(sku=sku, image=f"/photos/{sku}.png", **fields)


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_a_snapshot_comes_back_as_it_was(snapshot):
    data = encode_snapshot(snapshot)
    assert snapshot_from_parquet(data) == snapshot
    assert encode_snapshot(snapshot) == data
    assert snapshot_to_parquet(snapshot.products, _states(snapshot)) == data


def test_a_run_can_take_just_its_products_from_a_large_snapshot():
    products = [product(f"A{i:05d}", title=f"No. {i}") for i in range(5000)]
    data = snapshot_to_parquet(products)
    assert products_from_parquet(data, {"A04999", "A00000", "gone"}) == (products[0], products[4999])
    assert skus_from_parquet(data) == tuple(p.sku for p in products)
    with pytest.raises(CatalogError, match="snapshot"):
        products_from_parquet(data[:-9], {"A00000"})


def test_the_empty_snapshot_comes_back():
    assert snapshot_from_parquet(snapshot_to_parquet([])) == Snapshot((), (), ())


def test_anybody_can_read_a_snapshot_with_pandas(tmp_path):
    item = product("A", width_m=0.5, settings=MappingProxyType({"seed": 2**63 - 1, "settings.remesh": False}))
    (tmp_path / "s.parquet").write_bytes(snapshot_to_parquet([item], {"A": "10:20"}))
    (row,) = pd.read_parquet(tmp_path / "s.parquet").to_dict("records")
    assert row["sku"] == "A"
    assert row["width_m"] == 0.5
    assert row["settings"] == '{"seed":9223372036854775807,"settings.remesh":false}'
    assert (row["row_hash"], row["image_state"]) == (item.row_hash, "10:20")


def test_a_damaged_or_foreign_snapshot_is_refused(tmp_path):
    data = snapshot_to_parquet([product(f"A{i}") for i in range(100)])
    pq.write_table(pa.table({"sku": ["A"]}), tmp_path / "foreign.parquet")
    for bad in (
        b"",
        b"nonsense",
        data[:-1],
        data[: len(data) // 2],
        (tmp_path / "foreign.parquet").read_bytes(),
    ):
        with pytest.raises(CatalogError, match="snapshot"):
            snapshot_from_parquet(bad)


def test_a_snapshot_with_settings_that_are_no_object_is_refused():
    table = pq.read_table(io.BytesIO(snapshot_to_parquet([product("A")])))
    place = table.schema.get_field_index("settings")
    sink = io.BytesIO()
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(["[1]"])), sink)
    with pytest.raises(CatalogError, match="snapshot"):
        snapshot_from_parquet(sink.getvalue())


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_snapshot_reader_fail_otherwise(data):
    with pytest.raises(CatalogError):
        snapshot_from_parquet(data)


def test_two_products_of_one_sku_make_no_snapshot():
    with pytest.raises(CatalogError, match="share a SKU"):
        take_snapshot([product("A"), product("A")])


# Differences


def test_without_an_older_snapshot_everything_is_new():
    assert diff_snapshots(None, take_snapshot([product("B"), product("A")])) == CatalogDiff(
        ("B", "A"), (), (), 0
    )


def test_a_difference_says_what_is_new_changed_removed_and_why():
    old = take_snapshot(
        [product(sku) for sku in ("same", "row", "photo", "both", "gone-b", "gone-a")],
        {"same": "1:1", "row": "1:1", "photo": "1:1", "both": "1:1"},
    )
    new = take_snapshot(
        [
            product("new-z"),
            product("both", title="x"),
            product("photo", row=9),
            product("row", settings=MappingProxyType({"seed": 1})),
            product("same", row=7),
            product("new-a"),
        ],
        {"same": "1:1", "row": "1:1", "photo": "1:2", "both": "2:1"},
    )
    assert diff_snapshots(old, new) == CatalogDiff(
        new=("new-z", "new-a"),
        changed=(
            ChangedProduct("both", "both"),
            ChangedProduct("photo", "image"),
            ChangedProduct("row", "row"),
        ),
        removed=("gone-b", "gone-a"),
        unchanged_count=1,
    )


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("1:1", "1:2", "image"),
        ("1:1", "missing", "image"),
        ("missing", "1:1", "image"),
        ("", "1:1", None),
        ("1:1", "", None),
    ],
)
def test_only_a_known_change_of_the_photo_counts(before, after, why):
    diff = diff_snapshots(
        take_snapshot([product("A")], {"A": before}), take_snapshot([product("A")], {"A": after})
    )
    assert [change.why for change in diff.changed] == ([why] if why else [])


@settings(max_examples=40, deadline=None)
@given(snapshots())
def test_a_catalog_does_not_differ_from_itself_in_any_order(snapshot):
    turned = take_snapshot(reversed(snapshot.products), _states(snapshot))
    assert diff_snapshots(snapshot, turned) == CatalogDiff((), (), (), len(snapshot.products))
    assert diff_snapshots(snapshot, snapshot).is_empty


@st.composite
def small_snapshots(draw: st.DrawFn) -> Snapshot:
    """Few SKUs, titles and states, so that two of these snapshots often overlap."""
    skus = draw(st.lists(st.sampled_from("ABCDEF"), unique=True))
    titles = draw(st.lists(st.sampled_from("xy"), min_size=len(skus), max_size=len(skus)))
    states = draw(st.lists(STATE, min_size=len(skus), max_size=len(skus)))
    items = [product(sku, title=title) for sku, title in zip(skus, titles, strict=True)]
    return take_snapshot(items, dict(zip(skus, states, strict=True)))


@settings(max_examples=100, deadline=None)
@given(small_snapshots(), small_snapshots())
def test_applying_the_difference_to_the_older_catalog_gives_the_newer_one(old, new):
    diff = diff_snapshots(old, new)
    changed = {change.sku for change in diff.changed}
    newer = {item.sku: item.row_hash for item in new.products}
    applied = {item.sku: item.row_hash for item in old.products if item.sku not in diff.removed}
    applied |= {sku: newer[sku] for sku in (*diff.new, *changed)}
    assert applied == newer
    assert len(diff.new) + len(diff.changed) + diff.unchanged_count == len(new.products)
    assert not set(diff.new) & {item.sku for item in old.products}
    assert set(diff.removed) == {item.sku for item in old.products} - set(newer)
    order = [item.sku for item in new.products]
    assert [sku for sku in order if sku in diff.new] == list(diff.new)
    assert [sku for sku in order if sku in changed] == [change.sku for change in diff.changed]
    back = diff_snapshots(new, old)
    assert (set(back.new), set(back.removed)) == (set(diff.removed), set(diff.new))
    assert set(back.changed) == set(diff.changed)


# Photos


def test_new_bytes_in_a_photo_change_its_state(tmp_path):
    photo = tmp_path / "ä b.png"
    photo.write_bytes(b"one")
    before = local_image_state(str(photo))
    os.utime(photo, ns=(1, 1))
    assert local_image_state(str(photo)) == "3:1" != before
    assert local_image_state(photo.as_uri()) == "3:1"


@pytest.mark.parametrize("path", ["/no/such/photo.png", "nul\0.png", "x" * 5000, "half\ud800.png"])
def test_a_photo_that_cannot_be_looked_at_is_missing(path):
    assert local_image_state(path) == "missing"


def test_a_photo_replaced_between_two_loads_is_a_changed_product(tmp_path):
    (tmp_path / "catalog.csv").write_text("sku,image\nA,a.png\nB,b.png\n")
    (tmp_path / "a.png").write_bytes(b"old")

    def look() -> Snapshot:
        loaded = load_catalog(tmp_path / "catalog.csv").products
        return take_snapshot(loaded, image_states(loaded))

    before = look()
    (tmp_path / "a.png").write_bytes(b"newer")
    (tmp_path / "b.png").write_bytes(b"came late")
    assert diff_snapshots(before, look()).changed == (
        ChangedProduct("A", "image"),
        ChangedProduct("B", "image"),
    )
    (tmp_path / "a.png").unlink()
    assert image_states(look().products)["A"] == "missing"


def test_remote_photos_are_asked_for_once_per_object_and_https_never():
    asked: list[str] = []
    lock = threading.Lock()

    def head(url: str) -> str:
        with lock:
            asked.append(url)
        if url.endswith("gone.png"):
            raise BlobMissing(url)
        return f"etag of {url}"

    items = [
        Product(sku="A", image="s3://b/a.png"),
        Product(sku="A2", image="s3://b/a.png"),
        Product(sku="G", image="s3://b/gone.png"),
        Product(sku="H", image="https://x.example/a.png"),
    ]
    assert image_states(items, head=head) == {
        "A": "etag of s3://b/a.png",
        "A2": "etag of s3://b/a.png",
        "G": "missing",
        "H": "",
    }
    assert sorted(asked) == ["s3://b/a.png", "s3://b/gone.png"]
    assert set(image_states(items).values()) == {""}


def test_photos_that_cannot_be_asked_about_are_unknown_and_not_missing_and_stop_nobody():
    asked: list[str] = []

    def head(url: str) -> str:
        asked.append(url)
        if "denied" in url:
            raise SourceImageError(f"{url}: AccessDenied")
        if "silent" in url:
            raise StorageUnavailable(f"{url}: no network")
        return "etag"

    items = [Product(sku="D", image="s3://a-denied/d.png"), Product(sku="E", image="s3://b/e.png")]
    assert image_states(items, head=head) == {"D": "", "E": "etag"}
    asked.clear()
    silent = [Product(sku=f"S{n}", image=f"s3://silent/{n}.png") for n in range(500)]
    assert set(image_states(silent, head=head).values()) == {""}
    assert len(asked) < 500


def test_a_photo_that_changed_while_its_bucket_was_silent_is_noticed_when_it_answers_again():
    items = [Product(sku="A", image="s3://b/a.png"), Product(sku="N", image="s3://b/n.png")]
    before = take_snapshot(items[:1], {"A": "old"})
    during = take_snapshot(items, last_known({"A": "", "N": ""}, before))
    after = take_snapshot(items, last_known({"A": "new", "N": "first"}, during))
    assert diff_snapshots(before, during).changed == ()
    assert diff_snapshots(during, after).changed == (ChangedProduct("A", "image"),)


def test_a_folder_catalog_survives_the_round_trip(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    loaded = load_catalog(tmp_path).products
    states = image_states(loaded)
    assert snapshot_from_parquet(snapshot_to_parquet(loaded, states)) == take_snapshot(loaded, states)


def _states(snapshot: Snapshot) -> dict[str, str]:
    return {item.sku: state for item, state in zip(snapshot.products, snapshot.image_states, strict=True)}
