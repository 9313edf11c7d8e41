"""An S3 bucket as artifact store, over a boto3 client that somebody else configured.

S3 replaces objects in one step and refuses a conditional put that comes second, so the promises of the
protocol are S3's own. What needs care is the network between: an upload is checked on arrival by its sha256,
every object carries that hash as metadata, and a conditional create whose answer was lost recognises its own
object by a token when the retry is refused.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError

from trellis_pipeline.errors import BlobCorrupt, BlobMissing, StorageUnavailable
from trellis_pipeline.storage.s3_calls import CONFLICT, EXISTS, MISSING, Refused, S3Calls
from trellis_pipeline.storage.store import BLOB_FOLDER, BlobRef, check_path

_CREATE_ATTEMPTS = 6
_GET_ATTEMPTS = 3

# So that a browser opening an object shows it instead of saving it.
_CONTENT_TYPES = {
    "glb": "model/gltf-binary",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "usdz": "model/vnd.usdz+zip",
}


class S3Store:
    """Blobs and readable paths below one prefix of a bucket. Implements `ArtifactStore`.

    Publishing is a copy inside S3: no bytes pass through this machine. Unlike a folder, S3 allows a path and
    paths below it at once (`a` and `a/b`); do not rely on it.
    """

    def __init__(self, bucket: str, prefix: str, client: Callable[[], Any]) -> None:
        self.calls = S3Calls(bucket, f"{prefix}/" if prefix else "", client)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return self.calls.url

    # -- blobs ---------------------------------------------------------------------------------------------

    def put_blob(self, data: bytes, suffix: str) -> BlobRef:
        """See `ArtifactStore.put_blob`. Asks first: a repeated run then uploads nothing."""
        ref = BlobRef.of(data, suffix)
        if not self.holds(ref):
            self._put(ref.key, data)
        return ref

    def holds(self, ref: BlobRef) -> bool:
        """Whether the blob is there as this class stores it; one without its hash is to be replaced."""
        head = self.calls.head(ref.key)
        return bool(head and head.get("ContentLength") == ref.size and _stored_sha256(head) == ref.sha256)

    def get_blob(self, ref: BlobRef) -> bytes:
        """See `ArtifactStore.get_blob`."""
        data, _ = self._get(ref.key)
        if not ref.matches(data):
            raise BlobCorrupt(
                f"{self.url}/{ref.key}: the bytes do not hash to the name; delete it, run the product again"
            )
        return data

    def has_blob(self, ref: BlobRef) -> bool:
        """See `ArtifactStore.has_blob`."""
        head = self.calls.head(ref.key)
        return head is not None and head.get("ContentLength") == ref.size

    # -- readable paths --------------------------------------------------------------------------------------

    def publish(self, path: str, ref: BlobRef) -> str:
        """See `ArtifactStore.publish`."""
        target = self.calls.root + check_path(path)
        source = {"Bucket": self.calls.bucket, "Key": self.calls.root + ref.key}
        try:
            self.calls.call("copy_object", path, MISSING, Key=target, CopySource=source)
        except Refused:
            raise BlobMissing(
                f"{path}: cannot publish {ref.key}, it is not in {self.url}; run the product again"
            ) from None
        return self.location(path)

    def write(self, path: str, data: bytes) -> None:
        """See `ArtifactStore.write`."""
        self._put(check_path(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """See `ArtifactStore.create`. S3 answers 409 where two creators meet; the put is then repeated."""
        check_path(path)
        token = uuid.uuid4().hex
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                self._put(path, data, EXISTS | CONFLICT, token=token, IfNoneMatch="*")
            except Refused as refused:
                if refused.code in EXISTS:
                    # boto3 repeats a put whose answer was lost: what is "already there" may be ours.
                    head = self.calls.head(path)
                    return head is not None and head.get("Metadata", {}).get("created-by") == token
                time.sleep(0.02 * 2**attempt)
            else:
                return True
        raise StorageUnavailable(
            f"{self.url}/{path}: other writers kept creating it at the same time; try again later"
        )

    def read(self, path: str) -> bytes:
        """See `ArtifactStore.read`. Raises BlobCorrupt where they do not match their stored hash."""
        data, stored = self._get(check_path(path))
        if stored and hashlib.sha256(data).hexdigest() != stored:
            raise BlobCorrupt(
                f"{self.location(path)}: the bytes do not match their hash; run the product again"
            )
        return data

    def exists(self, path: str) -> bool:
        """See `ArtifactStore.exists`."""
        return self.calls.head(check_path(path)) is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `ArtifactStore.list`."""
        folder = f"{check_path(prefix.rstrip('/'))}/" if prefix else ""
        blobs = f"{self.calls.root}{BLOB_FOLDER}/"
        start: dict[str, Any] = {}
        while True:
            page = self.calls.call("list_objects_v2", folder, Prefix=self.calls.root + folder, **start)
            keys = [str(item["Key"]) for item in page.get("Contents", [])]
            readable = [key for key in keys if not key.startswith(blobs) and not key.endswith("/")]
            yield from (key[len(self.calls.root) :] for key in readable)
            if not keys or not page.get("IsTruncated"):
                return
            # StartAfter instead of continuation tokens lets the listing step over all blobs at once
            # ("0" is the character after "/"), of which there are many more than readable paths.
            start = {"StartAfter": f"{blobs[:-1]}0" if keys[-1].startswith(blobs) else keys[-1]}

    def delete(self, path: str) -> None:
        """See `ArtifactStore.delete`."""
        self.calls.call("delete_object", path, Key=self.calls.root + check_path(path))

    def location(self, path: str) -> str:
        """`s3://bucket/prefix/path`."""
        return f"{self.url}/{check_path(path)}"

    # -- how -------------------------------------------------------------------------------------------------

    def _put(
        self,
        key: str,
        data: bytes,
        expected: frozenset[str] = frozenset(),
        *,
        token: str = "",
        **conditions: str,
    ) -> None:
        digest = hashlib.sha256(data)
        self.calls.call(
            "put_object",
            key,
            expected,
            Key=self.calls.root + key,
            Body=data,
            ContentType=content_type(key),
            ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
            Metadata={"sha256": digest.hexdigest()} | ({"created-by": token} if token else {}),
            **conditions,
        )

    def _get(self, key: str) -> tuple[bytes, str]:
        """The bytes and the hash stored with them. boto3 repeats requests, but not bodies that break off."""
        for _ in range(_GET_ATTEMPTS):
            try:
                answer = self.calls.call("get_object", key, MISSING, Key=self.calls.root + key)
            except Refused:
                raise BlobMissing(f"{key}: not in {self.url}; run the product again to make it") from None
            # Not `with answer["Body"] as body`: that gives the raw stream, which misses a missing end.
            with contextlib.suppress(BotoCoreError, OSError), contextlib.closing(answer["Body"]) as body:
                return body.read(), _stored_sha256(answer)
        raise self.calls.unavailable("get_object", key, "the answer breaks off each time; check the network")


def content_type(key: str) -> str:
    """What an object of this name says that it is."""
    return _CONTENT_TYPES.get(key.rpartition(".")[2].lower(), "application/octet-stream")


def _stored_sha256(answer: dict[str, Any]) -> str:
    return str(answer.get("Metadata", {}).get("sha256", ""))
