"""What a probe keeps of an answer: shapes and words of the API, and nothing that could be a secret."""

import json
import time

from hypothesis import given
from hypothesis import strategies as st
from runware_parts import UUID, finished, options, processing

from trellis_pipeline.generation.runware.listening import (
    Listener,
    course_of,
    link_facts,
    result_facts,
    shape_of,
)

BASE = "http://127.0.0.1:9/v1"
SECRET = "tops3cretValue"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(SECRET)
    | st.just(f"https://x.test/{SECRET}?a={SECRET}"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def hear(*answers, step="generation", uuid=UUID):
    """A listener that was told these answers: (task type, JSON data)."""
    listener = Listener(step)
    for task_type, data in answers:
        listener.hear([{"taskType": task_type, "taskUUID": uuid}], 200, json.dumps(data).encode(), 0.01)
    return listener


@given(VALUES)
def test_no_value_of_an_answer_is_in_its_shape(data):
    assert SECRET not in json.dumps(shape_of({"data": data}))


def test_a_shape_says_types_and_the_words_of_the_api():
    shape = shape_of(
        {"data": [processing(progress=35), processing(), {"cost": 1, "note": "hello", "none": None}]}
    )
    assert shape["data"][0] == {
        "taskType": "text '3dInference'", "taskUUID": "uuid", "status": "text 'processing'",
        "progress": "integer",
    }  # fmt: skip
    assert shape["data"][2] == {"cost": "integer", "note": "text", "none": "null"}


def test_an_answer_that_is_nested_without_end_or_huge_is_cut():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    assert "…" in json.dumps(shape_of(deep), ensure_ascii=False)
    assert len(shape_of({str(n): n for n in range(1000)})) == 40


def test_an_answer_that_is_no_json_is_heard_as_such():
    listener = Listener("x")
    listener.hear([{"taskType": "ping"}], 502, b"<html>Bearer abc</html>", 0.5)
    assert listener.heard[0].facts() == {
        "http_status": 502, "seconds": 0.5, "shape": "not the API's JSON", "errors": []
    }  # fmt: skip


def test_the_course_of_a_task_tells_when_it_became_visible_and_what_it_said_of_its_progress():
    ack = {"data": [{"taskType": "3dInference", "taskUUID": UUID}]}
    listener = hear(
        ("3dInference", ack),
        ("getResponse", {"data": []}),
        ("getResponse", {"data": []}),
        ("getResponse", {"data": [processing(progress=20)]}),
        ("getResponse", {"data": [processing(progress=20)]}),
        ("getResponse", {"data": [processing(progress=60.5)]}),
        ("getResponse", {"data": [finished("https://im.runware.ai/x.glb")]}),
    )
    course = course_of(listener, "generation", UUID, options(BASE))
    assert course["polls_before_it_was_visible"] == 2
    assert course["progress"] == ["20", "60.5"]
    assert course["statuses"] == ["processing", "success"]
    assert course["seconds_from_ack_to_result"] >= course["seconds_from_ack_to_visible"] >= 0
    assert course["result"]["cost"] == {"type": "number", "usd": "0.0271"}


def test_a_sync_answer_is_its_own_result():
    listener = hear(("3dInference", {"data": [finished("https://im.runware.ai/x.glb")]}))
    assert course_of(listener, "generation", UUID, options(BASE))["result"]["files"] == 1


def test_the_other_documented_shape_and_a_cost_that_is_text_are_told_apart():
    item = finished("", outputs={"files": []}, modelURL="https://vm.runware.ai/y.glb", cost="0.03")
    facts = result_facts(item, options(BASE))
    assert facts["files_in"] == ["modelURL"]
    assert facts["cost"] == {"type": "text", "usd": None}


def test_a_link_is_told_by_host_and_lifetime_and_a_strange_host_is_not_allowed():
    good = link_facts(
        f"https://im.runware.ai/{SECRET}?X-Amz-Expires=600&X-Amz-Signature={SECRET}", options(BASE)
    )
    assert good["allowed"] is True
    assert good["lifetime_seconds"] == 600
    assert good["query_parameters"] == ["X-Amz-Expires", "X-Amz-Signature"]
    until = link_facts(f"https://im.runware.ai/x?expires={int(time.time()) + 3600}", options(BASE))
    assert 3590 <= until["lifetime_seconds"] <= 3600
    strange = link_facts(f"https://files.example/{SECRET}", options(BASE))
    assert strange["allowed"] is False
    assert "files.example" in strange["refused"]
    broken = link_facts(f"https://[{SECRET}", options(BASE))
    assert SECRET not in json.dumps([good, until, strange, broken])
