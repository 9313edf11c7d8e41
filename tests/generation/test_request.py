"""The request: every field of the 3dInference document, merged from layers, refused by name."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.request import build_request, request_key, setting_paths


def test_defaults_are_those_of_the_api_document():
    wire = build_request().wire()
    assert wire == {
        "model": "microsoft:trellis-2@4b",
        "seed": 42,
        "numberResults": 1,
        "settings": {"resolution": 1024, "decimationTarget": 500_000, "remesh": True, "textureSize": 2048},
    }


def test_later_layers_win_and_paths_may_be_dotted_or_nested():
    request = build_request(
        {"seed": 1, "settings": {"resolution": 512, "texSlat": {"steps": 10}}},
        {"settings.resolution": 1536, "settings.texSlat.rescaleT": 3.0},
    )
    assert request.settings.resolution == 1536
    assert request.wire()["settings"]["texSlat"] == {"steps": 10, "rescaleT": 3.0}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("settings.resolutio", 512, "did you mean settings.resolution"),
        ("settings.resolution", 700, "allowed are 512, 1024, 1536"),
        ("settings.textureSize", 1500, "allowed are 1024, 2048, 3072, 4096"),
        ("settings.decimationTarget", 99_999, "less than 100000; allowed are 100000 to 1000000"),
        ("settings.shapeSlat.steps", 51, "more than 50; allowed are 1 to 50"),
        ("settings.shapeSlat.steps", True, "must be a whole number, not true or false"),
        ("settings.remesh", 1, "must be true or false, not a number"),
        ("settings.texSlat.guidanceStrength", 0.5, "less than 1; allowed are 1 to 10"),
        ("seed", -1, "less than 0"),
        ("seed", 2**63, "more than 9223372036854775807"),
        ("numberResults", 5, "more than 4"),
        ("model", "other:model@1", "microsoft:trellis-2@4b"),
    ],
)
def test_a_value_outside_the_document_is_refused_with_its_path(path, value, expected):
    with pytest.raises(ConfigError) as caught:
        build_request({path: value})
    assert path in str(caught.value)
    assert expected in str(caught.value)


def test_every_setting_shapes_the_key():
    changed = {
        "seed": 7,
        "numberResults": 2,
        "settings.resolution": 512,
        "settings.decimationTarget": 100_000,
        "settings.remesh": False,
        "settings.textureSize": 1024,
    }
    changed |= {
        path: {"steps": 3, "guidanceStrength": 2.5, "guidanceRescale": 0.5, "rescaleT": 2.5}[
            path.split(".")[-1]
        ]
        for path in setting_paths()
        if path.count(".") == 2
    }
    assert set(changed) | {"model"} == set(setting_paths())
    keys = {
        request_key(build_request({path: value}), "image", "generator") for path, value in changed.items()
    }
    assert len(keys | {request_key(build_request(), "image", "generator")}) == len(changed) + 1


def test_sampler_steps_make_a_preset_of_their_own_as_they_set_time_and_so_price():
    usual = build_request().preset
    assert usual == "1024/2048/500000/remesh"
    assert build_request({"settings.texSlat.steps": 50}).preset == f"{usual}/steps:auto-auto-50"
    every = {f"settings.{name}.steps": 50 for name in ("sparseStructure", "shapeSlat", "texSlat")}
    assert build_request(every, {"numberResults": 4}).preset == f"{usual}/steps:50-50-50/x4"


def test_dimensions_count_only_for_generators_that_build_to_size():
    request = build_request()
    bought = request_key(request, "image", "generator")
    assert request_key(request, "image", "generator", (None, 0.3, None)) != bought
    assert request_key(request, "another image", "generator") != bought
    assert request_key(request, "image", "another generator") != bought


@given(
    st.dictionaries(
        st.text(max_size=20), st.one_of(st.integers(), st.text(), st.none(), st.booleans()), max_size=5
    )
)
def test_whatever_is_asked_the_answer_is_a_request_or_a_clear_refusal(layer):
    with contextlib.suppress(ConfigError):
        assert build_request(layer).wire()
