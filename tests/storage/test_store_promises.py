"""What a store promises, the same on a folder and on S3."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trellis_pipeline.errors import BlobCorrupt, BlobMissing, ConfigError, StorageError
from trellis_pipeline.storage.store import BlobRef, check_path, open_store

UNSAFE_PATHS = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\x00b", "a\nb"]
UNSAFE_PATHS += ["blobs/ab/x", "BLOBS/x", ".incoming/x", "x" * 256, "a/" * 450 + "b", "\ud800"]
UNUSABLE_URLS = [
    "models",
    "/data/models",
    "file://relative",
    "file://host/x",
    "file:///",
    "s3://",
    "gs://b/x",
    "",
]
UNUSABLE_URLS += ["postgresql://u:hunter2@db/x", "s3://key:hunter2@bucket/x", "s3://bucket/x?secret=hunter2"]


def overwrite_blob(store, ref, data, s3_client):
    """Damage a blob behind the store's back."""
    if store.url.startswith("file:"):
        location = store.location("x").removesuffix("/x") + "/" + ref.key
        import pathlib

        pathlib.Path(location).unlink()
        pathlib.Path(location).write_bytes(data)
    else:
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{ref.key}", Body=data)


def test_a_blob_comes_back_byte_for_byte_under_the_name_of_its_content(store):
    data = bytes(range(256)) * 500
    ref = store.put_blob(data, ".glb")
    assert ref == BlobRef(hashlib.sha256(data).hexdigest(), len(data), ".glb")
    assert ref.key == f"blobs/{ref.sha256[:2]}/{ref.sha256[2:4]}/{ref.sha256}.glb"
    assert store.has_blob(ref)
    assert store.get_blob(ref) == data


def test_putting_the_same_bytes_again_gives_the_same_blob(store):
    assert store.put_blob(b"same", ".bin") == store.put_blob(b"same", ".bin")


def test_an_empty_blob_is_a_blob(store):
    assert store.get_blob(store.put_blob(b"", "")) == b""


def test_a_blob_that_was_never_put_is_missing_by_name(store):
    ref = BlobRef.of(b"never stored", ".glb")
    assert not store.has_blob(ref)
    with pytest.raises(BlobMissing, match=ref.sha256):
        store.get_blob(ref)


@pytest.mark.parametrize("damage", [b"other bytes", b"12345", b""])
def test_a_damaged_blob_is_refused_and_putting_it_again_repairs_it(store, s3_client, damage):
    ref = store.put_blob(b"the right bytes", ".bin")
    overwrite_blob(store, ref, damage, s3_client)
    with pytest.raises(BlobCorrupt, match=ref.sha256):
        store.get_blob(ref)
    store.put_blob(b"the right bytes", ".bin")
    assert store.get_blob(ref) == b"the right bytes"


def test_a_published_path_shows_the_blob_and_can_move_to_another(store):
    first = store.put_blob(b"first", ".glb")
    second = store.put_blob(b"second", ".glb")
    assert store.publish("demo/CHAIR-7/model.glb", first) == store.location("demo/CHAIR-7/model.glb")
    assert store.read("demo/CHAIR-7/model.glb") == b"first"
    store.publish("demo/CHAIR-7/model.glb", second)
    assert store.read("demo/CHAIR-7/model.glb") == b"second"
    assert store.get_blob(first) == b"first"


def test_publishing_the_same_blob_twice_leaves_one_path_and_nothing_else(store):
    ref = store.put_blob(b"model", ".glb")
    for _ in range(3):
        store.publish("demo/A/model.glb", ref)
    assert list(store.list()) == ["demo/A/model.glb"]


def test_a_blob_that_is_not_there_cannot_be_published(store):
    with pytest.raises(BlobMissing, match=r"demo/A/model\.glb"):
        store.publish("demo/A/model.glb", BlobRef.of(b"nowhere", ".glb"))
    assert not store.exists("demo/A/model.glb")


def test_replacing_a_published_path_does_not_touch_the_blob_behind_it(store):
    ref = store.put_blob(b"model", ".glb")
    store.publish("demo/A/model.glb", ref)
    store.write("demo/A/model.glb", b"a note instead")
    assert store.get_blob(ref) == b"model"
    store.publish("demo/A/model.glb", ref)
    store.delete("demo/A/model.glb")
    assert store.get_blob(ref) == b"model"


def test_a_record_is_replaced_whole(store):
    store.write("demo/A/record.json", b'{"version": 1, "long": "xxxxxxxxxxxxxxxx"}')
    store.write("demo/A/record.json", b"{}")
    assert store.read("demo/A/record.json") == b"{}"


def test_reading_what_is_not_there_says_so(store):
    store.write("demo/A/record.json", b"{}")
    for path in ["demo/B/record.json", "demo/A", "demo/A/record.json/below"]:
        assert not store.exists(path)
        with pytest.raises(BlobMissing, match="demo"):
            store.read(path)


def test_a_record_is_created_once_and_the_second_creator_is_told(store):
    assert store.create("generations/abc/certificate.json", b"first")
    assert not store.create("generations/abc/certificate.json", b"second")
    assert store.read("generations/abc/certificate.json") == b"first"


def test_deleting_twice_is_harmless_and_the_name_is_free_again(store):
    store.create("a/b.json", b"1")
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert not store.exists("a/b.json")
    assert store.create("a/b.json", b"2")


def test_many_threads_creating_one_record_leave_one_of_their_contents(store):
    gate = threading.Barrier(8)

    def create(number):
        gate.wait()
        return store.create("race.json", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(8)))
    if store.url.startswith("file:"):  # moto's conditional put is not atomic, so only the folder proves this
        assert made.count(True) == 1
        assert store.read("race.json") == b"%d" % made.index(True)
    assert made[int(store.read("race.json"))]


def test_many_threads_putting_and_publishing_the_same_blob_all_succeed(store):
    def work(number):
        ref = store.put_blob(b"shared model", ".glb")
        store.publish("demo/A/model.glb", ref)
        return store.get_blob(ref)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(40))) == {b"shared model"}
    assert list(store.list()) == ["demo/A/model.glb"]


def test_the_listing_holds_every_readable_path_sorted_and_no_blob(store):
    paths = [
        "a.json",
        "a/b.json",
        "a-b/c.json",
        "a/deep/c.json",
        "zebra/x",
        "blobs.json",
        "Ω/é.json",
        "c/100% #1.json",
    ]
    for path in paths:
        store.write(path, b"x")
    store.publish("zebra/model.glb", store.put_blob(b"blob", ".glb"))
    assert list(store.list()) == sorted([*paths, "zebra/model.glb"])
    assert list(store.list("a")) == ["a/b.json", "a/deep/c.json"]
    assert list(store.list("a/")) == ["a/b.json", "a/deep/c.json"]
    assert list(store.list("nothing/here")) == []


def test_paths_with_any_printable_name_survive_the_round_trip(store):
    for name in ["Stuhl Größe L", "a+b&c=d?e#f", "ｗｉｄｅ", "100%", "~tilde", "it's"]:
        store.write(f"skus/{name}/record.json", name.encode())
        assert store.read(f"skus/{name}/record.json") == name.encode()


@pytest.mark.parametrize("path", UNSAFE_PATHS)
def test_a_path_that_could_leave_its_place_is_refused_by_every_operation(store, path):
    ref = store.put_blob(b"x", ".bin")
    for operation in [
        lambda: store.write(path, b"x"),
        lambda: store.create(path, b"x"),
        lambda: store.read(path),
        lambda: store.exists(path),
        lambda: store.delete(path),
        lambda: store.publish(path, ref),
        lambda: store.location(path),
    ]:
        with pytest.raises(StorageError):
            operation()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.sampled_from("ab./\\\0\n~ é"), max_size=12))
def test_whatever_passes_the_path_check_stays_below_the_root(tmp_path_factory, path):
    import os.path

    try:
        check_path(path)
    except StorageError:
        return
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"


@pytest.mark.parametrize(
    ("sha256", "size", "suffix"),
    [
        ("ab", 1, ".glb"),
        ("../" * 21 + "x", 1, ""),
        ("A" * 64, 1, ""),
        ("a" * 64, -1, ""),
        ("a" * 64, 1, "/../x"),
    ],
)
def test_a_damaged_reference_never_becomes_a_path(sha256, size, suffix):
    with pytest.raises(StorageError):
        BlobRef(sha256, size, suffix)


@pytest.mark.parametrize("url", UNUSABLE_URLS)
def test_a_store_url_that_cannot_work_is_refused_without_repeating_secrets(url):
    with pytest.raises(ConfigError) as caught:
        open_store(url, s3_client=lambda: None)
    assert "hunter2" not in str(caught.value)
    assert "://" in str(caught.value)


def test_a_bucket_without_a_client_says_what_to_configure():
    with pytest.raises(ConfigError, match="S3 resource"):
        open_store("s3://bucket/prefix")


def test_the_url_opens_the_same_store_again(store, s3_client):
    ref = store.put_blob(b"x", ".bin")
    again = open_store(store.url, s3_client=lambda: s3_client)
    assert again.url == store.url
    assert again.get_blob(ref) == b"x"
