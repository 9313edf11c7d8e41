"""Rows become products, or problems that say what to mend."""

from __future__ import annotations

import math

import pytest

from trellis_pipeline.catalog.columns import COLUMNS, SETTING_TYPES
from trellis_pipeline.catalog.rows import MAX_UNKNOWN_COLUMNS, CheckedRows, check_rows


def check(*rows: dict[str, object]) -> CheckedRows:
    return check_rows(enumerate(rows, 2), locate=lambda image: f"/photos/{image}")


def reason(**cells: object) -> str:
    result = check({"sku": "A", "image": "a.png", **cells})
    assert not result.products
    (problem,) = result.problems
    assert problem.row == 2
    return problem.reason


def test_a_row_becomes_a_product():
    (product,) = check(
        {
            "sku": "CHAIR-7",
            "image": " chair.png ",
            "title": "Chair, red",
            "category": "furniture",
            "width_m": "0.5",
            "height_m": "8.5e-1",
            "depth_m": "",
            "seed": "7",
            "settings.remesh": "FALSE",
            "settings.shapeSlat.guidanceStrength": "7",
        }
    ).products
    assert product.sku == "CHAIR-7"
    assert product.image == "/photos/chair.png"
    assert product.dimensions_m == (0.5, 0.85, None)
    assert dict(product.settings) == {
        "seed": 7,
        "settings.remesh": False,
        "settings.shapeSlat.guidanceStrength": 7.0,
    }
    assert isinstance(product.settings["settings.shapeSlat.guidanceStrength"], float)
    assert product.row == 2


def test_every_setting_of_the_request_can_be_overridden_per_product():
    assert len(SETTING_TYPES) == 18
    cells: dict[str, object] = dict.fromkeys(SETTING_TYPES, "1")
    (product,) = check({"sku": "A", "image": "a", **cells}).products
    assert {path: type(value) for path, value in product.settings.items()} == SETTING_TYPES


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"sku": ""}, "sku is missing"),
        ({"sku": None}, "sku is missing"),
        ({"sku": "   "}, "sku is missing"),
        ({"sku": True}, "sku is a true/false value"),
        ({"sku": ["A"]}, "sku is a list"),
        ({"sku": {"id": 1}}, "sku is a JSON object"),
        ({"sku": b"\xff"}, "sku is binary data"),
        ({"sku": math.nan}, "sku is nan"),
        ({"sku": "../../etc/passwd"}, "sku contains '/', a path separator"),
        ({"sku": " A"}, "sku starts or ends with a space"),
        ({"image": ""}, "image is missing"),
        ({"image": " "}, "image is missing"),
        ({"image": "a\0.png"}, "image contains U+0000"),
        ({"image": "a\nb.png"}, "line break"),
        ({"image": "\ud800.png"}, "image contains U+D800"),
        ({"image": "data:image/png;base64,AAAA"}, "data URI"),
        ({"image": "ftp://host/a.png"}, "scheme ftp://"),
        ({"image": "javascript://alert(1)"}, "scheme javascript://"),
        ({"image": "x" * 9000}, "9000 characters"),
        ({"image": 3.5j}, "image is a complex"),
        ({"title": "a\x00b"}, "title contains U+0000"),
        ({"title": "\udcff"}, "title contains U+DCFF"),
        ({"width_m": "wide"}, "width_m is 'wide', not a number"),
        ({"width_m": "0,45"}, "write 0.45"),
        ({"width_m": "-1"}, "more than 0"),
        ({"width_m": "0"}, "more than 0"),
        ({"width_m": "nan"}, "not a number"),
        ({"width_m": math.nan}, "width_m is nan"),
        ({"width_m": math.inf}, "width_m is inf"),
        ({"width_m": "1e999"}, "width_m is inf"),
        ({"width_m": "450"}, "lengths are 0.0001 to 100 m"),
        ({"width_m": "0.00001"}, "lengths are 0.0001 to 100 m"),
        ({"width_m": "1_0"}, "not a number"),
        ({"width_m": "١٢"}, "not a number"),
        ({"width_m": "0x1"}, "not a number"),
        ({"width_m": "9" * 5000}, "not a number"),
        ({"width_m": 10**400}, "more than 64 bits"),
        ({"width_m": True}, "width_m is a true/false value"),
        ({"height_m": [1]}, "height_m is a list"),
        ({"seed": "7.5"}, "seed is 7.5, not a whole number"),
        ({"seed": "1" * 21}, "not a whole number"),
        ({"seed": 10**400}, "more than 64 bits"),
        ({"seed": True}, "seed is a true/false value"),
        ({"seed": "seven"}, "seed is 'seven'"),
        ({"image": "https://me:s3cret@cdn.example.com/a.png"}, "image has a user or a password in its URL"),
        ({"settings.remesh": "maybe"}, "not true or false"),
        ({"settings.remesh": 2}, "not true or false"),
        ({"settings.texSlat.rescaleT": "NaN"}, "settings.texSlat.rescaleT is 'NaN'"),
        ({"settings": {"resolution": "high"}}, "settings.resolution is 'high'"),
        (
            {"settings": {"resolution": 512}, "settings.resolution": "1024"},
            "settings.resolution is given twice",
        ),
    ],
)
def test_a_bad_cell_is_reported_with_its_column_and_reason(cells, expected):
    assert expected in reason(**cells)


def test_all_faults_of_a_row_are_told_at_once():
    told = reason(sku="a/b", image="", width_m="-1", seed="x")
    assert [part.split()[0] for part in told.split("; ")] == ["sku", "image", "width_m", "seed"]


def test_whole_numbers_as_spreadsheets_write_them_are_understood():
    (product,) = check(
        {"sku": 1042.0, "image": "a", "title": 2024, "seed": "7.0", "settings.decimationTarget": "1E+06"}
    ).products
    assert product.sku == "1042"
    assert product.title == "2024"
    assert dict(product.settings) == {"seed": 7, "settings.decimationTarget": 1_000_000}


def test_the_largest_seed_keeps_every_digit():
    (product,) = check({"sku": "A", "image": "a", "seed": str(2**63 - 1)}).products
    assert product.settings["seed"] == 2**63 - 1


@pytest.mark.parametrize("text", ["=1+1", "+49 30 1234", "@SUM(A1)", '=HYPERLINK("https://example.com")'])
def test_a_cell_that_looks_like_a_formula_stays_the_text_it_is(text):
    (product,) = check({"sku": "A", "image": "a", "title": text}).products
    assert product.title == text


def test_good_rows_go_on_past_bad_ones():
    result = check(
        {"sku": "A", "image": "a"}, {"sku": "a/b", "image": "b"}, {"sku": "C"}, {"sku": "D", "image": "d"}
    )
    assert [product.sku for product in result.products] == ["A", "D"]
    assert [(problem.row, problem.sku) for problem in result.problems] == [(3, "a/b"), (4, "C")]


def test_a_duplicate_names_the_first_line():
    result = check({"sku": "A", "image": "a"}, {"sku": "B", "image": "b"}, {"sku": "A", "image": "c"})
    assert [product.image for product in result.products] == ["/photos/a", "/photos/b"]
    (problem,) = result.problems
    assert (problem.row, problem.reason) == (4, "sku is a duplicate: line 2 has it already")


def test_case_only_twins_are_refused():
    result = check(
        {"sku": "Chair", "image": "a"}, {"sku": "chair", "image": "b"}, {"sku": "CHAIR", "image": "c"}
    )
    assert len(result.products) == 1
    assert ["'Chair' (line 2)" in problem.reason for problem in result.problems] == [True, True]


def test_the_same_name_in_two_unicode_forms_is_one_sku():
    result = check({"sku": "gru\u0308n", "image": "a"}, {"sku": "gr\u00fcn", "image": "b"})
    assert [product.sku for product in result.products] == ["gr\u00fcn"]
    assert "duplicate" in result.problems[0].reason


def test_a_bad_first_row_still_owns_its_sku():
    result = check({"sku": "A", "image": ""}, {"sku": "A", "image": "a"})
    assert not result.products
    assert "duplicate: line 2" in result.problems[1].reason


def test_an_unsafe_sku_is_shown_harmlessly():
    (problem,) = check({"sku": "a\u202e\x1b[31m\ud800", "image": "a"}).problems
    assert problem.sku == "a\\u202e\\x1b[31m\\ud800"


def test_unknown_columns_are_listed_once_with_what_may_be_meant():
    row: dict[str, object] = {
        "sku": "A",
        "image": "a",
        "colour": "x",
        "Seed": 1,
        "texture_size": 2048,
        "decimationtarget": 1,
        "heigth_m": 1,
    }
    result = check(row, {**row, "sku": "B"})
    assert len(result.products) == 2
    assert {column.name: column.did_you_mean for column in result.unknown_columns} == {
        "colour": None,
        "Seed": "seed",
        "texture_size": "settings.textureSize",
        "decimationtarget": "settings.decimationTarget",
        "heigth_m": "height_m",
    }


def test_an_unknown_nested_setting_is_listed_by_its_path():
    (column,) = check({"sku": "A", "image": "a", "settings": {"shapeSlat": {"stepz": 3}}}).unknown_columns
    assert (column.name, column.did_you_mean) == ("settings.shapeSlat.stepz", "settings.shapeSlat.steps")


def test_endless_new_columns_are_not_all_kept():
    result = check(*({"sku": f"A{i}", "image": "a", f"column{i}": 1} for i in range(1000)))
    assert len(result.unknown_columns) == MAX_UNKNOWN_COLUMNS


def test_known_columns_are_never_unknown():
    result = check_rows([], locate=str, columns=[*COLUMNS, "settings", " ", ""])
    assert result.unknown_columns == ()
