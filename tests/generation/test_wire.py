"""The task on the wire: exactly the API document, and refused by name whatever else it may be."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trellis_pipeline.errors import RequestInvalid
from trellis_pipeline.generation.request import GenerationRequest, build_request
from trellis_pipeline.generation.wire import FIELDS, Delivery, parse_task, task_json
from trellis_pipeline.generation.wire_image import data_uri, image_form, inline_image

UUID = "0b6f6f0e-2a51-4c3b-9f0e-5d1f8f3b7a11"
IMAGE = "https://assets.example.test/chair.png"
# The first example of the API document, as it stands there.
EXAMPLE = {
    "taskType": "3dInference",
    "taskUUID": "bd373968-8512-4315-a95f-95a4401fea3e",
    "model": "microsoft:trellis-2@4b",
    "seed": 424242,
    "settings": {
        "textureSize": 2048,
        "decimationTarget": 500000,
        "remesh": True,
        "resolution": 1024,
        "sparseStructure": {"guidanceStrength": 8, "guidanceRescale": 0.7, "steps": 30, "rescaleT": 3},
        "shapeSlat": {"guidanceStrength": 7.5, "guidanceRescale": 0.7, "steps": 28, "rescaleT": 3},
        "texSlat": {"guidanceStrength": 8.5, "guidanceRescale": 0.6, "steps": 30, "rescaleT": 3},
    },
    "inputs": {"image": "https://assets.runware.ai/assets/inputs/41d320a9-1ed2-4dd8-9727-d83297535d02.jpg"},
}


def task(**changes):
    return {
        "taskType": "3dInference",
        "taskUUID": UUID,
        "model": "microsoft:trellis-2@4b",
        "inputs": {"image": IMAGE},
        **changes,
    }


def refusals(data):
    """What is wrong with it, if anything. Any other exception is a failed test."""
    try:
        parse_task(data)
    except RequestInvalid as error:
        return error.faults
    return ()


def faults(data):
    with pytest.raises(RequestInvalid) as caught:
        parse_task(data)
    return {fault.path: fault for fault in caught.value.faults}


def test_the_documents_own_example_is_a_task():
    parsed = parse_task(EXAMPLE)
    assert parsed.settings.texSlat.guidanceStrength == 8.5
    assert parsed.request(424242).seed == 424242


def test_what_is_left_out_has_the_documents_defaults():
    parsed = parse_task(task())
    assert parsed.model_dump(exclude={"settings", "inputs"}) == {
        "taskType": "3dInference",
        "taskUUID": UUID,
        "model": "microsoft:trellis-2@4b",
        "outputType": "URL",
        "outputFormat": "GLB",
        "webhookURL": None,
        "deliveryMethod": "async",
        "uploadEndpoint": None,
        "ttl": None,
        "includeCost": False,
        "numberResults": 1,
        "seed": None,
    }
    assert parsed.settings.model_dump(exclude_none=True) == {
        "resolution": 1024,
        "decimationTarget": 500_000,
        "remesh": True,
        "textureSize": 2048,
        "sparseStructure": {},
        "shapeSlat": {},
        "texSlat": {},
    }


def test_every_field_of_the_documents_request_table_is_known_and_no_other():
    stages = ("shapeSlat", "sparseStructure", "texSlat")
    sampler = ("steps", "guidanceRescale", "guidanceStrength", "rescaleT")
    table = {
        "taskType", "taskUUID", "outputType", "outputFormat", "webhookURL", "deliveryMethod",
        "uploadEndpoint", "ttl", "includeCost", "numberResults", "inputs", "inputs.image", "model", "seed",
        "settings", "settings.resolution", "settings.decimationTarget", "settings.remesh",
        "settings.textureSize",
        *(f"settings.{stage}" for stage in stages),
        *(f"settings.{stage}.{name}" for stage in stages for name in sampler),
    }  # fmt: skip
    assert set(FIELDS) == table


@pytest.mark.parametrize(
    ("changes", "path", "code", "allowed"),
    [
        ({"taskType": "imageInference"}, "taskType", "unsupportedTaskType", ("3dInference",)),
        ({"model": "microsoft-trellis-2"}, "model", "invalidModel", ("microsoft:trellis-2@4b",)),
        ({"taskUUID": "7"}, "taskUUID", "invalidValue", ()),
        ({"taskUUID": "0b6f6f0e-2a51-1c3b-9f0e-5d1f8f3b7a11"}, "taskUUID", "invalidValue", ()),
        ({"outputType": "base64Data"}, "outputType", "invalidValue", ("URL",)),
        ({"outputFormat": "FBX"}, "outputFormat", "invalidValue", ("GLB",)),
        ({"deliveryMethod": "stream"}, "deliveryMethod", "invalidValue", ("sync", "async")),
        ({"webhookURL": "example.test/hook"}, "webhookURL", "invalidValue", ()),
        ({"uploadEndpoint": "ftp://example.test/x"}, "uploadEndpoint", "invalidValue", ()),
        ({"ttl": 59}, "ttl", "invalidValue", ("60 or more",)),
        ({"ttl": True}, "ttl", "invalidType", ("60 or more",)),
        ({"includeCost": "yes"}, "includeCost", "invalidType", ()),
        ({"numberResults": 0}, "numberResults", "invalidValue", ("1 to 4",)),
        ({"numberResults": 5}, "numberResults", "invalidValue", ("1 to 4",)),
        ({"seed": -1}, "seed", "invalidValue", ("0 to 9223372036854775807",)),
        ({"seed": 2**63}, "seed", "invalidValue", ("0 to 9223372036854775807",)),
        ({"seed": 10**5000}, "seed", "invalidValue", ("0 to 9223372036854775807",)),
        ({"seed": "7"}, "seed", "invalidType", ("0 to 9223372036854775807",)),
        ({"inputs": {}}, "inputs.image", "missingParameter", ()),
        ({"inputs": {"image": "data:text/html,x"}}, "inputs.image", "invalidImage", ()),
        ({"inputs": IMAGE}, "inputs", "invalidType", ()),
        ({"settings": {"resolution": 700}}, "settings.resolution", "invalidValue", ("512", "1024", "1536")),
        ({"settings": {"resolution": "512"}}, "settings.resolution", "invalidValue", ("512", "1024", "1536")),
        (
            {"settings": {"textureSize": 1500}},
            "settings.textureSize",
            "invalidValue",
            ("1024", "2048", "3072", "4096"),
        ),
        (
            {"settings": {"decimationTarget": 99_999}},
            "settings.decimationTarget",
            "invalidValue",
            ("100000 to 1000000",),
        ),
        ({"settings": {"remesh": 1}}, "settings.remesh", "invalidType", ()),
        ({"settings": {"texSlat": {"steps": 51}}}, "settings.texSlat.steps", "invalidValue", ("1 to 50",)),
        ({"settings": {"texSlat": {"steps": 3.5}}}, "settings.texSlat.steps", "invalidType", ("1 to 50",)),
        (
            {"settings": {"shapeSlat": {"guidanceRescale": float("nan")}}},
            "settings.shapeSlat.guidanceRescale",
            "invalidValue",
            ("0 to 1",),
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_its_code_and_what_is_allowed(changes, path, code, allowed):
    found = faults(task(**changes))
    assert list(found) == [path]
    assert (found[path].code, found[path].allowed) == (code, allowed)


@pytest.mark.parametrize(
    ("changes", "path", "hint"),
    [
        ({"webhookUrl": "https://a.test"}, "webhookUrl", "did you mean webhookURL?"),
        ({"remesh": True}, "remesh", "did you mean settings.remesh?"),
        ({"inputs": {"image": IMAGE, "images": []}}, "inputs.images", "did you mean inputs.image?"),
        (
            {"settings": {"texSlat": {"step": 3}}},
            "settings.texSlat.step",
            "did you mean settings.texSlat.steps?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_probably_meant(changes, path, hint):
    found = faults(task(**changes))
    assert found[path].code == "unknownParameter"
    assert hint in str(found[path])


def test_an_unknown_key_that_resembles_nothing_is_refused_with_the_known_ones():
    assert faults(task(settings={"zzz": 1}))["settings.zzz"].allowed[:2] == ("resolution", "decimationTarget")


def test_every_wrong_field_is_named_not_only_the_first():
    found = faults(task(ttl=1, seed=-1, settings={"resolution": 1, "texSlat": {"steps": 0}}))
    assert set(found) == {"ttl", "seed", "settings.resolution", "settings.texSlat.steps"}


def test_no_fault_repeats_a_signed_address_or_a_photo():
    secret = "X-Amz-Signature=5ecret"
    found = faults(
        task(webhookURL=f"hook?{secret}", uploadEndpoint=f"put?{secret}", inputs={"image": f"??{secret}"})
    )
    assert set(found) == {"webhookURL", "uploadEndpoint", "inputs.image"}
    assert "5ecret" not in " ".join(map(str, found.values()))


def test_a_task_does_not_show_its_addresses_when_printed():
    parsed = parse_task(
        task(webhookURL="https://a.test/?token=5ecret", uploadEndpoint="https://b.test/?5ecret")
    )
    delivery = Delivery(webhook_url="https://a.test/?token=5ecret")
    assert "5ecret" not in repr(parsed) + str(parsed) + repr(delivery)
    assert IMAGE not in repr(parsed)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["3dInference", UUID]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=12) | st.sampled_from([f.rpartition(".")[2] for f in FIELDS]), inner
        )
    ),
    max_leaves=12,
)


@given(anything)
@example({"\ud800": 1})
@example(task(model="\ud800"))
@example(task(**{"x" * 100_000: 1}))
@example([task()])
def test_whatever_arrives_nothing_but_a_refusal_by_name_comes_out(data):
    for fault in refusals(data):
        assert fault.path
        assert fault.code
        str(fault).encode()


@given(st.sampled_from(FIELDS), anything)
def test_a_good_task_with_one_field_replaced_by_anything_is_taken_or_refused_by_name(path, value):
    data = json.loads(json.dumps(task(settings={"sparseStructure": {}, "shapeSlat": {}, "texSlat": {}})))
    *groups, leaf = path.split(".")
    place = data
    for group in groups:
        place = place[group]
    place[leaf] = value
    assert all(fault.path.startswith(path) for fault in refusals(data))


samplers = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.integers(1, 50),
        "guidanceStrength": st.floats(1, 10),
        "guidanceRescale": st.floats(0, 1),
        "rescaleT": st.floats(1, 6),
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "numberResults": st.integers(1, 4),
        "settings": st.fixed_dictionaries(
            {},
            optional={
                "resolution": st.sampled_from([512, 1024, 1536]),
                "textureSize": st.sampled_from([1024, 2048, 3072, 4096]),
                "decimationTarget": st.integers(100_000, 1_000_000),
                "remesh": st.booleans(),
                "sparseStructure": samplers,
                "shapeSlat": samplers,
                "texSlat": samplers,
            },
        ),
    },
).map(build_request)
deliveries = st.builds(
    Delivery,
    method=st.sampled_from(["sync", "async"]),
    webhook_url=st.none() | st.just("https://hooks.example.test/runware?token=0"),
    ttl_seconds=st.none() | st.integers(60, 10**9),
)


@given(requests, st.uuids(version=4), st.binary(min_size=1, max_size=300), deliveries)
def test_what_the_client_builds_is_what_the_server_reads(request, uuid, png, delivery):
    sent = task_json(request, str(uuid), data_uri(png), delivery)
    parsed = parse_task(json.loads(json.dumps(sent)))
    assert parsed.request(request.seed) == request
    assert (parsed.taskUUID, parsed.seed, parsed.includeCost) == (str(uuid), request.seed, True)
    assert (parsed.deliveryMethod, parsed.webhookURL, parsed.ttl) == (
        delivery.method,
        delivery.webhook_url,
        delivery.ttl_seconds,
    )
    assert inline_image(parsed.inputs.image) == png


def test_the_client_leaves_out_what_was_not_chosen():
    sent = task_json(GenerationRequest(seed=2**63 - 1), UUID, IMAGE)
    assert not {"webhookURL", "uploadEndpoint", "ttl"} & sent.keys()
    assert sent["settings"].keys() == {"resolution", "decimationTarget", "remesh", "textureSize"}
    assert json.loads(json.dumps(sent))["seed"] == 9223372036854775807


def test_several_results_cannot_share_one_upload_endpoint():
    delivery = Delivery(upload_endpoint="https://bucket.example.test/put?signature=0")
    assert task_json(GenerationRequest(), UUID, IMAGE, delivery)["uploadEndpoint"]
    with pytest.raises(RequestInvalid, match="4 results cannot share one uploadEndpoint"):
        task_json(GenerationRequest(numberResults=4), UUID, IMAGE, delivery)


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (UUID, "uuid"),
        (IMAGE, "url"),
        ("http://127.0.0.1:8000/a.png", "url"),
        ("data:image/png;base64,iVBORw0KGgo=", "data_uri"),
        ("data:image/webp;base64,UklGRg==", "data_uri"),
        ("iVBORw0KGgo=", "base64"),
    ],
)
def test_a_picture_may_be_named_or_sent_in_four_ways(image, form):
    assert image_form(image) == form
    assert parse_task(task(inputs={"image": image})).inputs.image == image


@pytest.mark.parametrize(
    "image",
    ["", " ", "chair.png?", "file:///etc/passwd", "data:image/png,abc", "https://", "https://a b/", "ä"],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(RequestInvalid):
        image_form(image)


@pytest.mark.parametrize("text", ["iVBOR", "iVBO" * 2000 + "!", "data:image/png;base64,", UUID, IMAGE])
def test_damaged_base64_and_mere_names_hold_no_picture(text):
    with pytest.raises(RequestInvalid):
        inline_image(text)


@given(st.binary(min_size=1, max_size=200))
def test_a_picture_comes_back_from_both_inline_forms(picture):
    assert inline_image(data_uri(picture)) == picture
    assert inline_image(base64.b64encode(picture).decode()) == picture
