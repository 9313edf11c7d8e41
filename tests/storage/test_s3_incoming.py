"""What a provider uploads into one's own bucket: looked at, named by its hash, copied inside S3."""

import contextlib
import json
import struct

import pytest

from trellis_pipeline.errors import ModelFileError, StorageError, StorageUnavailable
from trellis_pipeline.mesh.glb_container import parse_head
from trellis_pipeline.storage.s3_incoming import Incoming
from trellis_pipeline.storage.store import BlobRef

MOST = 10_000_000


def glb(binary=b"", generator="somebody"):
    """A GLB with a binary chunk, whose JSON is as long as `generator` makes it."""
    document = json.dumps({"asset": {"version": "2.0", "generator": generator}}).encode()
    document += b" " * (-len(document) % 4)
    tail = struct.pack("<II", len(binary), 0x004E4942) + binary
    length = 20 + len(document) + len(tail)
    return struct.pack("<4sIIII", b"glTF", 2, length, len(document), 0x4E4F534A) + document + tail


GLB = glb(bytes(range(256)) * 8192)


@pytest.fixture
def place(s3_store, s3_client):
    """An address for an upload; `upload` brings bytes there, `calls` lists what was asked of S3 since."""

    class Place:
        incoming = Incoming(s3_store, "incoming/task.glb")
        calls: list[str] = []

        def upload(self, data, **more):
            s3_client.put_object(
                Bucket=s3_store.calls.bucket, Key="shop/spring/incoming/task.glb", Body=data, **more
            )
            self.calls.clear()

        def adopt(self, most=MOST):
            return self.incoming.adopt(".glb", most, parse_head)

    def note(model, **_):
        place.calls.append(model.name)

    place = Place()
    s3_client.meta.events.register("before-call.s3", note)
    yield place
    s3_client.meta.events.unregister("before-call.s3", note)


@contextlib.contextmanager
def before(client, operation, act):
    """Does something in the middle: just before the next request of this kind is made."""
    todo = [act]

    def once(**_):
        if todo:
            todo.pop()()

    client.meta.events.register(f"before-call.s3.{operation}", once)
    yield
    client.meta.events.unregister(f"before-call.s3.{operation}", once)


@pytest.mark.parametrize("data", [GLB, glb(b"1234", "x" * 200_000), glb()])
def test_an_upload_becomes_a_blob_and_no_byte_of_it_is_sent_back(place, s3_store, data):
    assert place.adopt() is None
    place.upload(data, ContentType="application/octet-stream")
    ref = place.adopt()
    assert ref == BlobRef.of(data, ".glb")
    assert "CopyObject" in place.calls
    assert "PutObject" not in place.calls
    assert s3_store.get_blob(ref) == data
    assert s3_store.holds(ref)
    assert s3_store.calls.head(ref.key)["ContentType"] == "model/gltf-binary"


def test_an_upload_that_is_in_the_store_already_is_not_copied_again(place, s3_store):
    place.upload(GLB)
    s3_store.put_blob(GLB, ".glb")
    place.calls.clear()
    assert place.adopt() == BlobRef.of(GLB, ".glb")
    assert "CopyObject" not in place.calls


@pytest.mark.parametrize("data", [b"", b"<html>", GLB[:-4], GLB + b"more", b"glTF" + bytes(100)])
def test_an_upload_that_is_no_whole_glb_is_said_once_and_may_still_be_replaced(place, data):
    place.upload(data)
    with pytest.raises(ModelFileError):
        place.adopt()
    assert place.adopt() is None
    place.upload(GLB)
    assert place.adopt() == BlobRef.of(GLB, ".glb")


def test_an_upload_that_is_too_large_or_something_else_is_not_read(place):
    place.upload(GLB)
    with pytest.raises(StorageError, match="at most 1000"):
        place.adopt(most=1000)
    place.upload(glb(b"5678"), ContentType="text/html; charset=utf-8")
    with pytest.raises(StorageError, match="text/html"):
        place.adopt()
    assert place.calls == ["HeadObject"]


@pytest.mark.parametrize("operation", ["GetObject", "CopyObject"])
def test_an_upload_that_is_replaced_while_it_is_looked_at_is_looked_at_again(
    place, s3_store, s3_client, operation
):
    other = glb(b"5678", "another")
    place.upload(GLB)
    with before(s3_client, operation, lambda: place.upload(other)):
        first = place.adopt()
    assert first is None
    assert place.adopt() == BlobRef.of(other, ".glb")
    assert not s3_store.has_blob(BlobRef.of(GLB, ".glb"))


def test_a_bucket_that_stops_answering_is_unavailable(place, s3_client):
    place.upload(GLB)

    def fail():
        raise ConnectionError("hunter2sentinel")

    with before(s3_client, "GetObject", fail), pytest.raises(StorageUnavailable) as caught:
        place.adopt()
    assert "hunter2sentinel" not in str(caught.value)
    assert place.adopt() == BlobRef.of(GLB, ".glb")  # it answers again, and the upload was never bad
