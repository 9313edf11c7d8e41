from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trellis_pipeline.quality.inspect import inspect_glb
from trellis_pipeline.quality.profiles import CHECK_NAMES, WEB, judge, verdict
from trellis_pipeline.quality.record import Finding, QualityRecord


@pytest.fixture(scope="module")
def good(textured_glb: bytes) -> QualityRecord:
    return replace(inspect_glb(textured_glb), silhouette_iou=0.95)


def failed(record: QualityRecord, **changes: Any) -> set[str]:
    return {check.name for check in judge(record, replace(WEB, **changes)) if not check.passed}


def test_a_good_model_passes_every_check_in_a_fixed_order(good: QualityRecord) -> None:
    checks = judge(good, WEB)
    assert tuple(check.name for check in checks) == CHECK_NAMES
    assert all(check.passed for check in checks)
    assert verdict(checks) == "pass"


@pytest.mark.parametrize(
    ("fact", "name"),
    [
        ({"triangles": 150_001}, "polycount"),
        ({"triangles": 0}, "polycount"),
        ({"max_texture_px": 2049}, "texture_size"),
        ({"file_bytes": 15_000_001}, "file_size"),
        ({"valid_gltf": False}, "valid_gltf"),
    ],
)
def test_what_the_web_profile_cannot_take_fails(good: QualityRecord, fact: dict[str, Any], name: str) -> None:
    spoilt = replace(good, **fact)
    assert failed(spoilt) == {name}
    assert verdict(judge(spoilt, WEB)) == "fail"


@pytest.mark.parametrize(
    "fact",
    [{"triangles": 150_000}, {"max_texture_px": 2048}, {"file_bytes": 15_000_000}, {"silhouette_iou": 0.8}],
)
def test_limits_are_inclusive(good: QualityRecord, fact: dict[str, Any]) -> None:
    assert failed(replace(good, **fact)) == set()


@pytest.mark.parametrize("closed", [False, None])
def test_an_open_surface_warns_and_fails_only_where_it_is_required(
    good: QualityRecord, closed: bool | None
) -> None:
    leaky = replace(
        good, watertight=closed, boundary_edges=4 if closed is False else None, non_manifold_edges=0
    )
    assert verdict(judge(leaky, WEB)) == "warn"
    assert verdict(judge(leaky, replace(WEB, require_watertight=True))) == "fail"


def test_a_wrong_outline_warns_or_fails_as_the_profile_says(good: QualityRecord) -> None:
    wrong = replace(good, silhouette_iou=0.5)
    assert verdict(judge(wrong, WEB)) == "warn"
    assert verdict(judge(wrong, replace(WEB, require_silhouette=True))) == "fail"
    assert failed(wrong, min_silhouette_iou=None) == set()


def test_without_a_photo_the_outline_is_not_judged(good: QualityRecord) -> None:
    assert "silhouette" not in {check.name for check in judge(replace(good, silhouette_iou=None), WEB)}


def test_messages_name_the_figure_the_limit_and_the_broken_rule(good: QualityRecord) -> None:
    broken = Finding("gltf.bounds_untrue", "error", "accessors[0].min says 3; the data says 0")
    spoilt = replace(good, triangles=1_234_567, valid_gltf=False, findings=(broken,))
    messages = {check.name: check.message for check in judge(spoilt, WEB)}
    assert "1,234,567" in messages["polycount"]
    assert "150,000" in messages["polycount"]
    assert broken.message in messages["valid_gltf"]
