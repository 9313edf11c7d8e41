"""Every fault does what its name says, seen from outside, and the billing log stays honest."""

import asyncio
import json
import math
import time
import zlib
from decimal import Decimal

import httpx
import pytest
from small_catalogs import InstantGenerator, box_glb
from wire_client import new_uuid, wait_until

from trellis_pipeline.errors import ConfigError, ModelFileError
from trellis_pipeline.mesh.glb_read import parse_glb
from trellis_pipeline.service.faults import NAMES, SURVIVABLE, Fault, FaultEngine, FaultPlan


@pytest.fixture
def faulty(start):
    """A client of a service with these faults."""

    def begin(*faults, generator=None, **options):
        return start(generator, faults=FaultPlan.of(*faults), **options)

    return begin


def billed(client):
    return [entry.task_uuid for entry in client.service.billing()]


def error_of(answer):
    (error,) = answer.json()["errors"]
    return answer.status_code, error["code"]


# -- plans ---------------------------------------------------------------------------------------------------


def test_a_plan_goes_to_another_process_and_back_unchanged():
    for plan in (FaultPlan(), FaultPlan.of("reset", Fault("stuck", seconds=3)), FaultPlan.random(5)):
        assert FaultPlan.from_json(plan.to_json()) == plan
    assert FaultPlan.from_json('{"faults": ["ack_lost"]}') == FaultPlan.of("ack_lost")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"faults": 3}', '{"faults": [{"name": "x"}]}', '{"faults": [{"nome": "reset"}]}'],
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ConfigError):
        FaultPlan.from_json(text)


def test_a_seeded_plan_strikes_the_same_tasks_whatever_their_order():
    tasks = [new_uuid() for _ in range(300)]

    def struck(order):
        engine = FaultEngine(FaultPlan.random(7, rate=0.2, names=["reset"]))
        return {task for task in order if engine.strike("reset", [task])}

    assert struck(tasks) == struck(reversed(tasks))
    assert 30 < len(struck(tasks)) < 90


def test_a_fault_lets_some_moments_pass_strikes_and_stops():
    engine = FaultEngine(FaultPlan.of(Fault("reset", after=2, times=3)))
    assert [bool(engine.strike("reset")) for _ in range(7)] == [False, False, True, True, True, False, False]
    assert engine.struck == {"reset": 3}


# -- answers -------------------------------------------------------------------------------------------------


def test_wrong_key(faulty):
    client = faulty("wrong_key")
    assert error_of(client.post(client.task())) == (401, "invalidApiKey")
    assert client.service.accepted() == []


@pytest.mark.parametrize("status", ["402", "400"])
def test_credit_ends_after_some_tasks(faulty, status):
    client = faulty(Fault("out_of_credit", after=2, times=0, value=status))
    client.submit()
    done = client.submit()
    for _ in range(2):
        assert error_of(client.post(client.task())) == (int(status), "insufficientCredits")
    assert client.result(done)["data"]
    assert len(client.service.accepted()) == 2


@pytest.mark.parametrize("wait", ["", "2"])
def test_too_many_requests_with_and_without_a_time_to_wait(faulty, wait):
    client = faulty(Fault("rate_limited", value=wait, times=2))
    for _ in range(2):
        answer = client.post(client.task())
        assert error_of(answer) == (429, "rateLimitExceeded")
        assert answer.headers.get("retry-after", "") == wait
    client.submit()


def test_a_burst_of_server_errors_only_on_polls(faulty):
    client = faulty(Fault("server_error", times=3, on="poll", value="500"))
    task_uuid = client.submit()
    for _ in range(3):
        answer = client.post({"taskType": "getResponse", "taskUUID": task_uuid})
        assert error_of(answer) == (500, "internalServerError")
    assert client.result(task_uuid)["data"]


@pytest.mark.parametrize(
    ("fault", "status"), [(Fault("html_error", value="504"), 504), (Fault("html_200"), 200)]
)
def test_a_proxy_answers_with_html(faulty, fault, status):
    client = faulty(fault)
    answer = client.post(client.task())
    assert answer.status_code == status
    assert answer.text.startswith("<!DOCTYPE html>")
    assert client.service.accepted() == []


@pytest.mark.parametrize("name", ["server_error", "html_error", "html_200"])
def test_an_error_may_come_after_the_task_was_accepted(faulty, name):
    client = faulty(Fault(name, accepted=True))
    task = client.task()
    client.post(task)
    assert client.service.accepted() == [task["taskUUID"]]
    assert client.result(task["taskUUID"])["data"]


def test_an_acknowledgement_gets_lost_and_the_task_is_billed(faulty):
    client = faulty(Fault("ack_lost", task_uuid=(chosen := new_uuid())))
    client.submit()
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.post(client.task(taskUUID=chosen))
    assert error_of(client.post(client.task(taskUUID=chosen))) == (400, "conflictTaskUUID")
    client.result(chosen)
    assert billed(client).count(chosen) == 1


def test_a_connection_is_reset_in_the_middle_of_an_answer(faulty):
    client = faulty("reset")
    task = client.task()
    with client.http.stream("POST", client.service.base_url, json=[task]) as answer:
        assert answer.status_code == 200
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            answer.read()
    assert client.service.accepted() == [task["taskUUID"]]


def test_json_is_cut_off(faulty):
    client = faulty("truncated_json")
    answer = client.post(client.task())
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_a_gzip_bomb_is_small_on_the_wire_and_half_a_gigabyte_behind(faulty):
    client = faulty("gzip_bomb")
    unpacker, size = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
    with client.http.stream("POST", client.service.base_url, json=[client.task()]) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        raw = b"".join(answer.iter_raw())
    assert len(raw) < 2_000_000
    rest = raw
    while rest:
        size += len(unpacker.decompress(rest, 2**24))
        rest = unpacker.unconsumed_tail
    size += len(unpacker.flush())
    assert size > 500_000_000
    assert unpacker.eof  # with a checksum that is right


def test_an_answer_comes_byte_by_byte(faulty):
    client = faulty(Fault("slow_body", seconds=0.5))
    begin = time.monotonic()
    assert client.post(client.task()).json()["data"]
    assert time.monotonic() - begin > 0.4


# -- contents ------------------------------------------------------------------------------------------------


def test_a_task_stays_hidden_for_a_while_after_it_was_accepted(faulty):
    for_ever = new_uuid()
    client = faulty(Fault("hidden", task_uuid=for_ever), Fault("hidden", after=1, seconds=0.4))
    client.submit(taskUUID=for_ever)
    begin = time.monotonic()
    assert client.result(client.submit())["data"]
    assert time.monotonic() - begin > 0.4
    assert client.poll(for_ever) == {"data": []}


def test_a_finished_task_is_shown_as_processing(faulty):
    client = faulty(Fault("stuck", times=1))
    stuck, other = client.submit(), client.submit()
    wait_until(lambda: len(billed(client)) == 2)
    (item,) = client.poll(stuck)["data"]
    assert item["status"] == "processing"
    assert "outputs" not in item
    assert client.poll(other)["data"][0]["status"] == "success"
    assert client.poll(stuck)["data"][0]["status"] == "processing"


def test_items_come_twice_in_reverse_and_with_strangers(faulty):
    client = faulty("duplicate_items", "out_of_order", "foreign_items", generator=InstantGenerator())
    tasks = [client.submit() for _ in range(3)]
    wait_until(lambda: len(billed(client)) == 3)
    said = client.poll(*tasks)
    stranger, *items = [item["taskUUID"] for item in said["data"]]
    assert stranger not in tasks
    assert items == [task for task in reversed(tasks) for _ in range(2)]
    (error,) = said["errors"]
    assert error["taskUUID"] not in tasks
    assert [item["taskUUID"] for item in client.poll(*tasks)["data"]] == tasks


@pytest.mark.parametrize("code", ["rateLimitExceeded", "internalServerError"])
def test_one_task_of_a_poll_is_turned_away_under_its_own_name(faulty, code):
    fault = Fault("turned_away", value="" if code == "rateLimitExceeded" else code)
    client = faulty(fault, generator=InstantGenerator())
    tasks = sorted(client.submit() for _ in range(2))
    wait_until(lambda: len(billed(client)) == 2)
    said = client.poll(*tasks)
    assert [item["taskUUID"] for item in said["data"]] == tasks[1:]
    (error,) = said["errors"]
    assert (error["code"], error["taskUUID"]) == (code, tasks[0])
    assert "taskType" not in error
    assert [item["taskUUID"] for item in client.poll(*tasks)["data"]] == tasks


@pytest.mark.parametrize(
    ("value", "shown"),
    [("text", "0.0256"), ("negative", -0.0256), ("nan", math.nan), ("tiny", 1e-7), ("missing", None)],
)
def test_a_cost_is_odd_and_the_billing_log_is_not(faulty, value, shown):
    client = faulty(Fault("odd_cost", value=value))
    (item,) = client.result(client.submit())["data"]
    assert ("cost" in item) == (value != "missing")
    assert repr(item.get("cost")) == repr(shown)
    assert [entry.cost for entry in client.service.billing()] == [Decimal("0.0256")]


def test_a_result_in_the_shape_of_the_examples_alone(faulty):
    client = faulty("examples_shape")
    (item,) = client.result(client.submit())["data"]
    assert not {"modelUUID", "modelURL"} & set(item)
    assert client.http.get(item["outputs"]["files"][0]["url"]).content == box_glb()


def test_a_result_in_the_shape_of_the_response_table_alone(faulty):
    client = faulty("legacy_shape")
    (item,) = client.result(client.submit())["data"]
    assert "outputs" not in item
    assert item["modelUUID"] in item["modelURL"]
    assert client.http.get(item["modelURL"]).content == box_glb()


@pytest.mark.parametrize("value", ["", "data_uri"])
def test_a_result_without_a_url(faulty, value):
    import base64

    client = faulty(Fault("inline_model", value=value))
    (item,) = client.result(client.submit())["data"]
    text = item["modelDataURI"].partition(",")[2] if value else item["modelBase64Data"]
    assert base64.b64decode(text) == box_glb()
    assert not {"outputs", "modelURL"} & set(item)


def test_the_first_link_is_dead_and_the_next_is_good(faulty):
    client = faulty("dead_link")
    task_uuid = client.submit()
    assert client.http.get(client.file_url(task_uuid)).status_code == 403
    assert client.http.get(client.file_url(task_uuid)).content == box_glb()


# -- work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "400", "data"])
def test_a_task_fails_in_each_of_the_known_forms_and_is_not_billed(faulty, value):
    client = faulty(Fault("task_fails", value=value))
    task_uuid = client.submit()
    said = client.result(task_uuid)
    status = client.post({"taskType": "getResponse", "taskUUID": task_uuid}).status_code
    assert status == (400 if value == "400" else 200)
    if value == "data":
        assert said["data"][0]["status"] == "error"
        assert said["data"][0]["error"]["code"] == "inferenceError"
    else:
        assert said["data"] == []
        assert said["errors"][0]["taskUUID"] == task_uuid
    assert client.service.billing() == []
    assert client.result(client.submit())["data"][0]["status"] == "success"


def test_one_of_four_results_fails(faulty):
    client = faulty(Fault("one_result_fails", value="2"))
    said = client.result(client.submit(numberResults=4, seed=0))
    assert [item["seed"] for item in said["data"]] == [0, 1, 3]
    assert len(said["errors"]) == 1
    assert len(billed(client)) == 3


def test_a_generation_takes_longer(faulty):
    client = faulty(Fault("slow_generation", seconds=0.3))
    begin = time.monotonic()
    assert client.result(client.submit())["data"]
    assert time.monotonic() - begin > 0.3


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_is_gone_once(faulty):
    client = faulty(Fault("file_gone", value="410"))
    url = client.file_url(client.submit())
    assert client.http.get(url).status_code == 410
    assert client.http.get(url).content == box_glb()


def test_a_download_is_redirected_to_the_metadata_address(faulty):
    client = faulty("redirect_to_metadata")
    answer = client.http.get(client.file_url(client.submit()))
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("http://169.254.169.254/")


def test_half_a_file_with_its_own_length(faulty):
    client = faulty("truncated_file")
    url = client.file_url(client.submit())
    half = client.http.get(url)
    assert half.content == box_glb()[: len(box_glb()) // 2]
    with pytest.raises(ModelFileError):
        parse_glb(half.content)
    assert client.http.get(url).content == box_glb()


@pytest.mark.parametrize("fault", [Fault("truncated_file", value="wrong_length"), Fault("file_reset")])
def test_half_a_file_with_the_length_of_the_whole(faulty, fault):
    client = faulty(fault)
    url = client.file_url(client.submit())
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        client.http.get(url)
    assert client.http.get(url).content == box_glb()


def test_a_glb_claims_two_gigabytes(faulty):
    client = faulty("glb_bomb")
    bomb = client.http.get(client.file_url(client.submit())).content
    assert bomb[:4] == b"glTF"
    assert len(bomb) < 100
    with pytest.raises(ModelFileError):
        parse_glb(bomb)


def test_a_file_comes_byte_by_byte(faulty):
    client = faulty(Fault("slow_file", seconds=0.3))
    url = client.file_url(client.submit())
    begin = time.monotonic()
    assert client.http.get(url).content == box_glb()
    assert time.monotonic() - begin > 0.2


# -- deliveries ----------------------------------------------------------------------------------------------


def hook_bodies(receiver):
    return [json.loads(call.body) for call in receiver.received]


def test_a_forged_call_comes_before_the_true_one(faulty, receiver):
    client = faulty("webhook_forged")
    task_uuid = client.submit(webhookURL=f"{receiver.origin}/hook?token=t")
    wait_until(lambda: len(receiver.received) == 2)
    forged, true = hook_bodies(receiver)
    assert forged["taskUUID"] == true["taskUUID"] == task_uuid
    assert "attacker.invalid" in forged["outputs"]["files"][0]["url"]
    assert true["outputs"]["files"][0]["url"].startswith(client.service.origin)


def test_a_forged_call_may_lack_the_token(faulty, receiver):
    client = faulty(Fault("webhook_forged", value="token"))
    client.submit(webhookURL=f"{receiver.origin}/hook?token=t")
    wait_until(lambda: len(receiver.received) == 2)
    assert [call.path for call in receiver.received] == ["/hook", "/hook?token=t"]


def test_a_call_comes_twice(faulty, receiver):
    client = faulty("webhook_duplicate")
    client.submit(webhookURL=f"{receiver.origin}/hook")
    wait_until(lambda: len(receiver.received) == 2)
    assert receiver.received[0].body == receiver.received[1].body


def test_a_call_comes_before_there_is_anything(faulty, receiver):
    class Waiting(InstantGenerator):
        async def generate(self, request, image, progress=None):
            await asyncio.Event().wait()

    client = faulty("webhook_early", generator=Waiting())
    task_uuid = client.submit(webhookURL=f"{receiver.origin}/hook")
    wait_until(lambda: receiver.received)
    assert hook_bodies(receiver)[0]["status"] == "success"
    assert client.poll(task_uuid)["data"][0]["status"] == "processing"


def test_a_call_never_comes(faulty, receiver):
    client = faulty("webhook_never")
    client.result(client.submit(webhookURL=f"{receiver.origin}/hook"))
    assert client.service.pending_deliveries(settled=True) == 0
    assert receiver.received == []
    assert client.service.struck["webhook_never"] == 1


def test_an_upload_comes_late_or_never(faulty, receiver):
    client = faulty(Fault("upload_late", seconds=0.5), Fault("upload_never", after=1))
    begin = time.monotonic()
    client.submit(uploadEndpoint=f"{receiver.origin}/late")
    wait_until(lambda: receiver.received)
    assert time.monotonic() - begin > 0.4
    client.result(client.submit(uploadEndpoint=f"{receiver.origin}/never"))
    assert client.service.pending_deliveries(settled=True) == 0
    assert [call.path for call in receiver.received] == ["/late"]


def test_every_fault_of_the_catalogue_is_tested_here():
    from pathlib import Path

    text = Path(__file__).read_text()
    assert [name for name in NAMES if f'"{name}"' not in text] == []
    assert set(SURVIVABLE) <= set(NAMES)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_under_a_random_plan_a_stubborn_client_gets_every_model_billed_once(start, seed):
    client = start(faults=FaultPlan.random(seed, rate=0.3, seconds=0.05))
    tasks = [client.task() for _ in range(12)]

    def submitted(task):
        try:
            answer = client.post(task)
            said = answer.json()
        except (httpx.TransportError, ValueError):
            return False
        codes = [error["code"] for error in said.get("errors", [])]
        return answer.status_code == 200 or codes == ["conflictTaskUUID"]

    def fetched(task):
        try:
            said = client.poll(task["taskUUID"])
            for item in said["data"]:
                if item["taskUUID"] == task["taskUUID"] and item["status"] == "success":
                    url = item.get("modelURL") or item["outputs"]["files"][0]["url"]
                    return client.http.get(url).content == box_glb()
        except (httpx.TransportError, ValueError, KeyError):
            pass
        return False

    for task in tasks:
        wait_until(lambda task=task: submitted(task))
    for task in tasks:
        wait_until(lambda task=task: fetched(task))
    assert sorted(billed(client)) == sorted(task["taskUUID"] for task in tasks)
    assert len(client.service.struck) > 5
