"""docs/reference/errors.md knows every error code that our server answers, or that our client knows."""

import re
from pathlib import Path

import pytest

from trellis_pipeline import errors
from trellis_pipeline.generation.runware.failures import _WORDS, Kind, kind_of, kind_of_status, refusal
from trellis_pipeline.generation.runware.reply import ApiError
from trellis_pipeline.service.messages import STATUS

PAGE = (Path(__file__).parents[2] / "docs/reference/errors.md").read_text(encoding="utf-8")
PROVIDER, OURS = (
    re.findall(r"^\| (?!---)(.+) \|$", part, re.MULTILINE)[1:]
    for part in PAGE.split("## The provider's error codes")[1].split("## Our own server's error codes")
)
ROWS = {cells[0]: cells for cells in (row.split(" | ") for row in PROVIDER)}
CODES = [(code, Kind(kind)) for kind, cells in ROWS.items() for code in re.findall(r"`(\w+)`", cells[1])]


def alternatives(pattern: str) -> list[str]:
    """`a|(b|c)d` to `a`, `(b|c)d`."""
    parts, depth = [""], 0
    for letter in pattern:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def test_every_code_that_our_server_answers_is_explained_with_its_status_and_no_other() -> None:
    explained = {}
    for row in OURS:
        statuses, code, when, way_out = row.split(" | ")
        assert when
        assert way_out
        explained[code.strip("`")] = int(statuses.split(",")[0])
    assert explained == STATUS


def test_every_meaning_that_our_client_gives_a_code_has_its_row_and_its_way_out() -> None:
    assert set(ROWS) == {kind.value for kind in Kind}
    assert all(len(cells) == 4 and all(cells) for cells in ROWS.values())


@pytest.mark.parametrize(("code", "kind"), CODES)
def test_our_client_takes_each_code_for_what_the_page_says(code: str, kind: Kind) -> None:
    assert kind_of(ApiError(code, "")) is kind


@pytest.mark.parametrize("word", [word for _, pattern in _WORDS for word in alternatives(pattern)])
def test_each_family_of_codes_that_our_client_knows_has_an_example_on_the_page(word: str) -> None:
    assert any(re.search(word, code.lower()) for code, _ in CODES)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 408, 418, 425, 429, 500, 502, 503, 504, 599])
def test_our_client_takes_each_status_for_what_the_page_says(status: int) -> None:
    said = ROWS[kind_of_status(status).value][1]
    named = str(status) in said or (status >= 500 and "500 to 599" in said) or "any other 4xx" in said
    assert named, said


@pytest.mark.parametrize(
    "kind", [Kind.ACCESS, Kind.ADDRESS, Kind.CREDIT, Kind.BUSY, Kind.REJECTED], ids=lambda kind: kind.name
)
def test_each_refusal_becomes_the_error_that_the_page_names(kind: Kind) -> None:
    assert f"`{type(refusal(kind, '')).__name__}`" in ROWS[kind.value][2]


def test_every_error_class_that_the_page_names_for_a_code_exists() -> None:
    for cells in ROWS.values():
        for name in re.findall(r"`([A-Z]\w+)`", cells[2]):
            assert issubclass(getattr(errors, name), errors.TrellisError)
