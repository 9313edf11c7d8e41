"""Files of finished tasks: fetched from where they may come from, checked, and not given up easily."""

import base64
import gzip
import struct
import tracemalloc

import pytest
from runware_parts import FILE, SENTINEL, UUID, collected, error, finished, processing, small_glb
from scripted_server import RESET, http, scripted_server

from trellis_pipeline.errors import (
    ModelFileError,
    OutcomeUnknown,
    ResultLost,
    StorageUnavailable,
    TrellisError,
)
from trellis_pipeline.generation.runware.options import UploadSlot
from trellis_pipeline.storage.store import BlobRef

GLB = small_glb()
SECRET = "signature=5ecret"


def outcome_of(file_answer, *, url=None, results=1, answer=None, **more):
    """Collect a task whose file is answered so; the models or the error, and the server.

    file_answer: raw bytes, steps, or a function of the number of downloads so far. answer: replaces the item.
    """
    downloads = []

    def handle(asked):
        if asked.method == "POST":
            link = url(server) if url else f"{server.origin}/m.glb?{SECRET}&poll={asked.number}"
            item = answer(link) if answer else finished(link)
            if asked.task_type == "getTaskDetails":
                item = {"taskType": "getTaskDetails", "taskUUID": UUID, "response": {"data": [item]}}
            return http({"data": [item]})
        downloads.append(asked)
        return file_answer(len(downloads)) if callable(file_answer) else file_answer

    with scripted_server(handle) as server:
        try:
            found = collected(server.base_url, results=results, **more)
        except TrellisError as problem:
            found = problem
    assert "5ecret" not in repr(found)
    server.downloads = downloads
    return found, server


def test_a_file_is_fetched_without_the_key():
    (model,), server = outcome_of(http(GLB))
    assert model.glb == GLB
    (asked,) = server.downloads
    assert "authorization" not in asked.headers
    assert SENTINEL not in str(asked.headers)


@pytest.mark.parametrize(
    "bad",
    [
        http(GLB[: len(GLB) // 2]),
        http(GLB[: len(GLB) // 2], Content_Length=str(len(GLB))),
        [http(GLB)[:-10], RESET],
        [RESET],
        http("<html>Bad Gateway</html>", 502),
        http("<html>Welcome</html>"),
        http(b""),
        http("slow down", 429),
    ],
    ids=["truncated", "truncated, full length", "reset mid-body", "reset", "502", "html 200", "empty", "429"],
)  # fmt: skip
def test_a_file_that_arrives_broken_is_fetched_again(bad):
    (model,), server = outcome_of(lambda number: bad if number < 3 else http(GLB))
    assert model.glb == GLB
    assert len(server.downloads) == 3


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(http(GLB[: len(GLB) // 2]), id="truncated"),
        pytest.param(http(GLB + b"more"), id="followed by other data"),
        pytest.param(
            http(struct.pack("<4sIIII", b"glTF", 2, len(GLB), 2**31, 0x4E4F534A) + GLB[20:]),
            id="a JSON chunk that claims two gigabytes",
        ),
        pytest.param(
            http(struct.pack("<4sIIII", b"glTF", 2, 2**32 - 1, 2**31, 0x4E4F534A) + GLB[20:]),
            id="a file that claims four gigabytes",
        ),
        pytest.param(http(b"PK\x03\x04" + bytes(100)), id="a zip"),
    ],
)
def test_a_file_that_stays_unusable_is_lost_and_billable(bad):
    tracemalloc.start()
    try:
        lost, server = outcome_of(bad)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(lost, ResultLost)
    assert lost.billable
    assert len(server.downloads) == 3
    assert peak < 20_000_000


def test_a_download_that_fails_for_now_stays_open_because_the_file_is_still_there():
    problem, server = outcome_of(http("down", 503), attempts=4)
    assert isinstance(problem, OutcomeUnknown)
    assert problem.billable
    assert "run again" in str(problem)
    assert len(server.downloads) == 4


def test_a_download_that_drips_ends_at_its_deadline():
    drip = [step for byte in http(GLB) for step in (bytes([byte]), 0.05)]
    problem, _ = outcome_of(drip, download_seconds=0.3, attempts=1)
    assert isinstance(problem, OutcomeUnknown)
    assert "0.3 s" in str(problem)


def test_a_gzip_bomb_of_a_model_is_not_unpacked():
    bomb = http(gzip.compress(bytes(100_000_000), 1), Content_Encoding="gzip")
    tracemalloc.start()
    try:
        lost, _ = outcome_of(bomb, max_model_bytes=1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(lost, ResultLost)
    assert "max_model_bytes" in str(lost)
    assert peak < 30_000_000


# -- links that have expired -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_link_is_asked_for_again(status):
    (model,), server = outcome_of(lambda number: http("expired", status) if number == 1 else http(GLB))
    assert model.glb == GLB
    first, second = server.downloads
    assert first.path != second.path
    assert server.count("getResponse") == 2


def test_a_link_that_getresponse_no_longer_has_is_looked_for_in_the_archive():
    polls = []

    def handle(asked):
        if asked.method == "GET":
            return http("expired", 403) if asked.path == "/old.glb" else http(GLB)
        if asked.task_type == "getTaskDetails":
            item = {"taskType": "getTaskDetails", "taskUUID": UUID, "request": [],
                    "response": {"data": [finished(f"{server.origin}/new.glb")]}}  # fmt: skip
            return http({"data": [item]})
        polls.append(asked)
        return http({"data": [finished(f"{server.origin}/old.glb")] if len(polls) == 1 else []})

    with scripted_server(handle) as server:
        (model,) = collected(server.base_url)
    assert model.glb == GLB


def test_a_file_that_the_provider_no_longer_has_is_lost_and_billable():
    lost, server = outcome_of(http("expired", 404))
    assert isinstance(lost, ResultLost)
    assert lost.billable
    assert len(server.downloads) == 3


def test_a_task_whose_media_expired_is_lost_and_not_bought_again_as_failed():
    with (
        scripted_server(lambda _: http({"errors": [error("mediaExpired")]})) as server,
        pytest.raises(ResultLost),
    ):
        collected(server.base_url)


# -- links that are not followed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/latest/",
        "http://127.0.0.1:1/other-port.glb",
        "file:///etc/passwd",
        "https://attacker.example.test/m.glb",
        "https://user:pass@im.runware.ai/m.glb",
        "https://",
    ],
)
def test_a_redirect_to_where_no_file_may_come_from_is_not_followed_and_the_outcome_stays_open(target):
    problem, server = outcome_of(http(status=302, Location=target))
    assert isinstance(problem, OutcomeUnknown)
    assert problem.billable
    assert len(server.downloads) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/m.glb",
        "http://im.runware.ai/m.glb",
        "https://im.runware.ai.attacker.example.test/m.glb",
        "https://notrunware.ai/m.glb",
        "https://runware.ai@attacker.example.test/m.glb",
        "ftp://im.runware.ai/m.glb",
        "javascript:alert(1)",
        "https://[bad/m.glb",
        "\x00",
    ],
)
def test_a_link_in_an_answer_is_judged_like_a_redirect(url):
    problem, _ = outcome_of(http(GLB), url=lambda _: f"{url}?{SECRET}")
    assert isinstance(problem, OutcomeUnknown)


@pytest.mark.parametrize("allowed", [("169.254.169.254",), ("attacker.example.test", "169.254.169.254")])
def test_no_option_opens_the_metadata_service(allowed):
    problem, _ = outcome_of(
        http(GLB),
        url=lambda _: "http://169.254.169.254/latest/meta-data/",
        allowed_hosts=allowed,
        allow_private_downloads=True,
    )
    assert isinstance(problem, OutcomeUnknown)
    assert "metadata" in str(problem)


def test_a_private_host_is_fetched_from_only_where_the_options_say_so():
    with scripted_server(lambda _: http(GLB)) as files:
        link = f"{files.origin}/m.glb"
        problem, _ = outcome_of(http(), url=lambda _: link, allowed_hosts=("127.0.0.1",))
        assert isinstance(problem, OutcomeUnknown)
        (model,), _ = outcome_of(
            http(), url=lambda _: link, allowed_hosts=("127.0.0.1",), allow_private_downloads=True
        )
    assert model.glb == GLB


def test_a_redirect_within_the_same_server_is_followed_and_a_circle_is_not_for_ever():
    (model,), _ = outcome_of(lambda n: http(status=302, Location="/b.glb") if n == 1 else http(GLB))
    assert model.glb == GLB
    problem, server = outcome_of(http(status=302, Location="/b.glb"))
    assert isinstance(problem, OutcomeUnknown)
    assert len(server.downloads) == 6


# -- other ways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        {"modelUUID": FILE, "modelBase64Data": base64.b64encode(GLB).decode()},
        {
            "modelUUID": FILE,
            "modelDataURI": "data:model/gltf-binary;base64," + base64.b64encode(GLB).decode(),
        },
    ],
)
def test_a_model_inside_the_answer_needs_no_download(shape):
    item = {**processing(status="success"), **shape}
    (model,), server = outcome_of(http(GLB), answer=lambda _: item)
    assert model.glb == GLB
    assert server.downloads == []


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(GLB[:40]).decode()])
def test_a_damaged_model_inside_the_answer_is_lost(text):
    item = {**processing(status="success"), "modelBase64Data": text}
    assert isinstance(outcome_of(http(GLB), answer=lambda _: item)[0], ResultLost)


def uploading(take, **more):
    """Buy with an upload slot from which `take` takes what was uploaded; the models, and the server."""
    from runware_parts import bought

    def handle(asked):
        if asked.method == "GET":
            return http(GLB)
        ack = {"taskType": "3dInference", "taskUUID": UUID}
        return http(
            {"data": [ack if asked.task_type == "3dInference" else finished(f"{server.origin}/m.glb")]}
        )

    slot = UploadSlot(f"https://bucket.example.test/m.glb?{SECRET}", take)
    with scripted_server(handle) as server:
        return bought(server.base_url, upload_slot=lambda _: slot, **more), server


def test_an_uploaded_file_is_taken_from_ones_own_storage_also_when_it_lags():
    most, blob = [], BlobRef.of(GLB, ".glb")

    def take(most_bytes):
        most.append(most_bytes)
        if len(most) == 2:
            raise ModelFileError("it breaks off")
        return blob if len(most) > 2 else None

    (model,), server = uploading(take, upload_wait_seconds=10, max_model_bytes=12345)
    assert (model.stored, model.glb) == (blob, b"")
    assert model.provenance["glb_sha256"] == blob.sha256
    assert set(most) == {12345}
    assert server.requests[0].tasks[0]["uploadEndpoint"].startswith("https://bucket.example.test/")
    assert not [asked for asked in server.requests if asked.method == "GET"]


def test_an_upload_that_never_comes_is_replaced_by_the_link():
    (model,), server = uploading(lambda _: None, upload_wait_seconds=0.3)
    assert model.glb == GLB
    assert [asked for asked in server.requests if asked.method == "GET"]


@pytest.mark.parametrize(
    "problem",
    [
        ConnectionError(f"https://bucket.example.test/m.glb?{SECRET}"),
        StorageUnavailable("s3://models (get_object): no answer"),
        RuntimeError(SECRET),
    ],
)
def test_whatever_breaks_in_ones_own_storage_the_model_is_fetched_by_its_link(problem, caplog):
    def take(_most_bytes):
        raise problem

    (model,), server = uploading(take, upload_wait_seconds=30)
    assert (model.glb, model.stored) == (GLB, None)
    assert [asked for asked in server.requests if asked.method == "GET"]
    assert "fetching it by its link" in caplog.text
    assert SECRET not in caplog.text


def test_where_no_place_for_an_upload_can_be_made_the_model_is_bought_without():
    from runware_parts import bought

    def no_slot(_task_uuid):
        raise ConnectionError(SECRET)

    def handle(asked):
        ack = {"taskType": "3dInference", "taskUUID": UUID}
        first = asked.task_type == "3dInference"
        done = http(GLB) if asked.method == "GET" else None
        return done or http({"data": [ack if first else finished(f"{server.origin}/m.glb")]})

    with scripted_server(handle) as server:
        (model,) = bought(server.base_url, upload_slot=no_slot)
    assert model.glb == GLB
    assert "uploadEndpoint" not in server.requests[0].tasks[0]


def test_several_results_get_no_upload_endpoint():
    from runware_parts import crop, with_generator

    from trellis_pipeline.generation.request import GenerationRequest

    slot = UploadSlot("https://bucket.example.test/m.glb", lambda _: None)
    with scripted_server(lambda _: http({"data": [{"taskType": "3dInference", "taskUUID": UUID}]})) as server:

        async def use(generator):
            await generator.submit(UUID, GenerationRequest(numberResults=2), crop())

        with_generator(server.base_url, use, upload_slot=lambda _: slot)
    assert "uploadEndpoint" not in server.requests[0].tasks[0]
