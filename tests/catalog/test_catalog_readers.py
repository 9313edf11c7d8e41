"""Catalogs of every kind are read, and refused with the way out where nothing in them can be trusted."""

from __future__ import annotations

import json
import os
from datetime import date
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trellis_pipeline.catalog.delimited import MAX_ROW_LINES
from trellis_pipeline.catalog.readers import CatalogLoad, load_catalog
from trellis_pipeline.errors import CatalogError


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def rows_of(load: CatalogLoad) -> list[tuple[int, str]]:
    return [(product.row, product.sku) for product in load.products]


# CSV


def test_a_csv_is_read_with_its_images_beside_it(tmp_path):
    path = write(
        tmp_path / "catalog.csv", "sku,title,image\nA,Chair,photos/a.png\nB,,./b.png\nC,,/srv/c.png\n"
    )
    load = load_catalog(path)
    assert [product.image for product in load.products] == [
        f"{tmp_path}/photos/a.png",
        f"{tmp_path}/b.png",
        "/srv/c.png",
    ]
    assert rows_of(load) == [(2, "A"), (3, "B"), (4, "C")]
    assert load.source == str(path)
    assert (load.problems, load.unknown_columns) == ((), ())


def test_the_image_path_is_absolute_when_the_catalog_path_is_relative(tmp_path, monkeypatch):
    write(tmp_path / "catalog.csv", "sku,image\nA,a.png\n")
    monkeypatch.chdir(tmp_path)
    assert load_catalog("catalog.csv").products[0].image == f"{tmp_path}/a.png"


def test_an_image_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("sku,image\nA,~/photos/a.png\nB,~draft.png\n")
    images = [product.image for product in load_catalog(catalog).products]
    assert images == [f"{tmp_path}/ann/photos/a.png", str(tmp_path / "~draft.png")]


@pytest.mark.parametrize(
    "url", ["https://cdn.example.com/a.png?x=1,2", "s3://bucket/a b.png", "file:///a.png"]
)
def test_image_urls_stay_as_they_are(tmp_path, url):
    path = write(tmp_path / "catalog.csv", f'sku,image\nA,"{url}"\n')
    assert load_catalog(path).products[0].image == url


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_spreadsheets_save_is_read(tmp_path, delimiter, line_end, encoding):
    lines = ["sku,image,title", 'A,a.png,"Stuhl, grün; neu\t!"', "B,b.png,"]
    quoted = '"Stuhl, grün; neu\t!"'
    text = line_end.join(
        line.replace(quoted, "@").replace(",", delimiter).replace("@", quoted) for line in lines
    )
    load = load_catalog(write(tmp_path / "catalog.csv", text.encode(encoding)))
    assert rows_of(load) == [(2, "A"), (3, "B")]
    assert load.products[0].title == "Stuhl, grün; neu\t!"


@pytest.mark.parametrize("hint", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_that_excel_hides_is_passed_over_and_still_counts_as_a_line(tmp_path, hint):
    load = load_catalog(write(tmp_path / "catalog.csv", f"{hint}\r\nsku;image\r\nA;a.png\r\n"))
    assert rows_of(load) == [(3, "A")]


def test_line_numbers_are_those_of_an_editor_also_past_quoted_line_breaks(tmp_path):
    text = 'sku,image,title\nA,a.png,"two\nlines"\n\n,,\nB,,bad\nC,c.png,"x\r\n\r\ny"\nD/,d.png,\n'
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert rows_of(load) == [(2, "A"), (7, "C")]
    assert [problem.row for problem in load.problems] == [6, 10]
    assert load.products[0].title == "two\nlines"


def test_an_unclosed_quote_costs_one_row_and_not_the_rest_of_the_file(tmp_path):
    text = 'sku,image,title\nA,a.png,ok\nB,b.png,"5 inch\nC,c.png,\nD,d.png,\n'
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert rows_of(load) == [(2, "A"), (4, "C"), (5, "D")]
    (problem,) = load.problems
    assert problem.row == 3
    assert "never closed" in problem.reason


def test_an_unclosed_quote_does_not_reach_into_a_later_quoted_row(tmp_path):
    text = (
        'sku,image,title\nA,a.png,"5 inch\nB,b.png,\nC,c.png,"good, quoted"\nD,d.png,"12" pipe"\nE,e.png,\n'
    )
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert rows_of(load) == [(3, "B"), (4, "C"), (6, "E")]
    assert [problem.row for problem in load.problems] == [2, 5]


def test_quotes_that_close_and_open_on_every_line_take_no_quadratic_time(tmp_path):
    lines = 30_000
    load = load_catalog(write(tmp_path / "catalog.csv", "sku,image\n" + 'a,b","\n' * lines + "Z,z.png\n"))
    assert rows_of(load) == [(lines + 2, "Z")]
    assert [problem.row for problem in load.problems] == list(range(2, lines + 2))


def test_more_lines_than_a_row_may_have_are_no_problem_for_a_catalog(tmp_path):
    rows = MAX_ROW_LINES + 5
    text = "\n" * MAX_ROW_LINES + "sku,image\n" + "".join(f"S{i},i.png\n" for i in range(rows))
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert len(load.products) == rows
    assert load.problems == ()
    assert load.products[0].row == MAX_ROW_LINES + 2


def test_a_row_with_too_many_cells_is_not_guessed_at(tmp_path):
    text = "sku,image,title\nA,a.png,Chair, red\nB,b.png,Table,,\nC,c.png\n"
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert rows_of(load) == [(3, "B"), (4, "C")]
    (problem,) = load.problems
    assert (problem.row, problem.sku) == (2, "A")
    assert "4 cells for 3 columns" in problem.reason


def test_an_oversized_cell_is_a_problem_of_its_row(tmp_path):
    text = f"sku,image,title\nA,a.png,{'x' * 200_000}\nB,b.png,\n"
    load = load_catalog(write(tmp_path / "catalog.csv", text))
    assert rows_of(load) == [(3, "B")]
    assert "128 KiB" in load.problems[0].reason


def test_the_header_alone_is_an_empty_catalog(tmp_path):
    load = load_catalog(write(tmp_path / "catalog.csv", "sku,image,colour\n"))
    assert (load.products, load.problems) == ((), ())
    assert [column.name for column in load.unknown_columns] == ["colour"]


def test_a_catalog_of_bad_rows_only_names_each_of_them(tmp_path):
    load = load_catalog(write(tmp_path / "catalog.csv", "sku,image\n../x,a\n,b\nC,\nCON,d\n"))
    assert load.products == ()
    assert [problem.row for problem in load.problems] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"SKU,image\nA,a\n", "rename 'SKU' to 'sku'"),
        (b"sku,image_url\nA,a\n", "rename 'image_url' to 'image'"),
        (b"name,price\nA,a\n", "it has name, price"),
        (b"sku,image,sku\nA,a,b\n", "sku twice"),
        (b'sku,"image\nA,a\n', "header cannot be read"),
        (b"sku,image\nA,a\nB,gr\xfcn.png\n", "byte 0xFC on line 3"),
        (b"\xff\xfes", "UTF-16"),
        (b"\xff\xfe\x00\xd8\x00\xd8", "UTF-16"),
    ],
)
def test_a_csv_that_cannot_be_trusted_is_refused_with_the_way_out(tmp_path, data, message):
    with pytest.raises(CatalogError, match=message):
        load_catalog(write(tmp_path / "catalog.csv", data))


# JSON Lines


def test_json_lines_are_read_with_nested_and_dotted_settings(tmp_path):
    lines = [
        {"sku": "A", "image": "a.png", "settings": {"resolution": 512, "texSlat": {"steps": 9}}},
        {"sku": "B", "image": "b.png", "settings.resolution": 1536, "width_m": 0.5, "title": None},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    load = load_catalog(write(tmp_path / "catalog.jsonl", text))
    assert rows_of(load) == [(1, "A"), (3, "B")]
    assert dict(load.products[0].settings) == {"settings.resolution": 512, "settings.texSlat.steps": 9}
    assert dict(load.products[1].settings) == {"settings.resolution": 1536}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("nonsense", "is not JSON"),
        ("[1]", "not an object"),
        ("null", "not an object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"sku": ' + "9" * 5000 + "}", "too long"),
        ('{"sku": "B", "sku": "C", "image": "b"}', "gives 'sku' twice"),
        ('{"sku": "B", "image": "b", "width_m": NaN}', "width_m is nan"),
        ('{"sku": "\\ud800", "image": "b"}', "surrogate"),
        ('{"SKU": "B", "image": "b"}', "rename 'SKU' to 'sku'"),
        ("{}", "sku is missing; image is missing"),
    ],
)
def test_a_bad_json_line_is_the_problem_of_that_row(tmp_path, line, message):
    good = '{"sku": "%s", "image": "a.png"}'
    path = write(tmp_path / "catalog.ndjson", f"{good % 'A'}\n{line}\n{good % 'Z'}")
    load = load_catalog(path)
    assert rows_of(load) == [(1, "A"), (3, "Z")]
    (problem,) = load.problems
    assert problem.row == 2
    assert message in problem.reason


# Parquet


def test_parquet_means_what_csv_means(tmp_path):
    frame = pd.DataFrame(
        {
            "sku": ["A", "B", None],
            "image": ["a.png", "https://x.example/b.png", "c.png"],
            "width_m": [0.5, None, 1.0],
            "seed": [7, None, 3],
            "settings.resolution": ["512", "", None],
            "extra": [b"x" * 100] * 3,
        }
    )
    frame.to_parquet(tmp_path / "catalog.parquet")
    frame.drop(columns="extra").assign(extra=1).to_csv(tmp_path / "catalog.csv", index=False)
    load, same = load_catalog(tmp_path / "catalog.parquet"), load_catalog(tmp_path / "catalog.csv")
    assert [product.as_record() for product in load.products] == [p.as_record() for p in same.products]
    assert dict(load.products[0].settings) == {"seed": 7, "settings.resolution": 512}
    assert rows_of(load) == [(1, "A"), (2, "B")]
    assert [(problem.row, problem.reason) for problem in load.problems] == [(3, "sku is missing")]
    assert [column.name for column in load.unknown_columns] == ["extra"]


def test_parquet_structs_numbers_and_raw_bytes_are_understood(tmp_path):
    table = pa.table(
        {
            "sku": pa.array([1, 2, 3, 2]),
            "image": pa.array([b"a.png", b"b.png", b"\xff", b"d.png"]),
            "settings": pa.array([{"resolution": 512}, None, None, None]),
        }
    )
    pq.write_table(table, tmp_path / "catalog.parquet")
    load = load_catalog(tmp_path / "catalog.parquet")
    assert rows_of(load) == [(1, "1"), (2, "2")]
    assert dict(load.products[0].settings) == {"settings.resolution": 512}
    assert [problem.reason for problem in load.problems] == [
        "image is binary data, not UTF-8 text",
        "sku is a duplicate: row 2 has it already",
    ]


def test_parquet_from_a_database_is_understood(tmp_path):
    table = pa.table(
        {
            "sku": pa.array([Decimal(1042), Decimal(7)], pa.decimal128(10, 0)),
            "image": pa.array(["a.png", "b.png"], pa.large_string()),
            "category": pa.array(["x", "x"]).dictionary_encode(),
            "width_m": pa.array([Decimal("0.45"), None], pa.decimal128(10, 2)),
            "title": pa.array([date(2026, 5, 1), None], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "catalog.parquet")
    load = load_catalog(tmp_path / "catalog.parquet")
    assert [(item.sku, item.category, item.width_m, item.title) for item in load.products] == [
        ("1042", "x", 0.45, "2026-05-01"),
        ("7", "x", None, ""),
    ]


def test_parquet_text_that_is_not_utf8_is_the_problem_of_its_row(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    pq.write_table(pa.table({"sku": broken, "image": ["a", "b"]}), tmp_path / "catalog.parquet")
    load = load_catalog(tmp_path / "catalog.parquet")
    assert rows_of(load) == [(1, "ok")]
    assert "binary data" in load.problems[0].reason


def test_damaged_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"sku": ["A"] * 1000, "image": ["a"] * 1000}), tmp_path / "catalog.parquet")
    data = (tmp_path / "catalog.parquet").read_bytes()
    for broken in (b"", b"PAR1", data[:-20], data[: len(data) // 2], b"\0" * 64 + data[64:]):
        with pytest.raises(CatalogError, match=r"catalog\.parquet"):
            load_catalog(write(tmp_path / "catalog.parquet", broken))


def test_parquet_without_a_required_column_is_refused(tmp_path):
    pq.write_table(pa.table({"sku": ["A"], "Image": ["a"]}), tmp_path / "catalog.parquet")
    with pytest.raises(CatalogError, match="rename 'Image' to 'image'"):
        load_catalog(tmp_path / "catalog.parquet")


# Folders and buckets


def test_a_folder_of_images_is_a_catalog(tmp_path):
    for name in ("b.PNG", "a.jpg", "sofas/red one.webp", "sofas/.hidden.png", ".git/x.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"")
    (tmp_path / "folder.png").mkdir()
    load = load_catalog(tmp_path)
    assert [(product.sku, product.image, product.row) for product in load.products] == [
        ("a", f"{tmp_path}/a.jpg", 0),
        ("b", f"{tmp_path}/b.PNG", 0),
        ("sofas-red one", f"{tmp_path}/sofas/red one.webp", 0),
    ]


def test_an_empty_folder_is_an_empty_catalog(tmp_path):
    assert load_catalog(tmp_path) == CatalogLoad((), (), (), str(tmp_path))


def test_a_photo_that_would_take_anothers_sku_is_reported_with_both_names(tmp_path):
    for name in ("a.jpg", "a.png", "A.webp"):
        write(tmp_path / name, b"")
    load = load_catalog(tmp_path)
    assert len(load.products) == 1
    assert load.products[0].image == f"{tmp_path}/A.webp"
    assert [("A.webp" in problem.reason, problem.row) for problem in load.problems] == [(True, 0), (True, 0)]


def test_of_two_photos_with_one_name_both_are_named(tmp_path):
    for name in ("a.jpg", "a.png"):
        write(tmp_path / name, b"")
    (problem,) = load_catalog(tmp_path).problems
    assert f"{tmp_path}/a.jpg has it already ({tmp_path}/a.png)" in problem.reason


def test_a_ring_of_links_does_not_hang_the_listing(tmp_path):
    write(tmp_path / "a.png", b"")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [product.sku for product in load_catalog(tmp_path).products] == ["a"]


def test_a_file_name_that_is_not_text_is_a_problem(tmp_path):
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses the name")
    load = load_catalog(tmp_path)
    assert load.products == ()
    assert "image contains U+DCFF" in load.problems[0].reason


def test_a_bucket_prefix_of_images_is_a_catalog():
    keys = [
        "chairs/a.png",
        "chairs/sub/b.webp",
        "chairs/",
        "chairs/readme.txt",
        "chairs-old/c.png",
        "chairs/a.jpg",
    ]
    asked = []

    def list_bucket(prefix: str) -> list[str]:
        asked.append(prefix)
        return [f"s3://shop/{key}" for key in keys]

    load = load_catalog("s3://shop/chairs", list_bucket=list_bucket)
    assert asked == ["s3://shop/chairs/"]
    assert [(product.sku, product.image) for product in load.products] == [
        ("a", "s3://shop/chairs/a.jpg"),
        ("sub-b", "s3://shop/chairs/sub/b.webp"),
    ]
    assert "s3://shop/chairs/a.jpg has it already" in load.problems[0].reason


def test_a_catalog_file_in_a_bucket_finds_its_images_beside_it():
    data = b"sku,image\nA,photos/a.png\nB,../../../b.png\nC,/c.png\nD,https://x.example/d.png\n"
    load = load_catalog(
        "s3://shop/2024/catalog.csv", read_bytes={"s3://shop/2024/catalog.csv": data}.__getitem__
    )
    assert [product.image for product in load.products] == [
        "s3://shop/2024/photos/a.png",
        "s3://shop/b.png",
        "s3://shop/c.png",
        "https://x.example/d.png",
    ]


# Whole-catalog failures


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://", "bucket and a prefix"),
        ("s3://bucket/x?versionId=1", "bucket and a prefix"),
        ("s3://[/x", "not a URL"),
        ("s3://bucket/catalog.csv", "no way to read buckets"),
        ("s3://bucket/photos", "no way to list buckets"),
        ("https://shop.example/catalog.csv", "download it first"),
        ("nul\0byte.csv", "nul"),
        ("x" * 5000 + ".csv", "x"),
    ],
)
def test_an_unusable_source_is_refused_with_the_way_out(source, message):
    with pytest.raises(CatalogError, match=message):
        load_catalog(source)


def test_a_missing_file_suggests_the_one_beside_it(tmp_path):
    write(tmp_path / "catalog.csv", "sku,image\n")
    with pytest.raises(CatalogError, match=r"catolog\.csv does not exist; did you mean catalog\.csv\?"):
        load_catalog(tmp_path / "catolog.csv")


@pytest.mark.parametrize(("name", "hint"), [("catalog.xlsx", "CSV UTF-8"), ("catalog", "JSON Lines")])
def test_an_unknown_kind_of_file_says_which_are_known(tmp_path, name, hint):
    with pytest.raises(CatalogError, match=hint):
        load_catalog(write(tmp_path / name, "sku,image\n"))


def test_a_file_url_is_a_path(tmp_path):
    write(tmp_path / "my catalog.csv", "sku,image\nA,a.png\n")
    load = load_catalog(f"file://{tmp_path}/my%20catalog.csv")
    assert load.products[0].image == f"{tmp_path}/a.png"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and fails to read")
def test_a_disk_error_in_the_middle_is_refused_by_name(tmp_path):
    (tmp_path / "catalog.csv").symlink_to("/proc/self/mem")
    with pytest.raises(CatalogError, match=r"catalog\.csv cannot be read: Input/output error"):
        load_catalog(tmp_path / "catalog.csv")
