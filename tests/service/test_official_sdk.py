"""The provider's own Python SDK takes our service for the provider."""

from __future__ import annotations

import asyncio

import pytest
from small_catalogs import box_glb
from wire_client import KEY, new_uuid

pytest.importorskip(
    "runware.client",
    reason="the official SDK is not installed: pip install runware-sdk==1.8.0 (development only)",
)


def task(picture, **more):
    return {
        "taskType": "3dInference",
        "taskUUID": new_uuid(),
        "model": "microsoft:trellis-2@4b",
        "includeCost": True,
        "inputs": {"image": picture},
        **more,
    }


def with_sdk(service, work, key=KEY):
    """Run `work(sdk)` with the SDK pointed at a service, over REST."""
    from runware import Runware

    async def main():
        async with Runware(api_key=key, transport="rest", http_base_url=service.base_url) as sdk:
            return await work(sdk)

    return asyncio.run(main())


def files_of(items):
    return [file["url"] for item in items for file in item["outputs"]["files"]]


def test_the_official_sdk_completes_a_3d_inference(start, picture):
    client = start(api_keys=[KEY], seconds=0.5)
    wanted = task(picture, seed=11, settings={"resolution": 512, "shapeSlat": {"steps": 20}})

    (item,) = with_sdk(client.service, lambda sdk: sdk.run(wanted))

    assert (item["taskUUID"], item["seed"], item["cost"]) == (wanted["taskUUID"], 11, 0.0256)
    assert client.http.get(files_of([item])[0]).content == box_glb()
    assert [entry.task_uuid for entry in client.service.billing()] == [wanted["taskUUID"]]


def test_the_official_sdk_gets_a_sync_result(start, picture):
    client = start()
    (item,) = with_sdk(client.service, lambda sdk: sdk.run(task(picture, deliveryMethod="sync")))
    assert client.http.get(files_of([item])[0]).content == box_glb()


def test_the_official_sdk_gets_all_of_several_results(start, picture):
    client = start(seconds=0.2)
    items = with_sdk(client.service, lambda sdk: sdk.run(task(picture, numberResults=3, seed=1)))
    assert sorted(item["seed"] for item in items) == [1, 2, 3]
    assert len(set(files_of(items))) == 3


def test_the_official_sdk_uploads_a_picture_and_uses_it_and_reads_the_balance(start, picture):
    client = start()

    async def work(sdk):
        (stored,) = await sdk.media_storage({"operation": "upload", "media": picture})
        (item,) = await sdk.run(task(stored["mediaUUID"]))
        (account,) = await sdk.account_management({"operation": "getDetails"})
        (details,) = await sdk.get_task_details({"taskUUID": item["taskUUID"]})
        (polled,) = await sdk.get_response({"taskUUID": item["taskUUID"]})
        return item, account, details, polled

    item, account, details, polled = with_sdk(client.service, work)
    assert account["balance"]["amount"] == 999_999.9744
    assert details["response"]["data"][0]["taskUUID"] == item["taskUUID"]
    assert polled["status"] == "success"


def test_the_official_sdk_understands_our_refusals(start, picture):
    from runware.errors import RunwareError

    client = start(api_keys=[KEY])
    with pytest.raises(RunwareError) as refused:
        with_sdk(client.service, lambda sdk: sdk.run(task(picture)), key="wrong")
    assert (refused.value.code, refused.value.status_code) == ("auth", 401)
    with pytest.raises(RunwareError) as refused:
        with_sdk(client.service, lambda sdk: sdk.run(task(picture, settings={"resolution": 7})))
    assert (refused.value.code, refused.value.parameter) == ("validation", "settings.resolution")
    assert client.service.accepted() == []
