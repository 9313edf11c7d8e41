"""A bucket as store when the network or the server misbehaves, on the real wire over loopback.

Faults are put in with botocore's own `before-send` hook, below everything that retries and parses.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError

from trellis_pipeline.errors import BlobMissing, StorageUnavailable
from trellis_pipeline.storage.store import BlobRef, open_store

SECRET = "hunter2sentinel"


class Raw:
    """The body of an answer, as botocore reads it."""

    def __init__(self, body):
        self.body = body

    def stream(self, **kwargs):
        yield self.body

    def read(self, *args, **kwargs):
        body, self.body = self.body, b""
        return body

    def close(self):
        self.body = b""


def answer(status, code):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    return AWSResponse("http://127.0.0.1/", status, {"content-type": "application/xml"}, Raw(body))


@contextlib.contextmanager
def hooked(client, operation, handler):
    event = f"before-send.s3.{operation}"
    client.meta.events.register(event, handler)
    try:
        yield
    finally:
        client.meta.events.unregister(event, handler)


def refusing(client, operation, status, code, times=1000):
    left = iter(range(times))
    return hooked(
        client, operation, lambda **_: answer(status, code) if next(left, None) is not None else None
    )


def test_a_conflict_between_creators_is_tried_again(s3_client, s3_store):
    with refusing(s3_client, "PutObject", 409, "ConditionalRequestConflict", times=2):
        assert s3_store.create("once.json", b"first")
    assert s3_store.read("once.json") == b"first"


def test_a_conflict_that_never_ends_is_reported_as_unavailable(s3_client, s3_store):
    with (
        refusing(s3_client, "PutObject", 409, "ConditionalRequestConflict"),
        pytest.raises(StorageUnavailable, match=r"once\.json.*try again later"),
    ):
        s3_store.create("once.json", b"first")


def test_a_creator_whose_answer_was_lost_still_learns_that_it_was_the_one(s3_client, s3_store):
    from botocore.httpsession import URLLib3Session

    lost = []

    def deliver_and_lose_the_answer(request, **_):
        if not lost:
            lost.append(URLLib3Session().send(request).status_code)
            raise ConnectionClosedError(endpoint_url=request.url)

    with hooked(s3_client, "PutObject", deliver_and_lose_the_answer):
        assert s3_store.create("once.json", b"mine")
    assert lost == [200]
    assert not s3_store.create("once.json", b"second")
    assert s3_store.read("once.json") == b"mine"


def test_a_server_busy_for_a_moment_is_asked_again(s3_client, s3_store):
    with refusing(s3_client, "PutObject", 503, "SlowDown", times=1):
        ref = s3_store.put_blob(b"model", ".glb")
    assert s3_store.get_blob(ref) == b"model"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "access denied; grant"),
        (403, "InvalidAccessKeyId", "access key is unknown"),
        (404, "NoSuchBucket", "bucket does not exist"),
        (501, "NotImplemented", "conditional writes"),
        (418, "Teapot", "S3 answered Teapot"),
    ],
)
def test_a_refusal_names_the_path_and_the_way_out_and_repeats_nothing_the_server_said(
    s3_client, s3_store, status, code, words
):
    with (
        refusing(s3_client, "PutObject", status, code),
        pytest.raises(StorageUnavailable, match=words) as caught,
    ):
        s3_store.create("demo/A/record.json", b"{}")
    assert "demo/A/record.json" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_bucket_that_does_not_exist_is_named(s3_client):
    store = open_store("s3://no-such-bucket-here/prefix", s3_client=lambda: s3_client)
    with pytest.raises(StorageUnavailable, match=r"no-such-bucket-here.*does not exist"):
        store.put_blob(b"x", ".bin")
    with pytest.raises(StorageUnavailable, match="does not exist"):
        list(store.list())
    with pytest.raises(StorageUnavailable, match="does not exist"):
        store.read("a.json")


def test_no_network_is_reported_without_endpoint_or_credentials(caplog):
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=f"http://user:{SECRET}@127.0.0.1:9/",  # nothing listens on the discard port
        region_name="us-east-1",
        aws_access_key_id=SECRET,
        aws_secret_access_key=SECRET,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2),
    )
    store = open_store("s3://models/shop", s3_client=lambda: client)
    caplog.set_level(logging.INFO)
    ref = BlobRef.of(b"x", ".bin")
    for operation in [
        lambda: store.put_blob(b"x", ".bin"),
        lambda: store.get_blob(ref),
        lambda: store.publish("a", ref),
        lambda: store.create("a", b"x"),
        lambda: list(store.list()),
    ]:
        with pytest.raises(StorageUnavailable, match="check network and endpoint") as caught:
            operation()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert SECRET not in caplog.text + repr(store) + store.url + store.location("a")


def test_missing_credentials_say_where_to_set_them(s3_endpoint, monkeypatch):
    import boto3

    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    client = boto3.Session().client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    store = open_store("s3://models/shop", s3_client=lambda: client)
    with pytest.raises(StorageUnavailable, match="no S3 credentials"):
        store.put_blob(b"x", ".bin")


def test_an_answer_cut_off_in_the_middle_is_never_taken_for_the_whole(s3_client, s3_store):
    ref = s3_store.put_blob(b"x" * 1000, ".bin")

    def cut(request, **_):
        return AWSResponse(request.url, 200, {"content-length": "1000"}, Raw(b"x" * 400))

    with hooked(s3_client, "GetObject", cut), pytest.raises(StorageUnavailable, match=ref.sha256):
        s3_store.get_blob(ref)
    left = iter(range(2))
    with hooked(
        s3_client, "GetObject", lambda **given: cut(**given) if next(left, None) is not None else None
    ):
        assert s3_store.get_blob(ref) == b"x" * 1000


def test_a_long_listing_comes_page_by_page_and_steps_over_the_blobs(s3_client, s3_store):
    pages = []

    def small_pages(params, **_):
        params["query_string"]["max-keys"] = "7"
        pages.append(params["query_string"].get("start-after"))

    for number in range(40):
        s3_store.put_blob(b"%d" % number, ".bin")
    paths = [f"{letter}/{number:02}.json" for letter in "az" for number in range(15)]
    for path in paths:
        s3_store.write(path, b"{}")
    s3_client.meta.events.register("before-call.s3.ListObjectsV2", small_pages)
    try:
        assert list(s3_store.list()) == paths
        assert list(s3_store.list("z")) == paths[15:]
    finally:
        s3_client.meta.events.unregister("before-call.s3.ListObjectsV2", small_pages)
    assert len(pages) < 12  # 70 keys in pages of 7, with the 40 blobs seen once at most


def test_an_object_carries_its_hash_and_a_type_a_browser_can_show(s3_client, s3_store):
    ref = s3_store.put_blob(b"model", ".glb")
    s3_store.publish("demo/A/model.glb", ref)
    bucket = s3_store.url.removeprefix("s3://").partition("/")[0]
    head = s3_client.head_object(Bucket=bucket, Key="shop/spring/demo/A/model.glb")
    assert head["ContentType"] == "model/gltf-binary"
    assert head["Metadata"]["sha256"] == ref.sha256


def test_nothing_outside_the_prefix_is_listed_or_needed(s3_client, s3_store):
    bucket = s3_store.url.removeprefix("s3://").partition("/")[0]
    s3_client.put_object(Bucket=bucket, Key="shop/spring-sale/other.json", Body=b"{}")
    s3_client.put_object(Bucket=bucket, Key="top.json", Body=b"{}")
    s3_store.write("mine.json", b"{}")
    assert list(s3_store.list()) == ["mine.json"]
    whole = open_store(f"s3://{bucket}", s3_client=lambda: s3_client)
    assert list(whole.list()) == ["shop/spring-sale/other.json", "shop/spring/mine.json", "top.json"]


def test_the_client_is_made_once_and_only_when_it_is_needed(s3_client, s3_store):
    made = []

    def client():
        made.append(1)
        return s3_client

    store = open_store(s3_store.url, s3_client=client)
    assert made == []
    threads = [threading.Thread(target=store.exists, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    with pytest.raises(BlobMissing):
        store.read("a")
