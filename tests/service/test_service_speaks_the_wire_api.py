"""The service speaks the provider's API: what the document and its examples show is what comes back."""

import asyncio
import base64
import hashlib
import io
import json
import uuid
from decimal import Decimal

import pytest
from PIL import Image, ImageDraw
from small_catalogs import InstantGenerator, box_glb
from wire_client import new_uuid, wait_until

from trellis_pipeline.errors import TaskFailed
from trellis_pipeline.generation.generator import GeneratedModel
from trellis_pipeline.mesh.glb_read import parse_glb
from trellis_pipeline.service.workers import Workers


class WatchedGenerator(InstantGenerator):
    """Keeps what it was given; waits where told to; seeds of `fail` fail."""

    def __init__(self, fail=(), hold=False):
        super().__init__()
        self.images, self.requests = [], []
        self.fail, self.hold = set(fail), hold

    async def generate(self, request, image, progress=None):
        self.images.append(image)
        self.requests.append(request)
        progress(0.42)
        while self.hold:
            await asyncio.sleep(0.01)
        if request.seed in self.fail:
            raise TaskFailed(f"seed {request.seed} gave up")
        return await super().generate(request, image, progress)


def test_a_task_is_acknowledged_polled_and_downloaded(shared):
    task = shared.task(seed=7)

    acknowledged = shared.post(task)

    assert acknowledged.status_code == 200
    assert acknowledged.json() == {"data": [{"taskType": "3dInference", "taskUUID": task["taskUUID"]}]}
    (item,) = shared.result(task["taskUUID"])["data"]
    (file,) = item.pop("outputs")["files"]
    assert item == {
        "taskType": "3dInference",
        "taskUUID": task["taskUUID"],
        "status": "success",
        "seed": 7,
        "cost": 0.0256,
        "modelUUID": file["uuid"],
        "modelURL": file["url"],
    }
    assert set(file) == {"uuid", "url"}
    glb = shared.http.get(file["url"], headers={"Authorization": ""})
    assert glb.content == box_glb()
    assert glb.headers["content-type"] == "model/gltf-binary"
    parse_glb(glb.content)


def test_a_client_written_from_the_response_table_finds_every_model(start):
    client = start()
    for more in ({"deliveryMethod": "sync"}, {"numberResults": 3}):
        task = client.task(**more)
        said = client.post(task).json()
        items = said["data"] if "deliveryMethod" in more else client.result(task["taskUUID"])["data"]
        for item in items:
            assert {"taskType", "taskUUID", "modelUUID"} <= set(item)  # what the table calls required
            assert uuid.UUID(item["modelUUID"]).version == 4
            assert client.http.get(item["modelURL"]).content == box_glb()
        assert len({item["modelUUID"] for item in items}) == more.get("numberResults", 1)


def test_errors_are_left_out_where_there_are_none(shared):
    done = shared.submit()
    shared.result(done)
    for task in (
        shared.task(),
        {"taskType": "getResponse", "taskUUID": done},
        {"taskType": "ping", "ping": True},
    ):
        assert "errors" not in shared.post(task).json()


def test_cost_is_told_only_to_those_who_ask(start):
    client = start()
    (item,) = client.result(client.submit(includeCost=False))["data"]
    assert "cost" not in item
    assert [entry.cost for entry in client.service.billing()] == [Decimal("0.0256")]


def test_progress_shows_while_a_task_is_processing(start):
    generator = WatchedGenerator(hold=True)
    client = start(generator)
    task_uuid = client.submit()
    wait_until(lambda: generator.images)
    (item,) = client.poll(task_uuid)["data"]
    assert item == {
        "taskType": "3dInference",
        "taskUUID": task_uuid,
        "status": "processing",
        "progress": 42,
    }
    generator.hold = False
    assert client.result(task_uuid)["data"][0]["status"] == "success"


def test_a_sync_task_comes_back_finished_and_without_status(shared):
    task = shared.task(deliveryMethod="sync")
    (item,) = shared.post(task).json()["data"]
    assert "status" not in item
    assert shared.http.get(item["outputs"]["files"][0]["url"]).content == box_glb()
    assert (
        shared.result(task["taskUUID"])["data"][0]["outputs"]["files"][0]["uuid"]
        == (item["outputs"]["files"][0]["uuid"])
    )


def test_a_sync_task_that_takes_too_long_is_not_called_failed(start):
    generator = WatchedGenerator(hold=True)
    client = start(generator, sync_seconds=0.1)
    task = client.task(deliveryMethod="sync")
    answer = client.post(task)
    assert answer.status_code == 504
    (error,) = answer.json()["errors"]
    assert error["code"] == "providerGatewayTimeout"
    assert "taskUUID" not in error
    generator.hold = False
    assert client.result(task["taskUUID"])["data"][0]["status"] == "success"


def test_a_sync_task_that_ends_while_somebody_looks_is_not_waited_for(start, monkeypatch):
    real = Workers._find

    async def look_slowly(self, task_uuid):
        seen = await real(self, task_uuid)
        if asyncio.current_task().get_coro().__name__ != "_work":  # whoever waits, not whoever works
            await asyncio.sleep(0.5)
        return seen

    monkeypatch.setattr(Workers, "_find", look_slowly)
    client = start(seconds=0.15, sync_seconds=60.0)
    assert client.post(client.task(deliveryMethod="sync")).status_code == 200


def test_several_results_have_their_own_seeds_files_and_prices(start):
    client = start()
    task_uuid = client.submit(numberResults=4, seed=2**63 - 2)
    items = client.result(task_uuid)["data"]
    assert [item["seed"] for item in items] == [2**63 - 2, 2**63 - 1, 0, 1]
    assert {item["taskUUID"] for item in items} == {task_uuid}
    assert len({item["outputs"]["files"][0]["uuid"] for item in items}) == 4
    assert [entry.task_uuid for entry in client.service.billing()] == [task_uuid] * 4
    assert sum(entry.cost for entry in client.service.billing()) == Decimal("0.1024")


def test_finished_results_come_with_every_poll_beside_those_still_processing(start):
    class OneByOne(InstantGenerator):
        released = 0

        async def generate(self, request, image, progress=None):
            while request.seed >= self.released:
                await asyncio.sleep(0.005)
            return await super().generate(request, image, progress)

    generator = OneByOne()
    client = start(generator)
    task_uuid = client.submit(numberResults=3, seed=0)
    for released in range(4):
        generator.released = released
        while True:
            states = sorted(item["status"] for item in client.poll(task_uuid)["data"])
            if states.count("success") == released:
                break
        assert states == ["processing"] * (3 - released) + ["success"] * released


def test_one_failed_result_of_several_stands_beside_the_good_ones_and_costs_nothing(start):
    client = start(WatchedGenerator(fail=[11]))
    said = client.result(client.submit(numberResults=3, seed=10))
    assert [item["seed"] for item in said["data"]] == [10, 12]
    (error,) = said["errors"]
    assert error["code"] == "inferenceError"
    assert "seed 11 gave up" in error["message"]
    assert len(client.service.billing()) == 2


def test_a_task_that_fails_is_told_in_errors_and_not_billed(start):
    client = start(WatchedGenerator(fail=[3]))
    task_uuid = client.submit(seed=3)
    said = client.result(task_uuid)
    assert said["data"] == []
    assert said["errors"] == [
        {
            "code": "inferenceError",
            "message": "seed 3 gave up",
            "taskType": "3dInference",
            "taskUUID": task_uuid,
        }
    ]
    assert client.service.billing() == []


def test_an_error_that_is_not_ours_is_not_shown_to_clients(start):
    class Broken(InstantGenerator):
        async def generate(self, request, image, progress=None):
            raise RuntimeError("password=hunter2 at /secret/place.py")

    client = start(Broken())
    (error,) = client.result(client.submit())["errors"]
    assert error["code"] == "processingFailed"
    assert "hunter2" not in json.dumps(error)


def test_without_a_seed_one_below_two_to_the_thirty_two_is_drawn_and_told(start):
    generator = WatchedGenerator()
    client = start(generator)
    seeds = {client.result(client.submit())["data"][0]["seed"] for _ in range(3)}
    assert seeds == {request.seed for request in generator.requests}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_many_tasks_go_in_one_request_and_are_polled_in_one(start):
    client = start()
    tasks = [client.task() for _ in range(20)]
    assert [item["taskUUID"] for item in client.post(*tasks).json()["data"]] == [
        task["taskUUID"] for task in tasks
    ]
    for task in tasks:
        client.result(task["taskUUID"])
    said = client.poll(*(task["taskUUID"] for task in tasks))
    assert {item["status"] for item in said["data"]} == {"success"}
    assert len(said["data"]) == 20
    assert len(client.service.billing()) == 20


def test_a_bad_task_does_not_stop_the_good_ones_beside_it(start):
    client = start()
    good, bad = client.task(), client.task(numberResults=9)
    answer = client.post(bad, good)
    assert answer.status_code == 200
    assert [item["taskUUID"] for item in answer.json()["data"]] == [good["taskUUID"]]
    assert [error["taskUUID"] for error in answer.json()["errors"]] == [bad["taskUUID"]]
    assert client.service.accepted() == [good["taskUUID"]]


def test_the_same_uuid_again_is_a_conflict_and_bought_once(start):
    client = start()
    task = client.task()
    client.post(task)
    client.result(task["taskUUID"])
    for again in (task, task | {"seed": 99}):
        answer = client.post(again)
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        assert error["code"] == "conflictTaskUUID"
        assert error["taskUUID"] == task["taskUUID"]
    assert client.post(client.task(), task).status_code == 200
    assert [entry.task_uuid for entry in client.service.billing()].count(task["taskUUID"]) == 1


def test_the_same_uuid_twice_in_one_request_is_taken_once(start):
    client = start()
    task = client.task()
    said = client.post(task, task).json()
    assert len(said["data"]) == 1
    assert [error["code"] for error in said["errors"]] == ["conflictTaskUUID"]
    client.result(task["taskUUID"])
    assert len(client.service.billing()) == 1


def test_an_unknown_task_gives_no_data_and_no_error(shared):
    answer = shared.post({"taskType": "getResponse", "taskUUID": new_uuid()})
    assert answer.status_code == 200
    assert answer.json() == {"data": []}


def test_task_details_give_the_request_and_the_result(shared):
    task = shared.task(seed=5)
    shared.post(task)
    shared.result(task["taskUUID"])
    (item,) = shared.post({"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}).json()["data"]
    (request,) = item["request"]
    assert request["seed"] == 5
    assert not request["inputs"]["image"].startswith("data:")
    assert item["response"]["data"][0]["status"] == "success"


def test_task_details_after_a_repeated_submit_give_its_rejection(shared):
    task = shared.task()
    shared.post(task)
    shared.result(task["taskUUID"])
    shared.post(task)
    (item,) = shared.post({"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}).json()["data"]
    assert [error["code"] for error in item["response"]["errors"]] == ["conflictTaskUUID"]
    assert shared.poll(task["taskUUID"])["data"][0]["status"] == "success"


def test_task_details_of_an_unknown_task_are_an_error(shared):
    answer = shared.post({"taskType": "getTaskDetails", "taskUUID": new_uuid()})
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "taskNotFound"


def test_a_dry_run_prices_and_checks_and_does_nothing(start):
    generator = WatchedGenerator()
    client = start(generator)
    task = client.task(numberResults=2)
    answer = client.post(task, **{"X-Runware-Dry-Run": "1"})
    (item,) = answer.json()["data"]
    assert item["cost"] == 0.0512
    assert item["taskUUID"] == task["taskUUID"]
    wrong = client.post(client.task(seed=-1), **{"X-Runware-Dry-Run": "1"})
    assert wrong.status_code == 400
    assert client.service.accepted() == []
    assert generator.images == []
    assert client.post(task).status_code == 200


def test_ping_is_answered(shared):
    task_uuid = new_uuid()
    answer = shared.post({"taskType": "ping", "ping": True, "taskUUID": task_uuid})
    assert answer.json() == {"data": [{"taskType": "ping", "taskUUID": task_uuid, "pong": True}]}


def test_the_balance_goes_down_by_exactly_what_was_billed(start):
    client = start(credit_usd=Decimal("1.5"))
    details = {"taskType": "accountManagement", "operation": "getDetails", "taskUUID": new_uuid()}
    before = client.post(details).json()["data"][0]["balance"]
    client.result(client.submit(numberResults=3))
    after = client.post(details).json()["data"][0]
    assert before == {"amount": 1.5, "freeBalance": 0.0, "currency": "USD"}
    assert after["balance"]["amount"] == 1.4232
    assert after["usage"]["total"] == {"credits": 0.0768, "requests": 3}


def test_without_credit_a_task_is_refused_until_there_is_some(start):
    generator = WatchedGenerator(hold=True)
    client = start(generator, credit_usd=Decimal("0.0600"))
    client.submit(numberResults=2)
    answer = client.post(client.task())
    assert answer.status_code == 402
    assert answer.json()["errors"][0]["code"] == "insufficientCredits"
    assert len(client.service.accepted()) == 1
    generator.hold = False


def test_many_at_once_never_spend_more_than_the_credit(start):
    from concurrent.futures import ThreadPoolExecutor

    client = start(credit_usd=Decimal("0.2560"))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post(client.task()).status_code, range(40)))
    assert sorted(answers) == [200] * 10 + [402] * 30
    for task_uuid in client.service.accepted():
        client.result(task_uuid)
    assert sum(entry.cost for entry in client.service.billing()) == Decimal("0.2560")


def test_a_task_that_is_known_is_a_conflict_also_when_the_credit_is_gone(start):
    client = start(credit_usd=Decimal("0.0256"))
    task = client.task()
    client.post(task)
    client.result(task["taskUUID"])
    assert client.post(task).json()["errors"][0]["code"] == "conflictTaskUUID"


def test_the_price_may_depend_on_request_and_time(start):
    def price(request, seconds):
        return Decimal("0.01") if seconds is None else Decimal(request.settings.resolution) / 10_000

    client = start(price=price)
    (item,) = client.result(client.submit(settings={"resolution": 512}))["data"]
    assert item["cost"] == 0.0512
    dry = client.post(client.task(), **{"X-Runware-Dry-Run": "1"}).json()["data"][0]
    assert dry["cost"] == 0.01


def test_a_price_that_is_no_amount_fails_its_task_and_nothing_else(start):
    prices = iter([Decimal("NaN"), Decimal(-1), "free", Decimal("0.123456789012")])

    def price(request, seconds):
        return Decimal(0) if seconds is None else next(prices)

    client = start(price=price, concurrency=1)
    for _ in range(3):
        assert client.result(client.submit())["errors"][0]["code"] == "processingFailed"
    assert client.result(client.submit())["data"][0]["cost"] == 0.123456789
    assert [entry.cost for entry in client.service.billing()] == [Decimal("0.123456789")]


def test_without_a_price_the_generators_own_cost_counts(start):
    client = start(InstantGenerator(cost="0.1234"), price=None)
    assert client.result(client.submit())["data"][0]["cost"] == 0.1234
    assert [entry.cost for entry in client.service.billing()] == [Decimal("0.1234")]


def test_a_generator_that_knows_no_price_gives_results_without_one(start):
    class Priceless(InstantGenerator):
        async def generate(self, request, image, progress=None):
            return [GeneratedModel(box_glb(), request.seed, None, 0.1)]

    client = start(Priceless(), price=None)
    assert "cost" not in client.result(client.submit())["data"][0]


# -- pictures ------------------------------------------------------------------------------------------------


def test_a_square_rgba_png_reaches_the_generator_byte_for_byte(start, photo, picture):
    generator = WatchedGenerator()
    client = start(generator)
    uploaded = client.post({"taskType": "imageUpload", "taskUUID": new_uuid(), "image": picture}).json()
    name = uploaded["data"][0]["imageUUID"]
    for image in (picture, base64.b64encode(photo).decode(), name):
        client.result(client.submit(inputs={"image": image}))
    assert [image.png for image in generator.images] == [photo] * 3
    assert {image.sha256 for image in generator.images} == {hashlib.sha256(photo).hexdigest()}


def test_an_ordinary_photo_is_cut_out_first(start):
    photo = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(photo).ellipse((90, 40, 210, 160), fill="firebrick")
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG", quality=95)
    generator = WatchedGenerator()
    client = start(generator)
    image = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    client.result(client.submit(inputs={"image": image}))
    (given,) = generator.images
    crop = Image.open(io.BytesIO(given.png))
    assert crop.mode == "RGBA"
    assert crop.width == crop.height
    assert 100 <= crop.width <= 140
    assert crop.getpixel((0, 0))[3] == 0
    assert crop.getpixel((crop.width // 2, crop.height // 2))[3] == 255


def test_a_picture_is_fetched_from_its_url(start, photo, tmp_path):
    source = start(folder=tmp_path / "source")
    stored = source.post(
        {
            "taskType": "mediaStorage",
            "operation": "upload",
            "taskUUID": new_uuid(),
            "media": source.picture,
        }
    ).json()["data"][0]
    generator = WatchedGenerator()
    client = start(generator, folder=tmp_path / "target")
    assert client.result(client.submit(inputs={"image": stored["mediaURL"]}))["data"]
    assert generator.images[0].png == photo


def test_a_picture_at_a_private_address_is_refused_unless_allowed(start, receiver):
    client = start(allow_private_addresses=False)
    (error,) = client.result(client.submit(inputs={"image": f"{receiver.origin}/a.png?token=s3cret"}))[
        "errors"
    ]
    assert error["code"] == "downloadFailed"
    assert "s3cret" not in error["message"]
    assert receiver.received == []


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "http://0.0.0.0/x"]
)
def test_metadata_addresses_are_refused_even_where_private_ones_are_allowed(start, address):
    client = start()
    (error,) = client.result(client.submit(inputs={"image": address}))["errors"]
    assert error["code"] == "downloadFailed"
    assert client.service.billing() == []


def test_a_picture_that_shows_nothing_fails_its_task_only(shared):
    empty = io.BytesIO()
    Image.new("RGBA", (64, 32)).save(empty, "PNG")
    image = "data:image/png;base64," + base64.b64encode(empty.getvalue()).decode()
    assert shared.result(shared.submit(inputs={"image": image}))["errors"][0]["code"] == "invalidImage"
    assert shared.result(shared.submit())["data"]


def test_an_upload_can_be_fetched_and_deleted_and_is_gone_then(start, photo):
    client = start()
    upload = {"taskType": "mediaStorage", "operation": "upload", "taskUUID": new_uuid()}
    item = client.post(upload | {"media": client.picture}).json()["data"][0]
    assert client.http.get(item["mediaURL"]).content == photo
    again = client.post({"taskType": "imageUpload", "image": client.picture}).json()["data"][0]
    assert again["imageUUID"] == item["mediaUUID"]
    delete = upload | {"operation": "delete", "media": item["mediaUUID"]}
    assert client.post(delete).json()["data"][0]["mediaUUID"] == item["mediaUUID"]
    assert client.http.get(item["mediaURL"]).status_code == 404
    assert client.post(delete).json()["errors"][0]["code"] == "mediaNotFound"
    refused = client.post(client.task(inputs={"image": item["mediaUUID"]}))
    assert refused.json()["errors"][0]["code"] == "mediaNotFound"
    assert list((client.service.folder / "media").iterdir()) == []


def test_an_upload_deleted_under_a_waiting_task_fails_it(start):
    generator = WatchedGenerator(hold=True)
    client = start(generator, concurrency=1)
    item = client.post({"taskType": "imageUpload", "image": client.picture}).json()["data"][0]
    first = client.submit()
    second = client.submit(inputs={"image": item["imageUUID"]})
    client.post({"taskType": "mediaStorage", "operation": "delete", "media": item["imageUUID"]})
    generator.hold = False
    client.result(first)
    assert client.result(second)["errors"][0]["code"] == "invalidImage"


# -- files ---------------------------------------------------------------------------------------------------


def test_a_link_that_was_tampered_with_is_refused(shared):
    url = shared.file_url(shared.submit())
    assert shared.http.get(url).status_code == 200
    for wrong in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("expires=", "expires=9"),
        url.partition("?")[0],
        url.replace("expires=", "expires=é"),
        url.replace("/files/", "/files/..%2F"),
    ):
        assert shared.http.get(wrong).status_code in {403, 404}
        assert box_glb() not in shared.http.get(wrong).content


def test_a_link_dies_after_the_time_to_live_and_the_task_says_so(start):
    client = start(result_seconds=1)
    task_uuid = client.submit()
    url = client.file_url(task_uuid)
    wait_until(lambda: client.http.get(url).status_code == 403, "the link's end")
    client.service.sweep()
    (error,) = client.poll(task_uuid)["errors"]
    assert error["code"] == "mediaExpired"
    assert list((client.service.folder / "files").iterdir()) == []


def test_ttl_of_a_task_is_what_its_link_says(start):
    import re
    import time

    client = start(result_seconds=10_000)
    for ttl in (None, 60):
        url = client.file_url(client.submit(**({"ttl": ttl} if ttl else {})))
        left = int(re.search(r"expires=(\d+)", url)[1]) - time.time()
        assert (9_000 < left <= 10_001) if ttl is None else (30 < left <= 61)


@pytest.mark.parametrize("ttl", [10**20, 10**400], ids=["21 digits", "401 digits"])
def test_a_time_to_live_beyond_all_measure_is_a_long_one(start, ttl):
    client = start()
    assert client.http.get(client.file_url(client.submit(ttl=ttl))).content == box_glb()


def test_links_begin_with_the_public_url_where_there_is_one(start):
    client = start(public_url="https://models.example.test/api/")
    assert client.file_url(client.submit()).startswith("https://models.example.test/api/files/")
