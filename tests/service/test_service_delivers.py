"""Webhooks and uploads arrive, are tried again until they do, and go nowhere they should not."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from small_catalogs import InstantGenerator, box_glb
from wire_client import wait_until

from trellis_pipeline.errors import ProviderBusy, TaskFailed
from trellis_pipeline.service.deliveries import wait_before
from trellis_pipeline.service.outbound import send
from trellis_pipeline.service.outbox import Outbox


def test_a_webhook_is_called_with_a_flat_body_once_for_each_result(start, receiver):
    client = start()
    task_uuid = client.submit(numberResults=2, seed=1, webhookURL=f"{receiver.origin}/hook?token=abc")
    wait_until(lambda: len(receiver.received) == 2)
    bodies = [json.loads(call.body) for call in receiver.received]
    assert sorted(body["seed"] for body in bodies) == [1, 2]
    for call, body in zip(receiver.received, bodies, strict=True):
        assert (call.method, call.path) == ("POST", "/hook?token=abc")
        assert call.headers["Content-Type"] == "application/json"
        assert call.headers["Host"] == urlsplit(receiver.origin).netloc
        assert "Authorization" not in call.headers
        assert body["taskUUID"] == task_uuid
        assert body["status"] == "success"
        assert body["cost"] == 0.0256
        assert client.http.get(body["outputs"]["files"][0]["url"]).content == box_glb()
        assert client.http.get(body["modelURL"]).content == box_glb()
    assert client.poll(task_uuid)["data"][0]["status"] == "success"


def test_a_host_with_several_addresses_is_tried_at_each(start, receiver):
    client = start()
    port = urlsplit(receiver.origin).port
    client.submit(webhookURL=f"http://localhost:{port}/hook")  # mostly ::1 first, where nobody listens
    wait_until(lambda: receiver.received)
    assert client.service.pending_deliveries(settled=True) == 0


def test_a_webhook_turns_a_sync_task_into_an_acknowledged_one(start, receiver):
    client = start()
    task = client.task(deliveryMethod="sync", webhookURL=f"{receiver.origin}/hook")
    assert client.post(task).json()["data"] == [{"taskType": "3dInference", "taskUUID": task["taskUUID"]}]
    wait_until(lambda: receiver.received)


def test_a_failed_task_calls_back_too(start, receiver):
    class Failing(InstantGenerator):
        async def generate(self, request, image, progress=None):
            raise TaskFailed("no")

    client = start(Failing())
    task_uuid = client.submit(
        webhookURL=f"{receiver.origin}/hook", uploadEndpoint=f"{receiver.origin}/upload"
    )
    (call,) = wait_until(lambda: receiver.received)
    assert json.loads(call.body) == {
        "taskType": "3dInference",
        "taskUUID": task_uuid,
        "status": "error",
        "code": "inferenceError",
        "message": "no",
    }


def test_a_webhook_that_is_not_answered_well_is_tried_again(start, receiver):
    receiver.answers = [500, 302, 404]
    client = start()
    client.submit(webhookURL=f"{receiver.origin}/hook")
    wait_until(lambda: len(receiver.received) == 4)
    assert len({call.body for call in receiver.received}) == 1
    assert client.service.pending_deliveries(settled=True) == 0


def test_a_webhook_that_arrives_while_somebody_looks_what_is_due_is_not_called_again(
    start, receiver, monkeypatch
):
    real = Outbox.due

    def look_slowly(self, now):
        seen = real(self, now)
        time.sleep(0.1)
        return seen

    monkeypatch.setattr(Outbox, "due", look_slowly)
    client = start()
    client.submit(numberResults=4, webhookURL=f"{receiver.origin}/hook")
    wait_until(lambda: len(receiver.received) >= 4)
    assert client.service.pending_deliveries(settled=True) == 0
    assert len(receiver.received) == 4


def test_waits_between_attempts_double_from_a_quarter_second_to_eight():
    assert [wait_before(attempt) for attempt in range(2, 10)] == [0.25, 0.5, 1, 2, 4, 8, 8, 8]


def test_a_webhook_that_never_works_is_given_up_and_harms_nobody(start, receiver):
    receiver.answers = [500] * 2
    client = start(delivery_attempts=2)
    task_uuid = client.submit(webhookURL=f"{receiver.origin}/hook")
    wait_until(lambda: len(receiver.received) == 2)
    assert client.service.pending_deliveries(settled=True) == 0
    assert len(receiver.received) == 2
    assert client.poll(task_uuid)["data"][0]["status"] == "success"


def test_an_address_that_breaks_a_library_is_given_up_like_any_other(start):
    client = start(delivery_attempts=1)
    task_uuid = client.submit(webhookURL="https://xn--a/hook")  # Punycode of a control character
    client.result(task_uuid)
    assert client.service.pending_deliveries(settled=True) == 0


def test_a_receiver_that_answers_a_byte_now_and_then_is_not_waited_for():
    def answer_slowly(listener):
        with listener.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(600):
                connection.sendall(b"X")
                time.sleep(0.1)

    async def call(port):
        async with httpx.AsyncClient(trust_env=False) as client:
            await send(client, "POST", f"http://127.0.0.1:{port}/hook", b"{}", "application/json",
                       allow_private=True, timeout_seconds=0.4)  # fmt: skip

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_slowly, args=[listener])
        thread.start()
        with pytest.raises(ProviderBusy, match="TimeoutError"):
            asyncio.run(call(listener.getsockname()[1]))
        thread.join()


def test_the_glb_is_put_to_the_upload_endpoint(start, receiver):
    client = start()
    client.submit(uploadEndpoint=f"{receiver.origin}/bucket/model.glb?X-Amz-Signature=s3cret")
    (call,) = wait_until(lambda: receiver.received)
    assert (call.method, call.path) == ("PUT", "/bucket/model.glb?X-Amz-Signature=s3cret")
    assert call.body == box_glb()
    assert call.headers["Content-Type"] == "model/gltf-binary"


@pytest.mark.parametrize("field", ["webhookURL", "uploadEndpoint"])
@pytest.mark.parametrize("address", ["private", "http://169.254.169.254/latest"])
def test_private_and_metadata_addresses_are_not_called(start, receiver, caplog, field, address):
    target = f"{receiver.origin}/x?token=s3cret" if address == "private" else address
    client = start(allow_private_addresses=address != "private", delivery_attempts=1)
    task_uuid = client.submit(**{field: target})
    assert client.result(task_uuid)["data"]
    assert client.service.pending_deliveries(settled=True) == 0
    assert receiver.received == []
    assert "given up" in caplog.text
    assert "s3cret" not in caplog.text


def test_metrics_tell_what_is_going_on(start, receiver):
    client = start()
    client.result(client.submit(webhookURL=f"{receiver.origin}/hook"))
    client.service.pending_deliveries(settled=True)
    page = client.http.get(f"{client.service.origin}/metrics").text
    for line in (
        "trellis_generations_billed_total 1.0",
        "trellis_billed_usd_total 0.0256",
        "trellis_tasks_in_progress 0.0",
        "trellis_tasks_queued 0.0",
        "trellis_tasks_accepted_total 1.0",
        "trellis_generation_seconds_count 1.0",
        'trellis_requests_total{task_type="3dInference"} 1.0',
        'trellis_deliveries_total{kind="webhook",outcome="delivered"} 1.0',
    ):
        assert line in page
    assert client.http.get(f"{client.service.origin}/healthz").text == "ok"


def test_metrics_are_for_key_holders_where_there_are_keys(start):
    client = start(api_keys=["k1"], key="k1")
    url = f"{client.service.origin}/metrics"
    assert client.http.get(url).status_code == 200
    assert client.http.get(url, headers={"Authorization": "Bearer k2"}).status_code == 401
    assert client.http.get(f"{client.service.origin}/healthz", headers={"Authorization": ""}).is_success
