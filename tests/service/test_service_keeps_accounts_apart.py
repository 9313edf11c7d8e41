"""Two customers with one catalog send the same tasks under the same UUIDs; each gets and pays their own."""

import json
import sqlite3
import time

import pytest
from small_catalogs import InstantGenerator, box_glb
from wire_client import KEY, Client, new_uuid, wait_until

from trellis_pipeline.errors import ConfigError, StorageUnavailable, TaskFailed
from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.options import hash_api_key
from trellis_pipeline.service.testing import billing_of

OTHER_KEY = "the-key-of-somebody-else"
ACCOUNT, OTHER_ACCOUNT = hash_api_key(KEY), hash_api_key(OTHER_KEY)


def another(client):
    """The same service as somebody else meets it."""
    return Client(client.service, client.picture, OTHER_KEY)


def file_of(item):
    return item["outputs"]["files"][0]


def test_two_accounts_may_use_the_same_task_uuid_and_each_gets_and_pays_its_own_model(start):
    client = start(api_keys=[KEY, OTHER_KEY])
    other = another(client)
    task = client.task(seed=1)

    for buyer, seed in ((client, 1), (other, 2)):
        assert buyer.post(task | {"seed": seed}).status_code == 200
    items = [buyer.result(task["taskUUID"])["data"][0] for buyer in (client, other)]

    assert [item["seed"] for item in items] == [1, 2]
    assert file_of(items[0])["uuid"] != file_of(items[1])["uuid"]
    for item in items:
        assert client.http.get(file_of(item)["url"]).content == box_glb()
    billed = client.service.billing()
    assert {(entry.account, entry.task_uuid) for entry in billed} == {
        (ACCOUNT, task["taskUUID"]),
        (OTHER_ACCOUNT, task["taskUUID"]),
    }
    assert len(billed) == 2

    for buyer in (client, other):  # a UUID that is used up is used up for each by itself
        assert buyer.post(task).json()["errors"][0]["code"] == "conflictTaskUUID"
    details = {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}
    for buyer, seed in ((client, 1), (other, 2)):
        assert buyer.post(details).json()["data"][0]["request"][0]["seed"] == seed
    assert len(client.service.billing()) == 2
    other.http.close()


def test_a_refused_repeat_is_noted_with_the_account_that_repeated(start):
    client = start(api_keys=[KEY, OTHER_KEY])
    other = another(client)
    task = client.task()
    for buyer in (client, other):
        buyer.post(task)
        buyer.result(task["taskUUID"])
    assert other.post(task).status_code == 400
    details = {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}
    assert "data" in client.post(details).json()["data"][0]["response"]
    assert "errors" in other.post(details).json()["data"][0]["response"]
    other.http.close()


def test_a_failed_task_does_not_fail_that_of_another_account_with_the_same_uuid(start):
    class FailsOnce(InstantGenerator):
        async def generate(self, request, image, progress=None):
            if request.seed == 1:
                raise TaskFailed("no")
            return await super().generate(request, image, progress)

    client = start(FailsOnce(), api_keys=[KEY, OTHER_KEY])
    other = another(client)
    task = client.task(deliveryMethod="sync")
    assert client.post(task | {"seed": 1}).json()["errors"][0]["code"] == "inferenceError"
    assert other.post(task | {"seed": 2}).json()["data"][0]["seed"] == 2
    assert [entry.account for entry in client.service.billing()] == [OTHER_ACCOUNT]
    other.http.close()


def test_webhooks_and_uploads_of_two_accounts_with_the_same_task_uuid_carry_their_own_results(
    start, receiver
):
    client = start(api_keys=[KEY, OTHER_KEY])
    other = another(client)
    task = client.task()
    for name, buyer, seed in (("one", client, 6), ("two", other, 7)):
        hook, upload = f"{receiver.origin}/{name}", f"{receiver.origin}/{name}.glb"
        buyer.post(task | {"seed": seed, "webhookURL": hook, "uploadEndpoint": upload})
    wait_until(lambda: len(receiver.received) == 4)
    told = {call.path: json.loads(call.body)["seed"] for call in receiver.received if call.method == "POST"}
    assert told == {"/one": 6, "/two": 7}
    assert {call.path for call in receiver.received if call.method == "PUT"} == {"/one.glb", "/two.glb"}
    other.http.close()


# -- folders of earlier versions -----------------------------------------------------------------------------

# The tables as they were while a task was known by its UUID alone, to the letter.
VERSION_0 = """
CREATE TABLE billing (seq INTEGER NOT NULL, at FLOAT NOT NULL, account TEXT NOT NULL, task_uuid TEXT NOT NULL,
    result_uuid TEXT NOT NULL, cost BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (result_uuid));
CREATE TRIGGER billing_refuses_update BEFORE UPDATE ON billing
    BEGIN SELECT RAISE(ABORT, 'the billing log is append-only'); END;
CREATE TRIGGER billing_refuses_delete BEFORE DELETE ON billing
    BEGIN SELECT RAISE(ABORT, 'the billing log is append-only'); END;
CREATE TABLE deliveries (seq INTEGER NOT NULL, kind TEXT NOT NULL, task_uuid TEXT NOT NULL,
    number INTEGER NOT NULL, attempts INTEGER NOT NULL, due_at FLOAT NOT NULL, PRIMARY KEY (seq));
CREATE TABLE media (media_uuid TEXT NOT NULL, account TEXT NOT NULL, sha256 TEXT NOT NULL, mime TEXT NOT NULL,
    at FLOAT NOT NULL, PRIMARY KEY (media_uuid));
CREATE INDEX media_by_content ON media (account, sha256);
CREATE TABLE tasks (seq INTEGER NOT NULL, task_uuid TEXT NOT NULL, account TEXT NOT NULL,
    payload TEXT NOT NULL, base_url TEXT NOT NULL, accepted_at FLOAT NOT NULL, rejection TEXT,
    PRIMARY KEY (seq), UNIQUE (task_uuid));
CREATE TABLE results (task_uuid TEXT NOT NULL, number INTEGER NOT NULL, result_uuid TEXT NOT NULL,
    seed TEXT NOT NULL, state TEXT NOT NULL, quote BIGINT NOT NULL, cost BIGINT, error TEXT, ended_at FLOAT,
    expires_at FLOAT, file_bytes INTEGER, PRIMARY KEY (task_uuid, number),
    FOREIGN KEY(task_uuid) REFERENCES tasks (task_uuid), UNIQUE (result_uuid));
CREATE INDEX results_by_state ON results (state);
"""
DONE, QUEUED = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def earlier(tmp_path, photo, receiver):
    """A folder of version 0: a task that is done, billed and to be told of, and one that waits."""
    import hashlib

    folder = tmp_path / "service"
    for name in ("files", "media"):
        (folder / name).mkdir(parents=True)
    sha256, now = hashlib.sha256(photo).hexdigest(), time.time()
    (folder / "media" / sha256).write_bytes(photo)
    result = new_uuid()
    (folder / "files" / f"{result}.glb").write_bytes(box_glb())
    upload = new_uuid()
    payload = {
        "taskType": "3dInference",
        "model": "microsoft:trellis-2@4b",
        "includeCost": True,
        "inputs": {"image": upload},
        "webhookURL": f"{receiver.origin}/hook",
    }
    with sqlite3.connect(folder / "service.sqlite") as database:
        database.executescript(VERSION_0)
        database.execute("INSERT INTO media VALUES (?, ?, ?, 'image/png', ?)",
                         (upload, ACCOUNT, sha256, now))  # fmt: skip
        for seq, task in enumerate((DONE, QUEUED), 1):
            told = json.dumps(payload | {"taskUUID": task})
            database.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, 'http://localhost', ?, NULL)",
                             (seq, task, ACCOUNT, told, now))  # fmt: skip
        row = "INSERT INTO results VALUES (?, 0, ?, '7', ?, 25600000, ?, NULL, ?, ?, ?)"
        database.execute(row, (DONE, result, "done", 25600000, now, now + 1000, len(box_glb())))
        database.execute(row, (QUEUED, new_uuid(), "queued", None, None, None, None))
        database.execute("INSERT INTO billing VALUES (1, ?, ?, ?, ?, 25600000)", (now, ACCOUNT, DONE, result))
        database.execute("INSERT INTO deliveries VALUES (1, 'webhook', ?, 0, 2, ?)", (DONE, now))
    database.close()
    return folder


def test_a_folder_of_an_earlier_version_opens_and_goes_on_where_it_stood(start, receiver, earlier):
    client = start(folder=earlier, api_keys=[KEY, OTHER_KEY])

    assert client.http.get(client.file_url(DONE)).content == box_glb()
    assert client.result(QUEUED)["data"][0]["seed"] == 7
    assert [(entry.account, entry.task_uuid) for entry in billing_of(earlier)] == [
        (ACCOUNT, DONE),
        (ACCOUNT, QUEUED),
    ]
    wait_until(lambda: len(receiver.received) == 2)  # the one that was due, and that of the other task
    assert {json.loads(call.body)["taskUUID"] for call in receiver.received} == {DONE, QUEUED}
    assert client.post(client.task(taskUUID=DONE)).json()["errors"][0]["code"] == "conflictTaskUUID"

    other = another(client)
    assert other.poll(DONE) == {"data": []}
    assert other.post(other.task(taskUUID=DONE)).status_code == 200
    assert file_of(other.result(DONE)["data"][0]) != file_of(client.result(DONE)["data"][0])
    other.http.close()


def test_a_folder_is_brought_up_to_date_once_and_opens_again(earlier):
    for _ in range(2):
        Disk(earlier).close()
    assert [entry.task_uuid for entry in billing_of(earlier)] == [DONE]
    with sqlite3.connect(earlier / "service.sqlite") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"billing", "deliveries", "media", "results", "tasks"}
        assert database.execute("SELECT account, attempts FROM deliveries").fetchall() == [(ACCOUNT, 2)]
    database.close()


def test_a_folder_that_cannot_be_brought_up_to_date_stays_as_it_was(earlier):
    with sqlite3.connect(earlier / "service.sqlite") as database:
        database.execute("ALTER TABLE tasks RENAME COLUMN payload TO wish")
    before = list(database.iterdump())
    with pytest.raises(StorageUnavailable):
        Disk(earlier)
    assert list(database.iterdump()) == before
    database.close()


def test_a_folder_of_a_later_version_is_refused_and_not_touched(earlier):
    with sqlite3.connect(earlier / "service.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    before = list(database.iterdump())
    with pytest.raises(ConfigError, match="later version"):
        Disk(earlier)
    assert list(database.iterdump()) == before
    database.close()
