"""What was acknowledged is done, and billed once, whatever kills the service in between."""

import contextlib
import json
import random
import resource
import signal
import time

import httpx
import pytest
from service_process import service_process, start_service
from small_catalogs import InstantGenerator
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from wire_client import Client, wait_until

from trellis_pipeline.errors import ConfigError, StorageUnavailable
from trellis_pipeline.service.disk import Disk, open_database
from trellis_pipeline.service.faults import Fault, FaultPlan
from trellis_pipeline.service.options import ServiceOptions
from trellis_pipeline.service.serve import serve
from trellis_pipeline.service.testing import accepted_of, billing_of
from trellis_pipeline.stopping import STOPPING, stopped_by_signals


def billed_tasks(folder):
    return sorted(entry.task_uuid for entry in billing_of(folder))


def test_tasks_acknowledged_before_a_kill_are_done_once_after_it(tmp_path, picture):
    folder = tmp_path / "service"
    held = FaultPlan.of(Fault("slow_generation", after=5, times=0, seconds=3600)).to_json()
    with service_process(folder, "--faults", held, "--concurrency", "5") as service:
        client = Client(service, picture)
        tasks = [client.submit() for _ in range(12)]
        wait_until(lambda: len(billing_of(folder)) >= 3)
        service.kill()
    before = billed_tasks(folder)
    assert 3 <= len(before) <= 5

    with service_process(folder, port=service.port) as service:
        for task_uuid in tasks:
            assert client.result(task_uuid)["data"][0]["status"] == "success"
            client.http.get(client.file_url(task_uuid)).raise_for_status()
    client.http.close()
    assert billed_tasks(folder) == sorted(tasks)
    assert set(before) <= set(billed_tasks(folder))


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment_it_bills_each_task_once(tmp_path, picture):
    folder = tmp_path / "service"
    moments = random.Random(3)
    known: list[str] = []
    port = 0
    for _ in range(4):
        service = start_service(folder, "--seconds", "0.05", "--concurrency", "3", port=port)
        port = service.port
        client = Client(service, picture)
        end = time.monotonic() + moments.uniform(0.05, 0.4)
        known += [client.submit(numberResults=2) for _ in range(10)]
        time.sleep(max(0, end - time.monotonic()))
        service.kill()
        client.http.close()
    with service_process(folder, port=port) as service:
        client = Client(service, picture)
        for task_uuid in known:
            assert len(client.result(task_uuid)["data"]) == 2
        client.http.close()
    assert billed_tasks(folder) == sorted(known * 2)
    assert len({entry.result_uuid for entry in billing_of(folder)}) == 2 * len(known)


@pytest.mark.slow
def test_an_acknowledgement_that_got_lost_was_one_all_the_same(tmp_path, picture):
    folder = tmp_path / "service"
    plan = FaultPlan.of("ack_lost").to_json()
    with service_process(folder, "--faults", plan) as service:
        client = Client(service, picture)
        task = client.task()
        with pytest.raises(httpx.TransportError):
            client.post(task)
        assert accepted_of(folder) == [task["taskUUID"]]
        assert client.post(task).json()["errors"][0]["code"] == "conflictTaskUUID"
        assert client.result(task["taskUUID"])["data"][0]["status"] == "success"
        client.http.close()
    assert billed_tasks(folder) == [task["taskUUID"]]


@pytest.mark.slow
def test_sigterm_ends_it_in_good_order_and_what_was_under_way_goes_on_later(tmp_path, picture):
    folder = tmp_path / "service"
    with service_process(folder, "--seconds", "60") as service:
        client = Client(service, picture)
        task_uuid = client.submit()
        assert service.terminate() == 0
        client.http.close()
    assert billing_of(folder) == []
    with service_process(folder) as service:
        client = Client(service, picture)
        assert client.result(task_uuid)["data"][0]["status"] == "success"
        client.http.close()


@pytest.mark.parametrize("number", STOPPING)
def test_what_follows_a_signal_that_the_service_obeyed_is_left_in_peace(tmp_path, number):
    """The command still has worker processes to end, and then a good exit status to give."""
    options = ServiceOptions(folder=tmp_path / "service", port=0)
    with stopped_by_signals():
        serve(options, InstantGenerator(), announce=lambda _address: signal.raise_signal(number))
        time.sleep(0.5)  # long enough to be interrupted


def test_a_uuid_is_remembered_over_restarts(start):
    client = start()
    task = client.task()
    client.post(task)
    client.result(task["taskUUID"])
    client.service.stop()
    again = start()
    assert again.post(task).json()["errors"][0]["code"] == "conflictTaskUUID"
    assert again.result(task["taskUUID"])["data"][0]["status"] == "success"
    assert len(again.service.billing()) == 1


def test_the_balance_and_the_counters_go_on_where_they_stood(start):
    from decimal import Decimal

    client = start(credit_usd=Decimal(1))
    client.result(client.submit())
    client.service.stop()
    again = start(credit_usd=Decimal(1))
    details = {"taskType": "accountManagement", "operation": "getDetails"}
    assert again.post(details).json()["data"][0]["balance"]["amount"] == 0.9744
    page = again.http.get(f"{again.service.origin}/metrics").text
    assert "trellis_generations_billed_total 1.0" in page


def test_a_folder_serves_one_service_at_a_time(start):
    client = start()
    with pytest.raises(ConfigError, match="another service"):
        serve(ServiceOptions(folder=client.service.folder, port=0), InstantGenerator())
    with pytest.raises(ConfigError, match="another service"):
        Disk(client.service.folder)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="file"):
        serve(ServiceOptions(folder=tmp_path / "file", port=0), InstantGenerator())


def test_a_folder_whose_queue_cannot_be_read_is_named_and_given_back(tmp_path):
    options = ServiceOptions(folder=tmp_path / "service", port=0)
    disk = Disk(options.folder)
    with disk.begin() as connection:
        connection.execute(text("ALTER TABLE results RENAME COLUMN number TO something"))
    disk.close()
    with pytest.raises(StorageUnavailable, match="no such column"):
        serve(options, InstantGenerator())
    Disk(options.folder).close()


def test_the_billing_log_cannot_be_changed_or_shortened(start):
    client = start()
    client.result(client.submit())
    engine = open_database(client.service.folder)
    for statement in ("UPDATE billing SET cost = 0", "DELETE FROM billing"):
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()
    assert len(client.service.billing()) == 1


def test_a_disk_that_takes_no_files_delays_a_task_and_loses_none(start, monkeypatch):
    from trellis_pipeline.service import workers

    monkeypatch.setattr(workers, "STORAGE_RETRY_SECONDS", 0.05)
    generator = InstantGenerator()
    client = start(generator)
    files = client.service.folder / "files"
    files.rename(files.with_name("moved"))
    task_uuid = client.submit()
    wait_until(lambda: client.poll(task_uuid)["data"][0]["status"] == "processing")
    assert client.service.billing() == []
    files.with_name("moved").rename(files)
    assert client.result(task_uuid)["data"][0]["status"] == "success"
    assert len(client.service.billing()) == 1
    assert len(generator.billed) == 1  # what was made once was not made again


def test_a_file_that_never_became_whole_is_not_a_result(tmp_path):
    store = Disk(tmp_path)
    with contextlib.suppress(StorageUnavailable):
        store.write(tmp_path / "missing" / "x.glb", b"glTF")
    store.write(tmp_path / "files" / "y.glb", b"glTF")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["y.glb"]
    store.close()


def test_a_full_disk_and_a_kill_leave_no_halves_that_take_the_room_of_the_next_attempt(tmp_path):
    disk = Disk(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # in mid-write, as a full disk
    try:
        with pytest.raises(StorageUnavailable):
            disk.write(tmp_path / "files" / "x.glb", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list((tmp_path / "files").iterdir()) == []
    disk.close()

    (tmp_path / "files" / "x.glb.0123abcd.part").write_bytes(b"glTF")  # by a process that was killed
    Disk(tmp_path).close()
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.slow
def test_a_webhook_that_was_due_at_the_kill_comes_after_the_restart(tmp_path, picture, receiver):
    folder = tmp_path / "service"
    receiver.answers = [500] * 3
    with service_process(folder) as service:
        client = Client(service, picture)
        task_uuid = client.submit(webhookURL=f"{receiver.origin}/hook?token=t")
        wait_until(lambda: receiver.received)
        service.kill()
    with service_process(folder):
        wait_until(lambda: not receiver.answers and len(receiver.received) >= 4)
    client.http.close()
    assert {json.loads(call.body)["taskUUID"] for call in receiver.received} == {task_uuid}
    assert billed_tasks(folder) == [task_uuid]
