"""Nobody gets in without a key, nothing outside the document is accepted, no input breaks the service."""

import json
import socket

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_catalogs import InstantGenerator
from wire_client import listed_codes as codes

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.service.options import ServiceOptions, account_of, hash_api_key
from trellis_pipeline.service.serve import bind, make_server, serve

JSON = {"Content-Type": "application/json"}


# -- keys ----------------------------------------------------------------------------------------------------


def test_a_wrong_key_and_no_key_are_refused_before_anything_happens(shared):
    before = shared.service.requests()
    ping = b'[{"taskType":"ping","ping":true}]'
    for headers, code in (
        ({}, "missingApiKey"),
        ({"Authorization": "Bearer"}, "missingApiKey"),
        ({"Authorization": "Basic a-key-that-tests-use"}, "missingApiKey"),
        ({"Authorization": "Bearer wrong"}, "invalidApiKey"),
        ({"Authorization": "Bearer " + hash_api_key("a-key-that-tests-use")}, "invalidApiKey"),
    ):
        answer = httpx.post(shared.service.base_url, content=ping, headers=JSON | headers)
        assert answer.status_code == 401
        assert codes(answer) == [code]
    assert shared.service.requests() == before


def test_a_key_may_come_in_an_authentication_task_instead(shared):
    ping = {"taskType": "ping", "ping": True}
    for key, status in (("another-key", 200), ("wrong", 401), ("", 401), (None, 401), (5, 401)):
        answer = httpx.post(
            shared.service.base_url, json=[{"taskType": "authentication", "apiKey": key}, ping]
        )
        assert answer.status_code == status
        if status == 200:
            session, pong = answer.json()["data"]
            assert session["taskType"] == "authentication"
            assert session["connectionSessionUUID"]
            assert pong["pong"] is True


def test_two_keys_of_different_accounts_in_one_request_are_refused(shared):
    answer = shared.post({"taskType": "authentication", "apiKey": "another-key"}, {"taskType": "ping"})
    assert answer.status_code == 401


def test_an_account_sees_neither_tasks_nor_uploads_of_another(shared):
    task = shared.task()
    shared.post(task)
    shared.result(task["taskUUID"])
    upload = shared.post({"taskType": "imageUpload", "image": shared.picture}).json()["data"][0]
    other = {"Authorization": "Bearer another-key"}
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    assert shared.post(poll, **other).json() == {"data": []}
    assert codes(shared.post({"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}, **other)) == [
        "taskNotFound"
    ]
    use = shared.task(inputs={"image": upload["imageUUID"]})
    assert codes(shared.post(use, **other)) == ["mediaNotFound"]
    delete = {"taskType": "mediaStorage", "operation": "delete", "media": upload["imageUUID"]}
    assert codes(shared.post(delete, **other)) == ["mediaNotFound"]


def test_keys_are_kept_as_hashes_only(shared):
    kept = b"".join(path.read_bytes() for path in shared.service.folder.rglob("*") if path.is_file())
    assert b"a-key-that-tests-use" not in kept
    options = ServiceOptions(folder=shared.service.folder, api_key_hashes=(hash_api_key("k"),))
    assert account_of("k", options) == hash_api_key("k")
    assert account_of("K", options) is None
    with pytest.raises(ConfigError, match="sha256"):
        ServiceOptions(folder=shared.service.folder, api_key_hashes=("the-key-itself",))


def test_without_keys_the_service_does_not_listen_to_the_network(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.test"):
        with pytest.raises(ConfigError, match="API keys"):
            serve(ServiceOptions(folder=tmp_path, host=host), InstantGenerator())
    make_server(ServiceOptions(folder=tmp_path, host="::1"), InstantGenerator())
    make_server(
        ServiceOptions(folder=tmp_path, host="0.0.0.0", api_key_hashes=(hash_api_key("k"),)),
        InstantGenerator(),
    )


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)


def test_without_keys_any_bearer_is_taken_but_only_under_a_local_name(start):
    client = start()
    ping = [{"taskType": "ping"}]
    assert httpx.post(client.service.base_url, json=ping, headers={"Authorization": "Bearer x"}).is_success
    assert httpx.post(client.service.base_url, json=ping).status_code == 401
    rebound = {"Authorization": "Bearer x", "Host": "attacker.test"}
    assert httpx.post(client.service.base_url, json=ping, headers=rebound).status_code == 403


def test_a_web_page_cannot_post_without_asking_first(shared):
    answer = httpx.post(
        shared.service.base_url,
        content=b'[{"taskType":"authentication","apiKey":"another-key"},{"taskType":"ping"}]',
        headers={"Content-Type": "text/plain"},
    )
    assert answer.status_code == 415


# -- requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[1]",
        b"[[]]",
        b'{"taskType":"ping"}',
        b'[{"taskType":"ping"},3]',
        b'[{"taskType":"ping"}',
        b"\xff\xfe",
        b'["\\ud800"]',
        b'[{"taskType":"ping","x":"\\ud800"}]',
        b'[{"taskType":"ping","x":"\xed\xa0\x80"}]',  # the same as bytes
        b'[{"taskType":"ping","x":NaN}]',
        b'[{"taskType":"ping","x":-Infinity}]',
        b'[{"taskType":"ping","x":' + b"9" * 5000 + b"}]",
        b"[" * 100_000,
        b'[{"a":' * 5_000 + b"1" + b"}]" * 5_000,
    ],
    ids=lambda body: body[:20].decode("latin1"),
)
def test_a_body_that_is_no_array_of_tasks_is_refused(shared, body):
    answer = shared.http.post(shared.service.base_url, content=body, headers=JSON)
    assert answer.status_code == 400
    assert codes(answer)[0] in {"invalidJSON", "invalidRequest"}


def test_a_request_that_is_too_large_is_refused_whether_or_not_it_says_so(start):
    client = start(max_request_bytes=10_000)
    body = json.dumps([client.task(inputs={"image": "A" * 20_000})]).encode()

    def pieces():
        for begin in range(0, len(body), 1000):
            yield body[begin : begin + 1000]

    for content in (body, pieces()):
        answer = client.http.post(client.service.base_url, content=content, headers=JSON)
        assert answer.status_code == 413
        assert codes(answer) == ["requestTooLarge"]


def test_a_request_that_never_ends_is_ended(start, monkeypatch):
    from trellis_pipeline.service import app

    monkeypatch.setattr(app, "BODY_SECONDS", 0.1)
    client = start()
    address = httpx.URL(client.service.origin)
    with socket.create_connection((address.host, address.port), timeout=120) as slow:
        slow.sendall(
            b"POST /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n["
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_too_many_tasks_in_one_request_are_refused_together(start):
    client = start(max_tasks=3)
    assert codes(client.post(*(client.task() for _ in range(4)))) == ["arrayTooLarge"]
    assert client.service.accepted() == []


def test_a_full_queue_sends_clients_away_for_a_while(start):
    import asyncio

    class Waiting(InstantGenerator):
        async def generate(self, request, image, progress=None):
            await asyncio.Event().wait()

    client = start(Waiting(), max_queue=2)
    client.submit()
    answer = client.post(client.task(), client.task())
    assert [item["taskType"] for item in answer.json()["data"]] == ["3dInference"]
    assert codes(answer) == ["rateLimitExceeded"]
    answer = client.post(client.task())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert len(client.service.accepted()) == 2


def test_a_compressed_request_is_refused(shared):
    headers = JSON | {"Content-Encoding": "gzip"}
    assert shared.http.post(shared.service.base_url, content=b"x", headers=headers).status_code == 415


def test_every_wrong_field_is_named_with_what_is_allowed(shared):
    task = shared.task(
        numberResults=5, settings={"resolution": 777, "texSlat": {"steps": 0}, "colour": 1}, ttl=5
    )
    del task["model"]
    answer = shared.post(task)
    assert answer.status_code == 400
    errors = {error["parameter"]: error for error in answer.json()["errors"]}
    assert set(errors) == {
        "model",
        "numberResults",
        "settings.resolution",
        "settings.texSlat.steps",
        "settings.colour",
        "ttl",
    }
    assert errors["model"]["code"] == "missingParameter"
    assert errors["settings.resolution"]["allowedValues"] == ["512", "1024", "1536"]
    assert errors["settings.resolution"]["documentation"].endswith("#request-settings-resolution")
    for error in errors.values():
        assert error["message"]
        assert error["taskType"] == "3dInference"
        assert error["taskUUID"] == task["taskUUID"]


def test_several_results_cannot_share_one_upload_endpoint(shared):
    answer = shared.post(shared.task(numberResults=2, uploadEndpoint="https://bucket.test/x?sig=s3cret"))
    assert codes(answer) == ["incompatibleParameters"]
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({}, "missingParameter"),
        ({"taskType": None}, "missingParameter"),
        ({"taskType": 7}, "unsupportedTaskType"),
        ({"taskType": "imageInference"}, "unsupportedTaskType"),
        ({"taskType": "getResponse"}, "missingParameter"),
        ({"taskType": "getResponse", "taskUUID": "x"}, "invalidValue"),
        ({"taskType": "getResponse", "taskUUID": ["x"]}, "invalidType"),
        ({"taskType": "getTaskDetails", "taskUUID": "'; DROP TABLE tasks"}, "invalidValue"),
        ({"taskType": "imageUpload"}, "missingParameter"),
        ({"taskType": "imageUpload", "image": "data:text/html;base64,AAAA"}, "invalidImage"),
        ({"taskType": "imageUpload", "image": "AAAA"}, "invalidImage"),
        ({"taskType": "imageUpload", "image": "/etc/passwd"}, "invalidImage"),
        ({"taskType": "imageUpload", "image": "file:///etc/passwd"}, "invalidImage"),
        ({"taskType": "imageUpload", "image": "http://169.254.169.254/x.png"}, "downloadFailed"),
        ({"taskType": "imageUpload", "image": "0b6f6f0e-2a51-4c3b-9f0e-5d1f8f3b7a11"}, "invalidImage"),
        ({"taskType": "mediaStorage"}, "missingParameter"),
        ({"taskType": "mediaStorage", "operation": "steal"}, "invalidValue"),
        ({"taskType": "mediaStorage", "operation": "delete"}, "missingParameter"),
        ({"taskType": "mediaStorage", "operation": "delete", "media": "../secret"}, "mediaNotFound"),
        ({"taskType": "accountManagement"}, "missingParameter"),
        ({"taskType": "accountManagement", "operation": "getSecrets"}, "invalidValue"),
    ],
    ids=str,
)
def test_a_wrong_utility_task_is_refused(shared, task, code):
    answer = shared.post(task)
    assert answer.status_code in {400, 404}
    assert codes(answer) == [code]


def test_a_picture_that_is_none_is_refused_before_it_is_accepted(shared):
    before = shared.service.accepted()
    bomb = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (50_000).to_bytes(4) * 2 + b"\x08\x06\x00\x00\x00"
    import base64

    for picture in (b"GIF89a" + b"\0" * 50, b"<svg xmlns='x'/>", bomb):
        image = base64.b64encode(picture).decode()
        assert codes(shared.post(shared.task(inputs={"image": image}))) == ["invalidImage"]
    assert shared.service.accepted() == before


def test_other_paths_and_methods_are_none_of_ours(shared):
    origin = shared.service.origin
    assert shared.http.get(f"{origin}/v1").status_code == 405
    for path in ("/", "/v2", "/files/", "/files/../lock", "/files/%2e%2e/secret", "/media/x", "/docs"):
        assert shared.http.get(origin + path).status_code in {403, 404}


def test_names_of_the_database_are_not_in_any_answer(shared):
    answer = shared.post(shared.task(taskUUID="x' OR 1=1 --"))
    assert answer.status_code == 400
    assert "sqlite" not in answer.text.lower()


# -- hostile bodies ------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = (
    "taskType", "taskUUID", "model", "inputs", "settings", "numberResults", "seed", "ttl", "image", "media",
    "operation", "apiKey", "webhookURL", "uploadEndpoint", "deliveryMethod", "includeCost", "outputType",
)  # fmt: skip
TYPES = (
    "3dInference", "getResponse", "getTaskDetails", "imageUpload", "mediaStorage", "accountManagement",
    "ping", "authentication",
)  # fmt: skip
hostile_task = st.builds(
    lambda fields, kind: fields | kind,
    st.dictionaries(st.sampled_from(NAMES), anything, max_size=8),
    st.just({}) | st.builds(lambda name: {"taskType": name}, st.sampled_from(TYPES)),
)
quiet = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(answer):
    assert answer.status_code in {200, 400, 401, 404, 413}
    said = answer.json()
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    for error in said.get("errors", []):
        assert error["code"] not in {"internalServerError", "serviceUnavailable"}
        assert isinstance(error["message"], str)


@quiet
@given(st.lists(hostile_task, min_size=1, max_size=3))
def test_no_task_whatever_it_holds_breaks_the_service(shared, tasks):
    body = json.dumps(tasks).encode()
    check(shared.http.post(shared.service.base_url, content=body, headers=JSON))


@quiet
@given(
    st.sampled_from(
        ("seed", "ttl", "numberResults", "settings", "inputs", "webhookURL", "uploadEndpoint", "taskUUID")
    ),
    anything,
)
def test_no_field_of_a_good_task_whatever_it_becomes_breaks_the_service(shared, name, value):
    task = shared.task() | {name: value}
    body = json.dumps([task]).encode()
    check(shared.http.post(shared.service.base_url, content=body, headers=JSON))


@quiet
@given(st.binary(max_size=300))
def test_no_bytes_break_the_service(shared, body):
    check(shared.http.post(shared.service.base_url, content=body, headers=JSON))
